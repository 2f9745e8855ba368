//! The loss of every control plane, and the recovery.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::stage::{Stage, ensure, json, list, text, until};

/// A place in the lab's bucket.
const PLACE: &str = "s3://k8s-bootstrap-backups/lab";

fn note(stage: &Stage, name: &str) -> Result<(), Failed> {
    let create = ["create", "configmap", name, "--from-literal=written=yes"];
    stage.kubectl(&create).map(drop)
}

fn uid(stage: &Stage) -> Result<String, Failed> {
    let namespace = stage.get(&["namespace", "kube-system"])?;
    Ok(text(&namespace["metadata"]["uid"]))
}

/// Reads from the API server's memory on a machine, without asking etcd.
const READ: &str = "kubectl --kubeconfig=/etc/kubernetes/admin.conf --server=https://127.0.0.1:6443 \
                    get --raw '/api/v1/namespaces/default/configmaps?resourceVersion=0'";

/// Waits until a member has received a write, which takes longer on a busy machine.
fn has_heard_of(stage: &Stage, machine: &str, name: &str) -> Result<(), Failed> {
    until(60, "the last write to reach the survivor", || {
        let maps = stage.shell(machine, READ)?;
        ensure(maps.contains(name), maps)
    })
}

/// Without a majority nothing can be written; existing data can still be read, and nothing is
/// removed from a cluster that cannot agree to it.
fn the_survivor_says_what_is_lost(stage: &Stage, survivor: &str) -> Result<(), Failed> {
    // At once: its probe kills the API server after some minutes without etcd, and a restarted one
    // has nothing in memory.
    let maps = until(60, "an answer from the survivor", || {
        stage.shell(survivor, READ)
    })?;
    ensure(maps.contains("after-the-backup"), maps)?;
    until(120, "the survivor's report", || {
        let said = stage.agent(survivor)?.to_string();
        ensure(said.contains("etcd has lost its majority"), said)
    })?;
    let members = stage.exec(survivor, &["k8s-bootstrap", "etcd", "members", "--json"])?;
    ensure(list(&json(&members)?).len() == 3, members)
}

/// A trial of the restore: it reads all of etcd's keys, changes nothing and leaves nothing.
fn can_be_restored(stage: &Stage, machine: &str, backup: &str) -> Result<(), Failed> {
    let verify = [
        "k8s-bootstrap",
        "etcd",
        "verify",
        "--json",
        "--from",
        backup,
    ];
    let verified = stage.exec(machine, &verify)?;
    let said = json(&verified)?;
    let uid = &stage.agent(machine)?["cluster_uid"];
    let keys = said["keys"].as_u64().unwrap_or_default();
    ensure(keys > 100 && said["cluster_uid"] == *uid, verified)?;
    let left = stage.shell(machine, "ls /var/lib/k8s-bootstrap")?;
    ensure(!left.contains("verify"), left)
}

/// Kills a restore while neither the old nor the new data is in place: it waits for etcd's port,
/// which another program has occupied since the new data was created.
const KILLED: &str = "
    k8s-bootstrap etcd restore --yes --from BACKUP & restore=$!
    until [ -e /var/lib/etcd/restored/member ]; do kill -0 $restore || exit 1; sleep 0.05; done
    kill -STOP $restore
    python3 -m http.server 2379 > /dev/null 2>&1 & other=$!
    until ss -Hltn sport = :2379 | grep -q LISTEN; do sleep 0.05; done
    kill -CONT $restore
    until grep -q '\"restoring\": {' /var/lib/k8s-bootstrap/journal.json; do kill -0 $restore || exit 1; sleep 0.05; done
    kill -KILL $restore
    kill $other
    systemctl restart --no-block k8s-bootstrap";

/// Until the restore is run again, the agent reports that it must be.
fn a_killed_restore_is_remembered(
    stage: &Stage,
    machine: &str,
    backup: &str,
) -> Result<(), Failed> {
    stage.shell(machine, &KILLED.replace("BACKUP", backup))?;
    until(60, "the agent's refusal", || {
        let journal = stage.journal(machine)?;
        let said = |entry: &Value| {
            let line = entry["MESSAGE"].as_str().unwrap_or_default();
            line.contains("a restore that began at")
        };
        ensure(journal.iter().any(said), "it does not refuse to go on")
    })
}

pub fn the_cluster_comes_back_from_a_backup(stage: &Stage) -> Result<(), Failed> {
    let all = stage.control_planes()?;
    let [one, others @ ..] = &all[..] else {
        return Err("no control plane runs".into());
    };
    ensure(others.len() == 2, format!("control planes: {all:?}"))?;
    let before = uid(stage)?;
    let nodes = stage.ready_nodes()?;
    let lost = all
        .iter()
        .map(|name| stage.agent(name).map(|status| text(&status["node"])));
    let lost = lost.collect::<Result<Vec<_>, _>>()?;
    note(stage, "before-the-backup")?;
    let backup = stage.exec(one, &["k8s-bootstrap", "etcd", "snapshot", "--to", PLACE])?;
    ensure(
        backup.starts_with(PLACE) && backup.trim().contains(".json"),
        backup.clone(),
    )?;
    note(stage, "after-the-backup")?;
    can_be_restored(stage, one, backup.trim())?;

    // A live control plane is never replaced by an old copy of itself.
    let from = backup.trim();
    let restore = ["k8s-bootstrap", "etcd", "restore", "--yes", "--from", from];
    let args: Vec<&str> = [&["exec", one, "--"][..], &restore].concat();
    let refused = stage.try_lab(&args)?;
    ensure(
        refused.status.code() == Some(3)
            && String::from_utf8_lossy(&refused.stderr)
                .contains("other control planes are not terminated"),
        String::from_utf8_lossy(&refused.stderr),
    )?;

    has_heard_of(stage, one, "after-the-backup")?;
    for name in others {
        stage.lab(&["terminate", "--hard", name])?;
    }
    the_survivor_says_what_is_lost(stage, one)?;
    stage.lab(&["terminate", "--hard", one])?;
    let new = stage.launch_as("control-plane", &[])?;
    // It would refuse to continue after some minutes of agreement; the test does not wait for that.
    until(120, "the new control plane's agent", || stage.agent(&new))?;
    a_killed_restore_is_remembered(stage, &new, from)?;
    stage.exec(&new, &restore)?;
    until(300, "the restored control plane", || {
        let status = stage.agent(&new)?;
        ensure(
            status["stage"] == "ready",
            format!("the agent says {}: {}", status["stage"], status["message"]),
        )
    })?;
    until(180, "the nodes that were Ready before", || {
        let ready = stage.ready_nodes()?;
        let missing: Vec<_> = nodes
            .iter()
            .filter(|node| !lost.contains(node) && !ready.contains(node))
            .collect();
        ensure(missing.is_empty(), format!("not Ready are {missing:?}"))
    })?;
    ensure(uid(stage)? == before, "this is another cluster")?;
    let maps = stage.get(&["configmaps"])?;
    let names: Vec<String> = list(&maps["items"])
        .iter()
        .map(|map| text(&map["metadata"]["name"]))
        .collect();
    ensure(
        names.contains(&"before-the-backup".to_owned())
            && !names.contains(&"after-the-backup".to_owned()),
        format!("there are {names:?}"),
    )?;
    stage.lab(&["launch", "--role", "control-plane"])?;
    let members = stage.exec(&new, &["k8s-bootstrap", "etcd", "members", "--json"])?;
    ensure(list(&json(&members)?).len() == 2, members)
}
