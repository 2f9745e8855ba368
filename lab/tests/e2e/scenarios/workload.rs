//! The application on the cluster: through the ingress, and during failures of what it depends on.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, list, text, until};

/// The page as a visitor outside the cluster gets it from a worker's port 80.
fn visit(stage: &Stage, address: &str) -> Result<(u64, String), Failed> {
    let url = format!("http://{address}/");
    let output = stage.try_lab(&["curl", "--", "-sS", "--max-time", "10", "--fail", &url])?;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(
        output.status.success(),
        format!("{address}: {}", String::from_utf8_lossy(&output.stderr)),
    )?;
    let count = between(&page, "id=\"visits\" value=\"", "\"")
        .ok_or_else(|| format!("{address}: the page counts nothing:\n{page}"))?;
    let node = between(&page, "id=\"node\">", "<").unwrap_or_default();
    Ok((count.parse()?, node))
}

fn between(page: &str, before: &str, after: &str) -> Option<String> {
    let rest = page.split_once(before)?.1;
    Some(rest.split_once(after)?.0.to_owned())
}

/// The addresses of the Ready workers.
fn workers(stage: &Stage) -> Result<Vec<String>, Failed> {
    let ready = stage.ready_nodes()?;
    let nodes = stage.get(&["nodes", "-l", "!node-role.kubernetes.io/control-plane"])?;
    Ok(list(&nodes["items"])
        .iter()
        .filter(|node| ready.contains(&text(&node["metadata"]["name"])))
        .flat_map(|node| list(&node["status"]["addresses"]).to_vec())
        .filter(|address| address["type"] == "InternalIP")
        .map(|address| text(&address["address"]))
        .collect())
}

pub fn each_worker_serves_the_page_and_the_count_rises(stage: &Stage) -> Result<(), Failed> {
    let addresses = workers(stage)?;
    ensure(addresses.len() >= 2, format!("workers: {addresses:?}"))?;
    let mut last = 0;
    for address in addresses.iter().chain(&addresses) {
        let (count, _) = until(300, "the page", || visit(stage, address))?;
        ensure(
            count > last,
            format!("{address} counts {count} after {last}"),
        )?;
        last = count;
    }
    Ok(())
}

/// The machine that the only Redis runs on.
fn redis_machine(stage: &Stage) -> Result<String, Failed> {
    let node = text(&stage.get(&["pod", "-n", "visits", "redis-0"])?["spec"]["nodeName"]);
    stage
        .machines()?
        .iter()
        .find(|machine| machine["node"] == node.as_str() && machine["phase"] != "terminated")
        .map(|machine| text(&machine["name"]))
        .ok_or_else(|| format!("no machine is {node}").into())
}

/// AOF `everysec` may lose the last second: the scenario waits until nothing is left to lose.
pub fn the_count_goes_on_after_redis_and_its_machine_restart(stage: &Stage) -> Result<(), Failed> {
    let address = workers(stage)?.swap_remove(0);
    let (before, _) = until(60, "the page", || visit(stage, &address))?;
    stage.kubectl(&["delete", "pod", "-n", "visits", "redis-0", "--wait=true"])?;
    let (after_pod, _) = until(120, "the count after Redis restarted", || {
        visit(stage, &address)
    })?;
    ensure(
        after_pod > before,
        format!("{before} before, {after_pod} after the pod restarted"),
    )?;
    until(30, "the append-only file on disk", || {
        let info = stage.kubectl(&[
            "exec",
            "-n",
            "visits",
            "redis-0",
            "--",
            "valkey-cli",
            "info",
            "persistence",
        ])?;
        ensure(info.contains("aof_pending_bio_fsync:0"), info)
    })?;
    let machine = redis_machine(stage)?;
    stage.lab(&["stop", &machine])?;
    stage.lab(&["start", &machine])?;
    let (after_machine, _) = until(300, "the count after the machine restarted", || {
        workers(stage)?
            .iter()
            .find_map(|worker| visit(stage, worker).ok())
            .ok_or_else(|| "no worker serves the count".into())
    })?;
    ensure(
        after_machine > after_pod,
        format!("{after_pod} before, {after_machine} after the machine restarted"),
    )
}

