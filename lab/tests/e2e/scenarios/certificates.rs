//! Certificates expire without any effect on the cluster.

use std::{
    collections::BTreeMap,
    sync::OnceLock,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;

use crate::{
    asking::{self, READ},
    stage::{Stage, ensure, text, until},
};

/// A second cluster next to the scenarios' own, with certificates that are valid for ten minutes.
const SHORT: &str = "short-lived";

/// As short as the settings allow. The workers' name stays with the other cluster.
const SETTINGS: &str = "[certificates]\nlifetime = 600\nca_lifetime = 864000\nkubelet_lifetime = 600\n\
     [dns]\nenabled = false\n";

/// When all certificates of that cluster have expired; set after it is off.
static OVER: OnceLock<Instant> = OnceLock::new();

/// The serial numbers by name, of the certificates that `by` renews.
fn serials(stage: &Stage, machine: &str, by: &str) -> Result<BTreeMap<String, String>, Failed> {
    let all = stage.certificates(machine)?;
    let its = all.iter().filter(|c| c["renewed_by"] == by);
    Ok(its
        .map(|c| (text(&c["name"]), text(&c["serial"])))
        .collect())
}

/// All certificates of one control plane are renewed while a worker asks the API five times a
/// second.
pub fn certificates_are_renewed_without_a_failed_request(stage: &Stage) -> Result<(), Failed> {
    let all = stage.control_planes()?;
    let machine = all.first().ok_or("no control plane runs")?;
    let agents = serials(stage, machine, "agent")?;
    let authorities = serials(stage, machine, "person")?;
    ensure(
        agents.len() >= 10 && authorities.len() == 3,
        format!("{agents:?} {authorities:?}"),
    )?;
    let nodes = stage.ready_nodes()?;
    let pods = stage.workloads()?;
    let asking = asking::start(stage, "w1", READ)?;
    stage.exec(
        machine,
        &["k8s-bootstrap", "certificates", "renew", "--all"],
    )?;
    let (_, failed) = asking.failures()?;
    drop(asking);
    ensure(failed.is_empty(), format!("requests failed: {failed:?}"))?;
    let now = serials(stage, machine, "agent")?;
    let kept: Vec<_> = agents
        .iter()
        .filter(|(name, old)| now.get(*name) == Some(*old))
        .collect();
    ensure(kept.is_empty(), format!("not renewed: {kept:?}"))?;
    ensure(
        serials(stage, machine, "person")? == authorities,
        "the authorities are others",
    )?;
    let ready = stage.ready_nodes()?;
    ensure(
        ready == nodes,
        format!("Ready were {nodes:?}, are {ready:?}"),
    )?;
    stage.none_was_restarted(&pods)
}

/// The machines of the cluster with short-lived certificates, the control plane first.
fn short_lived(stage: &Stage) -> Result<[String; 2], Failed> {
    let machines = stage.machines()?;
    let of = |role: &str| {
        let its = machines.iter().find(|machine| {
            machine["role"] == role && machine["tags"]["k8s-bootstrap:cluster"] == SHORT
        });
        its.map(|machine| text(&machine["name"]))
            .ok_or(format!("{SHORT} has no {role}"))
    };
    Ok([of("control-plane")?, of("worker")?])
}

pub fn a_cluster_whose_certificates_live_ten_minutes_is_launched(
    stage: &Stage,
) -> Result<(), Failed> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), SETTINGS)?;
    let settings = file.path().display().to_string();
    let tag = format!("k8s-bootstrap:cluster={SHORT}");
    for role in ["control-plane", "worker"] {
        stage.launch_as(role, &["--tag", &tag, "--settings", &settings])?;
    }
    Ok(())
}

pub fn it_is_switched_off(stage: &Stage) -> Result<(), Failed> {
    for machine in short_lived(stage)? {
        until(480, "the short-lived cluster", || {
            let status = stage.agent(&machine)?;
            ensure(status["stage"] == "ready", format!("{}", status["message"]))
        })?;
    }
    let [control_plane, worker] = short_lived(stage)?;
    stage.lab(&["stop", &worker])?;
    stage.lab(&["stop", &control_plane])?;
    // Certificates signed before now expire within the lifetime.
    OVER.get_or_init(|| Instant::now() + Duration::from_secs(605));
    Ok(())
}

/// The other scenarios have taken longer than the certificates are valid, unless only these run.
pub fn it_comes_back_after_every_certificate_has_expired(stage: &Stage) -> Result<(), Failed> {
    let over = OVER.get().ok_or("it was not switched off")?;
    std::thread::sleep(over.saturating_duration_since(Instant::now()));
    let [control_plane, worker] = short_lived(stage)?;
    stage.lab(&["start", &control_plane])?;
    stage.lab(&["start", &worker])?;
    for machine in [&control_plane, &worker] {
        until(180, "the cluster that was off for too long", || {
            let status = stage.agent(machine)?;
            ensure(
                status["stage"] == "ready",
                format!("{machine} says {}", status["message"]),
            )
        })?;
        until(60, "no expired certificate", || {
            let all = stage.certificates(machine)?;
            let over: Vec<_> = all
                .iter()
                .filter(|c| c["seconds_left"].as_i64().is_none_or(|left| left <= 0))
                .map(|c| text(&c["name"]))
                .collect();
            ensure(over.is_empty(), format!("{machine}: expired are {over:?}"))
        })?;
    }
    let renewed = stage.journal(&control_plane)?.iter().any(|entry| {
        entry["PHASE"] == "certificates" && text(&entry["MESSAGE"]).contains("has expired")
    });
    ensure(
        renewed,
        "nothing had expired: the machines were off for too short a time",
    )
}
