//! Reports for people and programs.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, json, list, text, until};

pub fn systemctl_status_says_ready_and_why(stage: &Stage) -> Result<(), Failed> {
    for machine in ["cp1", "w1"] {
        // Another cluster is founded on these processors at this moment: an API server that answers
        // late is reported until it answers.
        until(60, "the unit's status", || {
            let said = stage.exec(
                machine,
                &["systemctl", "status", "--no-pager", "k8s-bootstrap"],
            )?;
            ensure(
                said.contains("Status: \"Ready: node ip-10-42-0-")
                    && said.contains("is Ready in cluster demo"),
                said.clone(),
            )
        })?;
    }
    Ok(())
}

pub fn the_journal_carries_phase_and_duration(stage: &Stage) -> Result<(), Failed> {
    let entries = stage.journal("w1")?;
    let join = entries
        .iter()
        .find(|e| e["PHASE"] == "kubeadm-join" && e.get("DURATION_MS").is_some())
        .ok_or("no entry with PHASE=kubeadm-join and DURATION_MS")?;
    let duration: u64 = text(&join["DURATION_MS"]).parse()?;
    ensure(duration > 0, "a join in no time")?;
    ensure(
        text(&join["NODE"]).starts_with("ip-10-42-0-"),
        format!("NODE is {}", join["NODE"]),
    )?;
    ensure(
        join["CLUSTER"] == "demo",
        format!("CLUSTER is {}", join["CLUSTER"]),
    )
}

pub fn http_and_status_tell_the_same(stage: &Stage) -> Result<(), Failed> {
    let status = stage.agent("w1")?;
    ensure(
        status["stage"] == "ready" && status["role"] == "worker",
        status.to_string(),
    )?;
    let readyz = stage.shell("w1", "curl -fsS http://127.0.0.1:9469/readyz")?;
    ensure(readyz.starts_with("Ready: node "), readyz)?;
    let metrics = stage.shell("w1", "curl -fsS http://127.0.0.1:9469/metrics")?;
    ensure(
        metrics.contains("k8s_bootstrap_stage{stage=\"Ready\"} 1"),
        metrics,
    )?;
    let outside = stage.shell(
        "w1",
        "curl -sS --max-time 2 http://$(hostname -I | cut -d' ' -f1):9469/livez || echo refused",
    )?;
    ensure(
        outside.contains("refused"),
        format!("reachable from outside: {outside}"),
    )
}

pub fn plan_finds_nothing_to_do_and_changes_nothing(stage: &Stage) -> Result<(), Failed> {
    let before = stage.shell("w1", "sha256sum /var/lib/k8s-bootstrap/journal.json")?;
    let plan = json(&stage.exec("w1", &["k8s-bootstrap", "plan", "--json"])?)?;
    let todo: Vec<String> = list(&plan["phases"])
        .iter()
        .filter(|phase| !phase["differs"].is_null())
        .map(|phase| format!("{}: {}", text(&phase["name"]), phase["differs"]))
        .collect();
    ensure(
        list(&plan["phases"]).len() > 10 && todo.is_empty(),
        format!("to do: {todo:?}"),
    )?;
    ensure(
        plan["decision"]["decision"] == "join",
        plan["decision"].to_string(),
    )?;
    let after = stage.shell("w1", "sha256sum /var/lib/k8s-bootstrap/journal.json")?;
    ensure(before == after, "plan changed the journal")
}

/// The lab's metadata service allows version 1, as EC2 does by default; the agent must not use it.
pub fn the_agent_asked_metadata_by_token_only(_: &Stage) -> Result<(), Failed> {
    let layout = lab::layout::Layout::find()?;
    let log = std::fs::read_to_string(layout.imds_log())?;
    let of_agent: Vec<_> = log
        .lines()
        .map(json)
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|r| text(&r["user_agent"]).starts_with("k8s-bootstrap/"))
        .collect();
    ensure(!of_agent.is_empty(), "the log has no request of the agent")?;
    let by_v1: Vec<_> = of_agent.iter().filter(|r| r["protocol"] == "v1").collect();
    ensure(by_v1.is_empty(), format!("by version 1: {by_v1:?}"))
}

pub fn the_printed_kubeconfig_reaches_the_api_from_another_machine(
    stage: &Stage,
) -> Result<(), Failed> {
    let printed = stage.exec("cp1", &["k8s-bootstrap", "kubeconfig"])?;
    let script = format!("kubectl --kubeconfig=/dev/stdin get nodes -o name <<'END'\n{printed}END");
    stage.install_kubectl("w1")?;
    let nodes = stage.shell("w1", &script)?;
    ensure(nodes.lines().count() == 3, format!("it shows {nodes:?}"))
}
