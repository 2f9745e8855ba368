//! What metrics-server measures, and how it scales the page.

use std::process::Child;
use std::sync::{Mutex, PoisonError};

use lab::visitors::Report;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::stage::{Stage, ensure, until};

/// Many visits, and then few: each in a process of its own.
static VISITS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

const SCALER: [&str; 3] = ["horizontalpodautoscaler", "--namespace=visits", "backend"];

pub fn kubectl_top_tells_what_nodes_and_pods_use(stage: &Stage) -> Result<(), Failed> {
    let ready = stage.ready_nodes()?;
    until(120, "the usage of all nodes", || {
        let top = stage.kubectl(&["top", "nodes", "--no-headers"])?;
        let known = |node: &String| {
            let mut lines = top.lines();
            lines.any(|line| line.starts_with(node.as_str()) && !line.contains("<unknown>"))
        };
        ensure(ready.iter().all(known), format!("{ready:?} in {top}"))
    })?;
    until(120, "the usage of Redis", || {
        let top = stage.kubectl(&["top", "pods", "--namespace=visits", "--no-headers"])?;
        let redis = top.lines().any(|line| line.starts_with("redis-0 "));
        ensure(redis, format!("no usage of redis-0 in {top}"))
    })?;
    let server = stage.get(&["deployment", "--namespace=kube-system", "metrics-server"])?;
    let server = server["spec"]["template"]["spec"]["containers"].to_string();
    ensure(
        server.contains("metrics-server:v") && !server.contains("insecure"),
        format!("it does not verify kubelets: {server}"),
    )
}

/// Sets how much of its CPU request a pod may use, in percent, and how long less must last.
fn target(stage: &Stage, percent: u32, patience: u32) -> Result<(), Failed> {
    let patch = json!({ "spec": {
        "metrics": [{ "type": "Resource", "resource": {
            "name": "cpu",
            "target": { "type": "Utilization", "averageUtilization": percent },
        } }],
        "behavior": { "scaleDown": { "stabilizationWindowSeconds": patience } },
    } });
    let patch = patch.to_string();
    let words = [
        &["patch"],
        &SCALER[..],
        &["--type=merge", "--patch", &patch],
    ]
    .concat();
    stage.kubectl(&words).map(drop)
}

/// The replicas that the page has, if all of them are ready.
fn replicas(stage: &Stage) -> Result<u64, Failed> {
    let page = stage.get(&["deployment", "--namespace=visits", "backend"])?;
    let wanted = &page["spec"]["replicas"];
    ensure(
        page["status"]["replicas"] == *wanted && page["status"]["readyReplicas"] == *wanted,
        format!("{}", page["status"]),
    )?;
    Ok(wanted.as_u64().unwrap_or_default())
}

fn scaler(stage: &Stage) -> Result<Value, Failed> {
    Ok(stage.get(&SCALER)?["status"].clone())
}

/// The machine serves several thousand visits a second before a pod uses 70 % of its request, so the
/// target is lowered.
pub fn more_visits_get_more_pods(stage: &Stage) -> Result<(), Failed> {
    until(120, "two pods of the page", || {
        let there = replicas(stage)?;
        ensure(there == 2, format!("there are {there}"))
    })?;
    target(stage, 5, 0)?;
    let many = stage.start(&["visit", "--rate", "300", "--seconds", "150"])?;
    let few = stage.start(&["visit", "--rate", "10", "--seconds", "240"])?;
    let mut visits = VISITS.lock().unwrap_or_else(PoisonError::into_inner);
    visits.extend([many, few]);
    until(150, "more than two pods", || {
        let there = replicas(stage)?;
        ensure(there > 2, format!("there are {there}: {}", scaler(stage)?))
    })
}

pub fn fewer_visits_leave_two_pods_and_none_has_failed(stage: &Stage) -> Result<(), Failed> {
    let gone = until(240, "only two pods", || {
        let there = replicas(stage)?;
        ensure(there == 2, format!("there are {there}: {}", scaler(stage)?))
    });
    target(stage, 70, 120)?;
    gone?;
    let mut visits = VISITS.lock().unwrap_or_else(PoisonError::into_inner);
    for visits in visits.drain(..) {
        let report: Report = serde_json::from_str(&Stage::finish(visits)?)?;
        ensure(
            report.failed.is_empty() && report.served > 2000,
            format!("{} served, failed: {:#?}", report.served, report.failed),
        )?;
    }
    Ok(())
}
