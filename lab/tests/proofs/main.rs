//! Tests that take hours: `make e2e-certificates`.
//!
//! Three control planes and two workers with certificates that are valid for ten minutes. First
//! `RENEWALS` (20) renewals while a worker reads five times a second and writes once a second; then
//! `SWITCH_OFFS` (10) times all five of a cluster are switched off until every certificate has
//! expired. `CLUSTERS` (3) of that size take turns at that. All three are environment variables.

#[path = "../e2e/asking.rs"]
mod asking;
#[path = "../e2e/stage.rs"]
#[allow(dead_code)] // the scenarios of the end-to-end tests use all of it
mod stage;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    asking::{READ, WRITE},
    stage::{Stage, ensure, json, ready_nodes, text, until},
};

type Scenario = (&'static str, fn(&Stage) -> Result<(), Failed>);

const SETTINGS: &str =
    "[certificates]\nlifetime = 600\nca_lifetime = 864000\nkubelet_lifetime = 600\n";

/// A renewal begins when a third of the ten minutes is left.
const BETWEEN_RENEWALS: u64 = 400;

/// How often to poll what takes minutes: each check costs the machines processor time.
const LOOK: Duration = Duration::from_secs(20);

fn wanted(name: &str, otherwise: usize) -> Result<usize, Failed> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{name}={text:?} is no number").into()),
        Err(_) => Ok(otherwise),
    }
}

fn names(stage: &Stage) -> Result<Vec<String>, Failed> {
    let machines = stage.machines()?;
    Ok(machines.iter().map(|m| text(&m["name"])).collect())
}

fn three_control_planes_and_two_workers_are_up(stage: &Stage) -> Result<(), Failed> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), SETTINGS)?;
    let settings = file.path().display().to_string();
    let up = ["up", "--control-planes", "3", "--workers", "2"];
    let up = stage.lab(&[&up[..], &["--settings", &settings]].concat());
    if up.is_err() {
        stage.no_cluster();
    }
    up.map(drop)
}

/// Completed renewals of all control planes.
fn renewals(stage: &Stage) -> Result<usize, Failed> {
    let mut all = 0;
    for machine in stage.control_planes()? {
        let ended = "journalctl -u k8s-bootstrap -o cat PHASE=certificates-renewal | grep -c ': done in' || true";
        let ended = stage.shell(&machine, ended)?;
        all += ended.trim().parse::<usize>()?;
    }
    Ok(all)
}

fn renewals_pass_without_a_failed_request(stage: &Stage) -> Result<(), Failed> {
    let wanted = wanted("RENEWALS", 20)?;
    let control_planes = stage.control_planes()?.len();
    let rounds = wanted.div_ceil(control_planes) as u64;
    let pods = stage.workloads()?;
    let reading = asking::start(stage, "w1", READ)?;
    let writing = asking::start(stage, "w1", WRITE)?;
    let start = Instant::now();
    let before = renewals(stage)?;
    let deadline = Duration::from_secs((rounds + 2) * BETWEEN_RENEWALS);
    let (mut passed, mut so_far) = ([0, 0], 0);
    while so_far < wanted {
        std::thread::sleep(LOOK);
        so_far = renewals(stage)? - before;
        for (asking, passed) in [&reading, &writing].into_iter().zip(&mut passed) {
            let (good, failed) = asking.failures()?;
            *passed += good;
            ensure(
                failed.is_empty(),
                format!("after {so_far} renewals failed {failed:?}"),
            )?;
        }
        let (seconds, [read, written]) = (start.elapsed().as_secs(), passed);
        eprintln!("{seconds} s: {so_far} renewals, {read} reads, {written} writes, none failed");
        ensure(
            start.elapsed() < deadline,
            format!("{so_far} of {wanted} renewals in {seconds} s"),
        )?;
    }
    stage.none_was_restarted(&pods)
}

/// When the last certificate, except the CAs', expires, in seconds from now.
fn last_end(stage: &Stage, machines: &[String]) -> Result<u64, Failed> {
    let mut last = 0;
    for machine in machines {
        let leaves = stage.certificates(machine)?;
        let leaves = leaves.iter().filter(|c| c["renewed_by"] != "person");
        last = leaves
            .filter_map(|c| c["seconds_left"].as_u64())
            .fold(last, u64::max);
    }
    Ok(last)
}