/// The addresses of the workers' name, resolved on a machine in the VPC.
fn record(stage: &Stage) -> Result<Vec<String>, Failed> {
    let found = stage.exec("cp1", &["getent", "ahostsv4", lab::zone::WORKERS])?;
    let mut addresses: Vec<String> = found
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

fn record_holds_the_ready_workers(stage: &Stage) -> Result<(), Failed> {
    let mut ready = workers(stage)?;
    ready.sort();
    let there = record(stage)?;
    ensure(
        there == ready,
        format!("{there:?} are in the record, {ready:?} are Ready"),
    )
}

pub fn the_workers_name_stands_for_exactly_the_ready_ones(stage: &Stage) -> Result<(), Failed> {
    until(60, "the record of the workers", || {
        record_holds_the_ready_workers(stage)
    })?;
    let node = text(&stage.agent("w2")?["node"]);
    let address = stage.get(&["node", &node])?;
    let address = list(&address["status"]["addresses"])
        .iter()
        .find(|address| address["type"] == "InternalIP")
        .map(|address| text(&address["address"]))
        .unwrap_or_default();
    stage.kubectl(&["cordon", &node])?;
    let left = until(60, "the cordoned worker to leave the record", || {
        let there = record(stage)?;
        ensure(!there.contains(&address), format!("{there:?} are there"))
    });
    stage.kubectl(&["uncordon", &node])?;
    left?;
    until(60, "the worker to come back", || {
        record_holds_the_ready_workers(stage)
    })
}

/// An additional worker is terminated while 50 visits a second go to all of them.
pub fn a_terminated_worker_leaves_without_a_visitor_noticing(stage: &Stage) -> Result<(), Failed> {
    stage.lab(&["launch", "--role", "worker"])?;
    let newest = stage.machines()?.pop().unwrap_or_default();
    let (name, address) = (text(&newest["name"]), text(&newest["address"]));
    until(90, "the new worker in the record", || {
        let there = record(stage)?;
        ensure(there.contains(&address), format!("{there:?} are there"))
    })?;
    until(120, "the new worker to serve the page", || {
        visit(stage, &address)
    })?;
    // Puts a pod of the page on the worker that leaves, so that one has to move.
    let node = text(&newest["node"]);
    stage.kubectl(&["rollout", "restart", "-n", "visits", "deployment/backend"])?;
    stage.kubectl(&[
        "rollout",
        "status",
        "-n",
        "visits",
        "deployment/backend",
        "--timeout=180s",
    ])?;

    let visits = stage.start(&["visit", "--rate", "50", "--seconds", "90"])?;
    let terminated_ms = lab::visitors::now_ms();
    let terminated = stage.start(&["terminate", &name])?;
    until(60, "the terminated worker to leave the record", || {
        let there = record(stage)?;
        ensure(!there.contains(&address), format!("{there:?} are there"))
    })?;
    Stage::finish(terminated)?;
    let report: lab::visitors::Report = serde_json::from_str(&Stage::finish(visits)?)?;
    let since: Vec<_> = report
        .failed
        .iter()
        .filter(|failure| failure.began_ms >= terminated_ms)
        .collect();
    ensure(
        since.is_empty() && report.served > 4000,
        format!(
            "{} served; {} failed, of which began after the termination: {since:#?}",
            report.served,
            report.failed.len()
        ),
    )?;
    until(60, "the Node to be deleted", || stage.has_no_node(&node))?;
    until(120, "the pods of the page elsewhere", || {
        let page = stage.get(&["deployment", "-n", "visits", "backend"])?;
        ensure(
            page["status"]["readyReplicas"] == page["spec"]["replicas"],
            format!("{}", page["status"]),
        )
    })
}
