//! etcd, as the agent sees it and as etcd's own tools do.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::stage::{Stage, ensure, json, list, text, until};

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

/// The backups in a folder of the lab's bucket, the oldest first.
fn backups(stage: &Stage, folder: &str) -> Result<Vec<String>, Failed> {
    let keys = stage.lab(&["bucket", folder])?;
    let whole = keys.lines().filter_map(|key| key.strip_suffix(".json"));
    Ok(whole.map(str::to_owned).collect())
}

/// The schedule goes on from what a person took: the next is due so long after the newest, and
/// then the oldest goes.
pub fn backups_are_taken_by_schedule_and_the_oldest_go(stage: &Stage) -> Result<(), Failed> {
    let to = "s3://k8s-bootstrap-backups/scheduled";
    for _ in 0..2 {
        let snapshot = ["k8s-bootstrap", "etcd", "snapshot", "--to", to];
        stage.exec("cp1", &snapshot)?;
    }
    let by_hand = backups(stage, "scheduled/")?;
    let [oldest, second] = &by_hand[..] else {
        return Err(format!("in the bucket are {by_hand:?}").into());
    };
    let settings = "/etc/k8s-bootstrap/config.toml";
    let schedule = format!("snapshots = {{ to = \"{to}\", every = 60, keep = 2 }}");
    stage.shell(
        "cp1",
        &format!("mkdir -p /etc/k8s-bootstrap; echo '{schedule}' > {settings}"),
    )?;
    stage.exec("cp1", &["systemctl", "restart", "k8s-bootstrap"])?;
    let outcome = until(150, "a backup by schedule", || {
        let now = backups(stage, "scheduled/")?;
        // The oldest goes file by file.
        let files = stage.lab(&["bucket", "scheduled/"])?;
        ensure(
            now.len() == 2 && now[0] == *second && now[1] != *oldest && files.lines().count() == 6,
            format!("by hand {by_hand:?}, now {files}"),
        )
    })
    .and_then(|()| {
        let report = &stage.agent("cp1")?["snapshots"];
        ensure(report["failures"] == 0, format!("the agent says {report}"))
    });
    stage.exec("cp1", &["rm", settings])?;
    stage.exec("cp1", &["systemctl", "restart", "k8s-bootstrap"])?;
    outcome
}
