//! etcd, as the agent sees it and as etcd's own tools do.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::stage::{Stage, ensure, json, list, text};

/// Asks with etcd's own tool, in etcd's own pod.
fn etcdctl(stage: &Stage, node: &str, args: &[&str]) -> Result<Value, Failed> {
    let pod = format!("etcd-{node}");
    let pki = "/etc/kubernetes/pki/etcd";
    let (ca, certificate, key) = (
        format!("--cacert={pki}/ca.crt"),
        format!("--cert={pki}/peer.crt"),
        format!("--key={pki}/peer.key"),
    );
    let tool = ["-n", "kube-system", "exec", &pod, "--", "etcdctl"];
    let access = [&ca, &certificate, &key, "--write-out=json"];
    let args: Vec<&str> = [&tool[..], &access, args].concat();
    json(&stage.kubectl(&args)?)
}

pub fn etcd_members_tells_what_etcdctl_tells(stage: &Stage) -> Result<(), Failed> {
    let node = text(&stage.agent("cp1")?["node"]);
    let ours = json(&stage.exec("cp1", &["k8s-bootstrap", "etcd", "members", "--json"])?)?;
    let theirs = etcdctl(stage, &node, &["member", "list"])?;
    let theirs = list(&theirs["members"]);
    ensure(
        list(&ours).len() == theirs.len(),
        format!("ours {ours}, theirs {theirs:?}"),
    )?;
    for (ours, theirs) in list(&ours).iter().zip(theirs) {
        ensure(
            ours["id"] == theirs["ID"] && ours["name"] == theirs["name"],
            format!("ours {ours}, theirs {theirs}"),
        )?;
        ensure(
            ours["leader"] == true && ours["healthy"] == true,
            format!("the only member neither leads nor is healthy: {ours}"),
        )?;
    }
    let table = stage.exec("cp1", &["k8s-bootstrap", "etcd", "members"])?;
    ensure(
        table.contains("leader") && table.contains(&node),
        table.clone(),
    )?;
    let refused = stage.try_lab(&["exec", "w1", "--", "k8s-bootstrap", "etcd", "members"])?;
    ensure(
        refused.status.code() == Some(3),
        format!("on a worker: {}", refused.status),
    )
}
