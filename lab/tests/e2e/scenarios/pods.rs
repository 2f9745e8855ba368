//! What a pod can and cannot reach.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, text, until};

/// curl's exit status for a refused connection.
const NOT_TAKEN: &str = "7";

/// curl's exit status for a time-out.
const TOO_LATE: &str = "28";

const API: &str = "https://10.42.0.10:6443/";

/// curl in the network of one of w1's pods.
fn curl(pod: &str, url: &str) -> String {
    format!(
        "ip netns exec {pod} curl --silent --insecure --output /dev/null --max-time 5 {url}; echo $?"
    )
}

/// The network of a pod on w1 that can reach the API server: no network policy blocks it.
fn pod(stage: &Stage) -> Result<String, Failed> {
    let all = stage.shell("w1", "ip netns list | cut -d ' ' -f 1 | grep ^cni-")?;
    for pod in all.lines() {
        if stage.shell("w1", &curl(pod, API))?.trim() == "0" {
            return Ok(pod.to_owned());
        }
    }
    Err(format!("no pod of w1 reaches {API}: {all}").into())
}

/// Blocked are metadata, the join service and etcd, but neither the API server nor kubelets, which
/// pods may use.
pub fn a_pod_reaches_neither_the_metadata_nor_what_control_planes_keep(
    stage: &Stage,
) -> Result<(), Failed> {
    let closed = [
        "http://169.254.169.254/latest/meta-data/instance-id",
        "https://10.42.0.10:7444/",
        "https://10.42.0.10:2379/",
    ];
    let open = [API, "https://10.42.0.10:10250/"];
    let pod = pod(stage)?;
    let status = |url: &str| {
        let said = stage.shell("w1", &curl(&pod, url))?;
        Ok::<_, Failed>(said.trim().to_owned())
    };
    // etcd's handshake fails without a certificate, which still shows that it is reachable.
    let reached = |url: &str| {
        let status = status(url)?;
        let taken = status != NOT_TAKEN && status != TOO_LATE;
        ensure(taken, format!("{url}: curl ends with {status}"))
    };
    let refused = |url: &str| {
        let status = status(url)?;
        ensure(
            status == NOT_TAKEN,
            format!("{url}: curl ends with {status}"),
        )
    };
    closed.into_iter().try_for_each(refused)?;
    open.into_iter().try_for_each(reached)?;
    // Without the rules everything is reachable, so the rules do refuse; and the agent loads them
    // again.
    stage.exec("w1", &["nft", "delete", "table", "inet", "k8s-bootstrap"])?;
    closed.into_iter().try_for_each(reached)?;
    stage.exec("w1", &["systemctl", "restart", "k8s-bootstrap"])?;
    until(120, "the rules", || {
        closed.into_iter().try_for_each(refused)
    })
}

/// A kube-proxy that exits is restarted with its old rules in place: services keep working.
pub fn services_outlive_a_kube_proxy_that_is_started_again(stage: &Stage) -> Result<(), Failed> {
    // The API server's service, which every cluster has; any answer shows that it is reachable.
    const SERVICE: &str =
        "curl --silent --insecure --output /dev/null --max-time 5 https://10.96.0.1/";
    const SYNCED: &str = "curl --silent --fail localhost:10249/metrics \
        | grep -q '^kubeproxy_sync_proxy_rules_duration_seconds_count.*IPv4.* [1-9]'";
    let node = text(&stage.agent("w1")?["node"]);
    stage.shell("w1", SERVICE)?;
    // Rules mistaken for leftovers would go in the first round, and come back in the second.
    for _ in 0..2 {
        let field = format!("spec.nodeName={node}");
        let of_node = ["-l", "k8s-app=kube-proxy", "--field-selector", &field];
        let delete = ["delete", "pod", "-n", "kube-system"];
        stage.kubectl(&[&delete[..], &of_node].concat())?;
        let what = "another kube-proxy that has looked at its rules";
        until(120, what, || stage.shell("w1", SYNCED).map(drop))?;
        stage.shell("w1", SERVICE)?;
    }
    Ok(())
}
