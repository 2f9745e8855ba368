//! Whether a workload has rolled out. Pure.

use serde_json::Value;

/// What is missing in a workload's roll-out, such as `DaemonSet calico-node 2/3`; `None` if it is
/// complete.
///
/// Other kinds have no roll-out. The rules are those of `kubectl rollout status`; a Job must have
/// completed.
pub fn missing(object: &Value) -> Option<String> {
    let kind = object["kind"].as_str()?;
    let name = object["metadata"]["name"].as_str()?;
    let status = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let seen =
        status("observedGeneration") >= object["metadata"]["generation"].as_i64().unwrap_or(0);
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let (done, of) = match kind {
        "Deployment" if seen => {
            let surplus = status("replicas") > status("updatedReplicas");
            let done = status("updatedReplicas").min(status("availableReplicas"));
            (if surplus { done.min(wanted - 1) } else { done }, wanted)
        }
        "StatefulSet" if seen => (
            status("updatedReplicas").min(status("readyReplicas")),
            wanted,
        ),
        "DaemonSet" if seen => (
            status("updatedNumberScheduled").min(status("numberAvailable")),
            status("desiredNumberScheduled"),
        ),
        "Deployment" | "StatefulSet" | "DaemonSet" => {
            return Some(format!("{kind} {name} not observed by its controller"));
        }
        "Job" => (
            status("succeeded"),
            object["spec"]["completions"].as_i64().unwrap_or(1),
        ),
        _ => return None,
    };
    (done < of).then(|| format!("{kind} {name} {done}/{of}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    #![allow(clippy::needless_pass_by_value)] // so that the table reads as one

    use serde_json::json;

    use super::*;

    #[allow(clippy::needless_pass_by_value)] // the table reads better
    fn workload(kind: &str, spec: Value, status: Value) -> Value {
        json!({"kind": kind, "metadata": {"name": "x", "generation": 2}, "spec": spec, "status": status})
    }

    #[test]
    #[allow(clippy::too_many_lines)] // a table
    fn the_table_of_rollouts() {
        let seen = |more: Value| {
            let mut status = json!({"observedGeneration": 2});
            json_patch::merge(&mut status, &more);
            status
        };
        for (case, object, expected) in [
            (
                "new",
                workload("DaemonSet", json!({}), json!({})),
                Some("DaemonSet x not observed by its controller"),
            ),
            (
                "old generation",
                workload(
                    "Deployment",
                    json!({}),
                    json!({"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}),
                ),
                Some("Deployment x not observed by its controller"),
            ),
            (
                "two of three",
                workload(
                    "DaemonSet",
                    json!({}),
                    seen(
                        json!({"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}),
                    ),
                ),
                Some("DaemonSet x 2/3"),
            ),
            (
                "old pods still there",
                workload(
                    "DaemonSet",
                    json!({}),
                    seen(
                        json!({"desiredNumberScheduled": 3, "updatedNumberScheduled": 1, "numberAvailable": 3}),
                    ),
                ),
                Some("DaemonSet x 1/3"),
            ),
            (
                "no node matches",
                workload(
                    "DaemonSet",
                    json!({}),
                    seen(json!({"desiredNumberScheduled": 0})),
                ),
                None,
            ),
            (
                "available",
                workload(
                    "Deployment",
                    json!({"replicas": 2}),
                    seen(json!({"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})),
                ),
                None,
            ),
            (
                "one old replica left",
                workload(
                    "Deployment",
                    json!({"replicas": 2}),
                    seen(json!({"replicas": 3, "updatedReplicas": 2, "availableReplicas": 3})),
                ),
                Some("Deployment x 1/2"),
            ),
            (
                "scaled to zero",
                workload("Deployment", json!({"replicas": 0}), seen(json!({}))),
                None,
            ),
            (
                "not ready",
                workload(
                    "StatefulSet",
                    json!({}),
                    seen(json!({"updatedReplicas": 1, "readyReplicas": 0})),
                ),
                Some("StatefulSet x 0/1"),
            ),
            (
                "running job",
                workload("Job", json!({}), json!({"active": 1})),
                Some("Job x 0/1"),
            ),
            (
                "finished job",
                workload("Job", json!({}), json!({"succeeded": 1})),
                None,
            ),
            (
                "no workload",
                workload("ConfigMap", json!({}), json!({})),
                None,
            ),
        ] {
            assert_eq!(missing(&object).as_deref(), expected, "{case}");
        }
    }
}
