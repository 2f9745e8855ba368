//! The two applications on the lab's cluster: set up equally, found, and removed.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::report::Each;
use super::usage::{Pod, Watched};
use crate::kubernetes;
use crate::layout::{Layout, namespace};
use crate::process;
use crate::state::{Phase, State};

/// How long pods may take to become ready.
const ROLLOUT: &str = "--timeout=300s";
/// How long it may take until the page answers through the ingress after its pods are ready.
const LONGEST_WAIT: Duration = Duration::from_mins(2);
/// Time-out of one page, in seconds.
const LONGEST_PAGE: &str = "20";

/// One of the two deployed applications.
pub struct Contender {
    /// As tables and charts show it: `visits` or `Flask`.
    pub name: &'static str,
    /// Its host name at the ingress.
    pub host: &'static str,
    /// The key of its counter in Redis.
    key: &'static str,
    /// The pods whose usage is measured during its runs.
    pub watched: Watched,
}

/// Where a contender's Deployment is.
struct Place {
    name: &'static str,
    host: &'static str,
    key: &'static str,
    namespace: &'static str,
    deployment: &'static str,
}

const APPLICATION: Place = Place {
    name: "visits",
    host: "visits.bench",
    key: "visits",
    namespace: "visits",
    deployment: "backend",
};
const TWIN: Place = Place {
    name: "Flask",
    host: "flask.bench",
    key: "visits:flask",
    namespace: "flask",
    deployment: "flask",
};

/// What changes the application's replicas with its load.
const SCALER: &str = "horizontalpodautoscaler backend";

/// The cluster with both applications.
pub struct Stage {
    layout: Layout,
    manifest: PathBuf,
    address: String,
    each: Each,
    /// The application's own replicas and resources.
    before: Each,
    /// The bounds of its replicas.
    bounds: Bounds,
}

/// Fewest and most replicas.
#[derive(Clone, Copy, Default)]
struct Bounds(u64, u64);

impl Stage {
    /// Deploys the twin and gives the application the twin's replicas and resources; waits until
    /// all pods are ready.
    pub fn set(layout: &Layout) -> Result<Self> {
        let manifest = layout.repository().join("bench/flask.yaml");
        let state = State::require(layout)?;
        let address = state
            .present()
            .find(|m| m.role == "worker" && m.phase == Phase::Running)
            .context("the lab has no running worker: `lab launch --role worker`")?
            .address
            .to_string();
        let mut stage = Self {
            layout: layout.clone(),
            address,
            each: Each {
                replicas: 0,
                resources: Value::Null,
            },
            before: Each {
                replicas: 0,
                resources: Value::Null,
            },
            bounds: Bounds::default(),
            manifest,
        };
        // The leader deploys the application shortly after the nodes are ready.
        for workload in [
            ["visits", "statefulset/redis"],
            ["visits", "deployment/backend"],
            ["traefik", "daemonset/traefik"],
        ] {
            stage.ready(workload)?;
        }
        let file = stage.manifest.to_string_lossy().into_owned();
        stage.kubectl("apply --filename", &[&file])?;
        stage.each = has(&stage.deployment(&TWIN)?);
        stage.before = has(&stage.deployment(&APPLICATION)?);
        stage.bounds = bounds(&stage.get(APPLICATION.namespace, SCALER)?);
        stage.bound(Bounds(stage.each.replicas, stage.each.replicas))?;
        stage.give(&stage.each)?;
        for place in [&APPLICATION, &TWIN] {
            stage.ready([place.namespace, &format!("deployment/{}", place.deployment)])?;
        }
        Ok(stage)
    }

    /// Removes the twin and restores the application's replicas and resources.
    pub fn clear(&self) -> Result<()> {
        self.give(&self.before)?;
        self.bound(self.bounds)?;
        let file = self.manifest.to_string_lossy().into_owned();
        self.kubectl("delete --wait=false --filename", &[&file])
            .map(drop)
    }

    /// The worker whose ingress gets the load.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Replicas and resources of both.
    pub fn each(&self) -> &Each {
        &self.each
    }

    /// Both applications, the project's own first, with their pods' control groups.
    pub fn contenders(&self) -> Result<Vec<Contender>> {
        let places = [&APPLICATION, &TWIN].into_iter();
        places
            .map(|place| {
                Ok(Contender {
                    name: place.name,
                    host: place.host,
                    key: place.key,
                    watched: Watched {
                        pods: self.pods(place.namespace, place.deployment)?,
                        ingress: self.pods("traefik", "traefik")?,
                        redis: self.pods("visits", "redis")?,
                    },
                })
            })
            .collect()
    }

