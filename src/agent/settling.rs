//! Settles a cluster that is in use, even if its founder never finishes its boot.

use std::{collections::BTreeSet, convert::Infallible, time::Duration};

use jiff::Timestamp;
use serde_json::Value;
use tracing::{info, warn};

use super::Agent;
use crate::{
    error::Result,
    observe::{Origin, Settled, record},
    ports::{OWNER_LABEL, World},
    wait::schedules::UNSETTLED,
};

/// The cluster is settled after this even if an add-on is not ready.
const LATEST: Duration = Duration::from_hours(1);

impl Agent {
    /// During a founder's boot: settles its cluster once a user's pod runs on it, or an hour after
    /// it was recorded.
    pub(super) async fn settle_in_time(&self) -> Infallible {
        let mut said = None;
        loop {
            self.world.clock.sleep(UNSETTLED).await;
            let trouble = self.settle_if_used().await.err();
            let trouble = trouble.map(|error| error.one_line());
            if let Some(line) = trouble.as_ref().filter(|_| trouble != said) {
                warn!("cannot tell whether the cluster is in use: {line}");
            }
            said = trouble;
        }
    }

    async fn settle_if_used(&self) -> Result<()> {
        let memory = self.runner.memory().await;
        let founded = memory.membership.filter(|m| m.origin == Origin::Founded);
        let Some(founded) = founded.filter(|_| memory.settled.is_none()) else {
            return Ok(());
        };
        let store = self.world.store.as_ref();
        let seen = record::read(store).await?;
        let recorded = seen
            .cluster()
            .map(|cluster| (&cluster.cluster_uid, cluster.time));
        let Some((_, since)) = recorded.filter(|(uid, _)| **uid == founded.cluster_uid) else {
            return Ok(());
        };
        if record::is_settled(&seen, &founded.cluster_uid) {
            return Ok(());
        }
        let now = self.world.clock.now();
        let Some(why) = is_used(&self.world, since, now).await? else {
            return Ok(());
        };
        let settled = Settled {
            cluster_uid: founded.cluster_uid,
            instance: self.me.instance_id.clone(),
            time: now,
        };
        record::settle(store, &settled).await?;
        info!("settled the cluster before its founder finished, because {why}");
        Ok(())
    }
}

/// Why a cluster that was recorded at `since` has something to lose; `None` if it has nothing.
async fn is_used(world: &World, since: Timestamp, now: Timestamp) -> Result<Option<String>> {
    if since + LATEST <= now {
        return Ok(Some(format!("it was recorded at {since:.0}")));
    }
    let namespaces = world.cluster.list("v1", "Namespace", None).await?;
    let pods = world.cluster.list("v1", "Pod", None).await?;
    Ok(users_pod(&namespaces, &pods).map(|pod| format!("the pod {pod} runs on it")))
}

/// A running pod in a namespace that belongs to neither Kubernetes nor an add-on.
fn users_pod(namespaces: &[Value], pods: &[Value]) -> Option<String> {
    let own: BTreeSet<&str> = namespaces
        .iter()
        .filter(|namespace| !namespace["metadata"]["labels"][OWNER_LABEL].is_null())
        .filter_map(|namespace| namespace["metadata"]["name"].as_str())
        .collect();
    let users = pods.iter().find_map(|pod| {
        let namespace = pod["metadata"]["namespace"].as_str()?;
        let is_users = !namespace.starts_with("kube-") && !own.contains(namespace);
        let runs = pod["status"]["phase"] == "Running";
        (is_users && runs).then_some((namespace, &pod["metadata"]["name"]))
    });
    users.map(|(namespace, name)| format!("{namespace}/{}", name.as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        observe::Membership,
        testing::{FakeWorld, agent, control_plane},
    };

    fn namespace(name: &str, owner: Option<&str>) -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "labels": {OWNER_LABEL: owner},
        }})
    }

    fn pod(namespace: &str, phase: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": "web", "namespace": namespace,
        }, "status": {"phase": phase}})
    }

    #[test]
    fn a_running_pod_outside_kubernetes_and_addon_namespaces_is_a_users() {
        let namespaces = [namespace("visits", Some("visits")), namespace("shop", None)];
        for (pod, expected) in [
            (pod("default", "Running"), Some("default/web")),
            (pod("shop", "Running"), Some("shop/web")),
            (pod("shop", "Pending"), None),
            (pod("kube-system", "Running"), None),
            (pod("visits", "Running"), None),
        ] {
            let found = users_pod(&namespaces, std::slice::from_ref(&pod));
            assert_eq!(found.as_deref(), expected, "{pod}");
        }
    }

    /// A founder that has recorded its cluster and is still booting.
    async fn founding() -> (FakeWorld, Agent) {
        let fake = FakeWorld::founded().recorded("uid", "i-1").await;
        let agent = agent(&fake, control_plane("i-1")).await;
        let membership = Membership {
            cluster_uid: "uid".to_owned(),
            origin: Origin::Founded,
        };
        agent.runner.commit_to(membership).await.unwrap();
        (fake, agent)
    }

    async fn is_settled_within(fake: &FakeWorld, agent: &Agent, time: Duration) -> bool {
        assert!(timeout(time, agent.settle_in_time()).await.is_err());
        let record = record::read(fake.store.as_ref()).await.unwrap();
        record::is_settled(&record, "uid")
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_is_settled_by_the_first_pod_of_a_user() {
        let (fake, agent) = founding().await;
        let minutes = Duration::from_mins(50);
        assert!(!is_settled_within(&fake, &agent, minutes).await);
        fake.cluster.put(pod("default", "Running"));
        assert!(is_settled_within(&fake, &agent, Duration::from_mins(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_is_settled_after_an_hour_whatever_its_addons_do() {
        let (fake, agent) = founding().await;
        fake.cluster.down(true);
        let almost = Duration::from_mins(59);
        assert!(!is_settled_within(&fake, &agent, almost).await);
        assert!(is_settled_within(&fake, &agent, Duration::from_mins(2)).await);
    }
}
