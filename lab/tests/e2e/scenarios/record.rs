//! The cluster's record in the store is lost, partly or completely: no node resets itself, nobody
//! founds a second cluster, and the record is restored.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, text, until};

/// The keys of the record, sorted.
fn keys(stage: &Stage) -> Result<Vec<String>, Failed> {
    let mut keys: Vec<String> = stage.lab(&["record"])?.lines().map(str::to_owned).collect();
    keys.sort();
    Ok(keys)
}

/// The sequence that once ended a healthy cluster: its founder is replaced, then a key of the
/// record is lost and the agents restart. Same, with all keys.
pub fn a_lost_record_is_written_again_and_no_node_resets_itself(
    stage: &Stage,
) -> Result<(), Failed> {
    stage.kubectl(&[
        "create",
        "configmap",
        "e2e-kept",
        "--from-literal=written=yes",
    ])?;
    let mut machines = stage.control_planes()?;
    machines.push("w1".to_owned());
    let uid = text(&stage.agent("w1")?["cluster_uid"]);
    let whole = keys(stage)?;
    for lost in [
        vec!["founder/2"],
        vec!["founder/1", "founder/2", "initialized/1"],
    ] {
        let options = lost.iter().flat_map(|key| ["--forget", key]);
        stage.lab(&["record"].into_iter().chain(options).collect::<Vec<_>>())?;
        for machine in &machines {
            stage.exec(machine, &["systemctl", "restart", "k8s-bootstrap"])?;
        }
        until(120, "the record's return", || {
            let now = keys(stage)?;
            ensure(now == whole, format!("before {whole:?}, now {now:?}"))
        })?;
        for machine in &machines {
            until(180, machine, || {
                let status = stage.agent(machine)?;
                ensure(
                    status["stage"] == "ready" && text(&status["cluster_uid"]) == uid,
                    format!("of {uid}: {status}"),
                )
            })?;
        }
    }
    for machine in &machines {
        let journal = stage.journal(machine)?;
        let mut messages = journal.iter().map(|entry| text(&entry["MESSAGE"]));
        let reset = messages.find(|message| message.contains("this node starts over"));
        ensure(reset.is_none(), format!("{machine}: {reset:?}"))?;
    }
    let kept = stage.get(&["configmap", "e2e-kept"])?;
    ensure(kept["data"]["written"] == "yes", format!("{kept}"))
}

/// A control plane whose launch template names a different store finds no cluster there.
pub fn a_control_plane_with_another_store_founds_nothing_and_names_the_cluster(
    stage: &Stage,
) -> Result<(), Failed> {
    let settings = tempfile::NamedTempFile::new()?;
    std::fs::write(settings.path(), "store.prefix = \"/elsewhere\"\n")?;
    let ours: Vec<String> = stage
        .machines()?
        .iter()
        .filter(|machine| machine["role"] == "control-plane" && machine["phase"] == "running")
        .map(|machine| text(&machine["id"]))
        .collect();
    let path = settings.path().display().to_string();
    let stranger = stage.launch_as("control-plane", &["--settings", &path])?;
    let said = until(180, "its refusal", || {
        let message = text(&stage.agent(&stranger)?["message"]);
        let refuses = message.contains("the store records no cluster, but the control plane");
        ensure(
            refuses && ours.iter().any(|id| message.contains(id.as_str())),
            format!("{stranger} says {message}"),
        )
    });
    let claims = stage.journal(&stranger)?;
    let claimed = claims
        .iter()
        .any(|entry| text(&entry["MESSAGE"]).contains("to found the cluster is ours"));
    stage.lab(&["terminate", "--hard", &stranger])?;
    said?;
    ensure(!claimed, "it claimed to found a cluster")
}