    /// Waits for both pages and fails if they differ in more than who answered.
    pub fn compare(&self, contenders: &[Contender]) -> Result<()> {
        let mut pages = Vec::new();
        for contender in contenders {
            pages.push((contender.name, plain(&self.page(contender)?)));
        }
        let Some(((first, page), others)) = pages.split_first() else {
            return Ok(());
        };
        for (other, its) in others {
            let different = page.lines().zip(its.lines()).find(|(a, b)| a != b);
            if let Some((a, b)) = different {
                bail!("{first} and {other} do not serve the same page:\n{a}\n{b}");
            }
            let lines = (page.lines().count(), its.lines().count());
            ensure!(
                lines.0 == lines.1,
                "{first} and {other} serve {lines:?} lines"
            );
        }
        Ok(())
    }

    /// A contender's counter in Redis.
    pub fn count(&self, contender: &Contender) -> Result<u64> {
        let words = "exec --namespace visits redis-0 -- valkey-cli get";
        let answer = self.kubectl(words, &[contender.key])?;
        match answer.trim() {
            "" => Ok(0),
            number => number
                .parse()
                .with_context(|| format!("Redis's {} is {number:?}", contender.key)),
        }
    }

    fn page(&self, contender: &Contender) -> Result<String> {
        let end = Instant::now() + LONGEST_WAIT;
        let network = format!("--net=/run/netns/{}", namespace("vpc"));
        let line = format!(
            "-- curl --silent --show-error --fail --max-time {LONGEST_PAGE} --header Host:{} http://{}/",
            contender.host, self.address
        );
        let words: Vec<&str> = std::iter::once(network.as_str())
            .chain(line.split(' '))
            .collect();
        loop {
            match process::run("nsenter", &words) {
                Ok(page) => return Ok(page),
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("{} does not answer", contender.name)));
                }
                // The ingress controller learns of pods without an event that could be waited for.
                Err(_) => sleep(Duration::from_millis(500)),
            }
        }
    }

    fn ready(&self, [namespace, workload]: [&str; 2]) -> Result<()> {
        let place = ["--namespace", namespace, workload];
        self.kubectl(&format!("wait --for=create {ROLLOUT}"), &place)?;
        self.kubectl(&format!("rollout status {ROLLOUT}"), &place)
            .map(drop)
    }

    fn get(&self, namespace: &str, what: &str) -> Result<Value> {
        let list = self.kubectl(
            &format!("get --output json --namespace {namespace} {what}"),
            &[],
        )?;
        serde_json::from_str(&list).context("kubectl did not print JSON")
    }

    fn deployment(&self, place: &Place) -> Result<Value> {
        self.get(place.namespace, &format!("deployment {}", place.deployment))
    }

    /// Sets the replicas and resources of the application's Deployment.
    fn give(&self, each: &Each) -> Result<()> {
        let patch = serde_json::to_string(&gives(&self.deployment(&APPLICATION)?, each))?;
        let line = format!(
            "patch deployment {} --namespace {} --patch",
            APPLICATION.deployment, APPLICATION.namespace
        );
        self.kubectl(&line, &[&patch]).map(drop)
    }

    /// Sets the bounds of the application's replicas, which its load would change.
    fn bound(&self, Bounds(least, most): Bounds) -> Result<()> {
        let patch = json!({ "spec": { "minReplicas": least, "maxReplicas": most } });
        let line = format!(
            "patch {SCALER} --namespace {} --patch",
            APPLICATION.namespace
        );
        self.kubectl(&line, &[&patch.to_string()]).map(drop)
    }

    fn pods(&self, namespace: &str, name: &str) -> Result<Vec<Pod>> {
        let selector = format!("app.kubernetes.io/name={name}");
        let list = self.get(namespace, &format!("pods --selector {selector}"))?;
        let state = State::require(&self.layout)?;
        let pods = running(&list)
            .map(|(uid, node)| {
                let machine = state.find(&node)?.name.clone();
                Ok(Pod { machine, uid })
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(!pods.is_empty(), "no pod of {namespace}/{name} is running");
        Ok(pods)
    }

    /// Runs kubectl with the words of `line`, and `more` unsplit.
    fn kubectl(&self, line: &str, more: &[&str]) -> Result<String> {
        let words = line.split(' ').chain(more.iter().copied());
        let arguments: Vec<String> = words.map(str::to_owned).collect();
        let output = kubernetes::kubectl(&self.layout, &arguments)?
            .output()
            .context("cannot start kubectl")?;
        if !output.status.success() {
            bail!(
                "`kubectl {}` ended with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn bounds(scaler: &Value) -> Bounds {
    let of = |field: &str| scaler["spec"][field].as_u64().unwrap_or_default();
    Bounds(of("minReplicas"), of("maxReplicas"))
}

/// A Deployment's replicas and the resources of its container.
fn has(deployment: &Value) -> Each {
    let spec = &deployment["spec"];
    Each {
        replicas: spec["replicas"].as_u64().unwrap_or_default(),
        resources: spec["template"]["spec"]["containers"][0]["resources"].clone(),
    }
}

/// The patch that sets a Deployment's replicas and resources. Null removes fields that it must not
/// keep.
fn gives(deployment: &Value, each: &Each) -> Value {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let mut resources = each.resources.clone();
    for (kind, amounts) in container["resources"].as_object().into_iter().flatten() {
        for (name, _) in amounts.as_object().into_iter().flatten() {
            if resources[kind][name].is_null() {
                resources[kind][name] = Value::Null;
            }
        }
    }
    json!({ "spec": {
        "replicas": each.replicas,
        "template": { "spec": { "containers": [{
            "name": container["name"],
            "resources": resources,
        }] } },
    } })
}

/// Uid and node of each pod in kubectl's list that is running and not being deleted.
fn running(list: &Value) -> impl Iterator<Item = (String, String)> {
    let pods = list["items"].as_array().into_iter().flatten();
    pods.filter(|pod| {
        pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
    })
    .filter_map(|pod| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some((
            text(&pod["metadata"]["uid"])?,
            text(&pod["spec"]["nodeName"])?,
        ))
    })
}

/// The page without the parts that differ between visits: number, pod, node and version.
fn plain(page: &str) -> String {
    let mut page = page.trim_end().to_owned();
    for (from, to) in [
        ("<data id=\"visits\" value=\"", "</data>"),
        ("<dd id=\"pod\">", "</dd>"),
        ("<dd id=\"node\">", "</dd>"),
        ("<footer>", " on a cluster"),
    ] {
        if let Some((before, rest)) = page.split_once(from)
            && let Some((_, after)) = rest.split_once(to)
        {
            page = format!("{before}{from}{to}{after}");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn deployment(resources: &Value) -> Value {
        json!({ "spec": { "replicas": 3, "template": { "spec": {
            "containers": [{ "name": "visits", "resources": resources }],
        } } } })
    }

    #[test]
    fn the_application_gets_the_twin_s_resources_and_no_more() {
        let own =
            json!({ "requests": { "cpu": "100m" }, "limits": { "memory": "128Mi", "cpu": "1" } });
        let twin = Each {
            replicas: 2,
            resources: json!({ "limits": { "memory": "512Mi" } }),
        };
        let patch = gives(&deployment(&own), &twin);
        assert_eq!(patch["spec"]["replicas"], 2);
        let container = &patch["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(
            container,
            &json!({ "name": "visits", "resources": {
                "requests": { "cpu": null },
                "limits": { "memory": "512Mi", "cpu": null },
            } })
        );
    }

    #[test]
    fn the_applications_resources_can_be_restored() {
        let own = json!({ "limits": { "memory": "128Mi" } });
        let before = has(&deployment(&own));
        assert_eq!((before.replicas, &before.resources), (3, &own));
    }

    #[test]
    fn pods_that_leave_are_not_watched() {
        let pod = |uid: &str, phase: &str, deleted: Value| {
            json!({ "metadata": { "uid": uid, "deletionTimestamp": deleted },
                "spec": { "nodeName": "n" }, "status": { "phase": phase } })
        };
        let list = json!({ "items": [
            pod("a", "Running", Value::Null),
            pod("b", "Running", json!("2026-11-24T00:00:00Z")),
            pod("c", "Pending", Value::Null),
        ] });
        let found: Vec<_> = running(&list).collect();
        assert_eq!(found, [("a".to_owned(), "n".to_owned())]);
    }

    #[test]
    fn pages_differ_by_who_answered_and_nothing_else() {
        let page = |number: &str, pod: &str, rest: &str| {
            format!(
                "<p><data id=\"visits\" value=\"{number}\">{number}</data></p>{rest}\n\
                 <dd id=\"pod\">{pod}</dd><footer>visits {pod} on a cluster</footer>\n"
            )
        };
        let ours = plain(&page("1", "a", ""));
        assert_eq!(ours, plain(&page("22", "b", "")));
        assert_ne!(ours, plain(&page("1", "a", "<i>")));
    }
}
