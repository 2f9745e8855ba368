//! The application on the cluster: through the ingress, over the loss of what it stands on.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, list, text, until};

/// The page as a visitor outside of the cluster gets it from a worker's port 80.
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

/// On which machine the only Redis runs.
fn redis_machine(stage: &Stage) -> Result<String, Failed> {
    let node = text(&stage.get(&["pod", "-n", "visits", "redis-0"])?["spec"]["nodeName"]);
    let status = crate::stage::json(&stage.lab(&["status", "--json"])?)?;
    list(&status["machines"])
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
