//! A cluster from its CloudFormation template, alongside the scenarios' own cluster in the same VPC.

use std::path::PathBuf;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::stage::{Stage, ensure, json, list, ready_nodes, text, until};

/// The stack and its cluster.
const NAME: &str = "stacked";
const WORKERS: &str = "stacked-workers";

/// A template, as the agent's command makes it for the lab, in a file.
fn template(stage: &Stage, more: &[&str]) -> Result<(tempfile::TempDir, String), Failed> {
    let render = ["stack", "render", "--", "--cluster", NAME];
    let text = stage.lab(&[&render[..], more].concat())?;
    let folder = tempfile::tempdir()?;
    let path: PathBuf = folder.path().join("stack.yaml");
    std::fs::write(&path, text)?;
    Ok((folder, path.to_string_lossy().into_owned()))
}

pub fn every_kind_of_template_passes_cfn_lint(stage: &Stage) -> Result<(), Failed> {
    let page = [
        "--domain",
        "www.example.com",
        "--hosted-zone",
        "Z0123456789ABCDEFGHIJ",
    ];
    let existing = ["--vpc", "vpc-01234567", "--subnets", "subnet-01234567"];
    for more in [
        &["--size", "seed"][..],
        &["--size", "ha", "--pod-roles"],
        &["--size", "ha", "--outbound", "endpoints"],
        &[&["--size", "ha"][..], &page].concat(),
        &page,
    ] {
        let (_folder, file) = template(stage, more)?;
        stage.lab(&["stack", "lint", &file])?;
    }
    // The lab's own range, which `render` sets, belongs to a new VPC only.
    let refused =
        stage.try_lab(&[&["stack", "render", "--", "--cluster", NAME][..], &existing].concat())?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure(said.contains("--vpc-cidr"), said)
}

/// The control plane and the nodes of the stack's cluster that are Ready.
pub fn cluster(stage: &Stage) -> Result<(String, Vec<String>), Failed> {
    let control_planes = stage.control_planes_of(NAME)?;
    let first = control_planes
        .first()
        .ok_or("the stack has no control plane")?;
    let nodes = json(&stage.kubectl_on(first, "get nodes -o json")?)?;
    Ok((first.clone(), ready_nodes(&nodes)))
}

/// Its workers that run.
pub fn workers(stage: &Stage) -> Result<Vec<Value>, Failed> {
    let of = |machine: &Value| {
        machine["role"] == "worker"
            && machine["phase"] == "running"
            && machine["tags"]["k8s-bootstrap:cluster"] == NAME
    };
    Ok(stage.machines()?.into_iter().filter(of).collect())
}

pub fn a_stack_becomes_a_cluster_that_serves_the_page(stage: &Stage) -> Result<(), Failed> {
    let (_folder, file) = template(stage, &["--size", "seed", "--pod-roles"])?;
    stage.lab(&["stack", "create", NAME, &file])?;
    let (control_plane, ready) = cluster(stage)?;
    ensure(ready.len() == 3, format!("Ready: {ready:?}"))?;
    for worker in workers(stage)? {
        let url = format!("http://{}/", text(&worker["address"]));
        until(180, "the page of the stack's cluster", || {
            let page = stage.lab(&["curl", "--", "--silent", "--fail", "--max-time", "5", &url])?;
            ensure(page.contains("id=\"visits\""), page)
        })?;
    }
    // Backups go to the stack's own bucket, which only exists once there is a stack.
    let settings = "cat /var/lib/cloud/instance/user-data.txt";
    let data = stage.shell(&control_plane, settings)?;
    ensure(data.contains("s3://stacked-backups-"), data)
}

/// Whether a machine can open a connection to a port of another.
fn connects(stage: &Stage, from: &str, to: &str, port: u16) -> Result<bool, Failed> {
    let line = format!(
        "timeout 3 bash -c '</dev/tcp/{to}/{port}' 2>/dev/null && echo open || echo closed"
    );
    Ok(stage.shell(from, &line)?.trim() == "open")
}

pub fn its_security_groups_open_what_nodes_need_and_no_more(stage: &Stage) -> Result<(), Failed> {
    let machines = stage.machines()?;
    let address = |name: &str| {
        let machine = machines.iter().find(|machine| machine["name"] == name);
        text(&machine.unwrap_or(&Value::Null)["address"])
    };
    let (control_plane, _) = cluster(stage)?;
    let workers = workers(stage)?;
    let names: Vec<String> = workers.iter().map(|worker| text(&worker["name"])).collect();
    let [worker, other] = names.as_slice() else {
        return Err(format!("the workers: {names:?}").into());
    };
    let stranger = stage.control_planes()?.remove(0);
    for (from, to, port, expected) in [
        (worker, &control_plane, 6443, true),
        (worker, &control_plane, 7444, true),
        (worker, &control_plane, 2379, false),
        (worker, &control_plane, 10257, false),
        (worker, other, 10250, true),
        (&control_plane, worker, 10250, true),
        (&stranger, &control_plane, 6443, false),
        (&stranger, worker, 10250, false),
        (&stranger, worker, 80, true),
    ] {
        let open = connects(stage, from, &address(to), port)?;
        ensure(
            open == expected,
            format!("{port} of {to} from {from}: open is {open}"),
        )?;
    }
    Ok(())
}

pub fn its_groups_scale_and_replace_their_instances(stage: &Stage) -> Result<(), Failed> {
    let before = workers(stage)?;
    stage.lab(&["stack", "scale", WORKERS, "3"])?;
    ensure(
        cluster(stage)?.1.len() == 4,
        "the third worker is not Ready",
    )?;
    let said = stage.lab(&["stack", "scale", WORKERS, "1"])?;
    ensure(said.matches("its hook was completed").count() == 2, &*said)?;
    let said = stage.lab(&["stack", "refresh", WORKERS])?;
    ensure(said.contains("its hook was completed"), &*said)?;
    let after = workers(stage)?;
    let names = |machines: &[Value]| -> Vec<String> {
        machines
            .iter()
            .map(|machine| text(&machine["name"]))
            .collect()
    };
    let (old, new) = (names(&before), names(&after));
    ensure(
        new.len() == 1 && !old.contains(&new[0]),
        format!("{old:?} {new:?}"),
    )?;
    until(60, "only the nodes that are left", || {
        let nodes = json(&stage.kubectl_on(&cluster(stage)?.0, "get nodes -o json")?)?;
        let count = list(&nodes["items"]).len();
        ensure(count == 2, format!("{count} nodes"))
    })
}

pub fn a_deleted_stack_takes_its_instances_along(stage: &Stage) -> Result<(), Failed> {
    // The last pods have nowhere to go: their budgets would hold the group for the whole five
    // minutes of its hook.
    let without = "delete pdb --all-namespaces --all";
    stage.kubectl_on(&cluster(stage)?.0, without)?;
    let said = stage.lab(&["stack", "delete", NAME])?;
    ensure(said.matches("its hook was completed").count() == 2, &*said)?;
    ensure(workers(stage)?.is_empty(), "workers are left")?;
    ensure(
        stage.control_planes_of(NAME)?.is_empty(),
        "a control plane is left",
    )?;
    // The scenarios' own cluster is as it was.
    ensure(
        !stage.ready_nodes()?.is_empty(),
        "the other cluster is gone",
    )
}