fn at_once(stage: &Stage, command: &str, machines: &[String]) -> Result<(), Failed> {
    let children: Vec<_> = machines
        .iter()
        .map(|machine| stage.start(&[command, machine]))
        .collect::<Result<_, _>>()?;
    for child in children {
        Stage::finish(child)?;
    }
    Ok(())
}

/// Launches one more cluster of the same size and returns its machines, the control planes first.
/// The workers' name stays with the first cluster.
fn another_cluster(stage: &Stage, name: &str) -> Result<Vec<String>, Failed> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), format!("{SETTINGS}[dns]\nenabled = false\n"))?;
    let settings = file.path().display().to_string();
    let tag = format!("k8s-bootstrap:cluster={name}");
    let roles = ["control-plane"; 3].into_iter().chain(["worker"; 2]);
    let machines = roles
        .map(|role| stage.launch_as(role, &["--tag", &tag, "--settings", &settings]))
        .collect::<Result<Vec<_>, _>>()?;
    until(900, name, || all_are_ready(stage, &machines))?;
    Ok(machines)
}

/// Fails unless each agent is ready, no certificate has expired and the API shows each Node Ready.
fn all_are_ready(stage: &Stage, machines: &[String]) -> Result<(), Failed> {
    for machine in machines {
        let status = stage.agent(machine)?;
        ensure(
            status["stage"] == "ready",
            format!("{machine} says {}", status["message"]),
        )?;
        let all = stage.certificates(machine)?;
        let ended = all.iter().find(|c| c["seconds_left"].as_i64() <= Some(0));
        ensure(ended.is_none(), format!("{machine}: {ended:?}"))?;
    }
    let nodes = "kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes -o json";
    let nodes = json(&stage.shell(&machines[0], nodes)?)?;
    let ready = ready_nodes(&nodes).len();
    ensure(ready == machines.len(), format!("{ready} nodes are Ready"))
}

/// A cluster that is switched off.
struct Off {
    machines: Vec<String>,
    /// When the last of its certificates has expired.
    over: Instant,
}

fn switch_off(stage: &Stage, machines: Vec<String>) -> Result<Off, Failed> {
    let over = Instant::now() + Duration::from_secs(last_end(stage, &machines)? + 1);
    at_once(stage, "stop", &machines)?;
    Ok(Off { machines, over })
}

/// `CLUSTERS` clusters take turns, so that one is on while the others wait until their certificates
/// have expired.
fn all_come_back_after_every_certificate_has_ended(stage: &Stage) -> Result<(), Failed> {
    let mut off = VecDeque::from([switch_off(stage, names(stage)?)?]);
    for number in 2..=wanted("CLUSTERS", 3)? {
        let machines = another_cluster(stage, &format!("cluster-{number}"))?;
        eprintln!("cluster-{number}: {machines:?}");
        off.push_back(switch_off(stage, machines)?);
    }
    for turn in 1..=wanted("SWITCH_OFFS", 10)? {
        let Off { machines, over } = off.pop_front().ok_or("CLUSTERS=0: no cluster")?;
        std::thread::sleep(over.saturating_duration_since(Instant::now()));
        let start = Instant::now();
        at_once(stage, "start", &machines)?;
        until(180, "five that are ready with valid certificates", || {
            all_are_ready(stage, &machines)
        })?;
        let took = start.elapsed().as_secs();
        eprintln!(
            "switched off past the end of every certificate, {turn}: {machines:?} ready after {took} s"
        );
        // What is promised, on an idle machine: `until` waits longer.
        ensure(took <= 180, format!("{machines:?} took {took} s"))?;
        off.push_back(switch_off(stage, machines)?);
    }
    Ok(())
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let scenarios: [Scenario; 3] = [
        (
            "three_control_planes_and_two_workers_are_up",
            three_control_planes_and_two_workers_are_up,
        ),
        (
            "renewals_pass_without_a_failed_request",
            renewals_pass_without_a_failed_request,
        ),
        (
            "all_come_back_after_every_certificate_has_ended",
            all_come_back_after_every_certificate_has_ended,
        ),
    ];
    let trials = scenarios.map(|(name, scenario)| {
        Trial::test(name, move || {
            if let Some(why) = stage::why_not_here() {
                return Err(why.into());
            }
            Stage::shared().play(name, scenario)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    Stage::leave(conclusion.has_failed());
    conclusion.exit();
}
