//! A cluster from a bundle, of machines that reach no registry.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, json, ready_nodes, text, until};

/// Next to the scenarios' own cluster, which keeps the workers' name.
const CLUSTER: &str = "sealed";
const SETTINGS: &str = "[dns]\nenabled = false\n";

pub fn a_cluster_without_registries_comes_from_its_bundle(stage: &Stage) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, SETTINGS)?;
    let tag = format!("k8s-bootstrap:cluster={CLUSTER}");
    let file = file.to_string_lossy();
    let options = ["--air-gapped", "--tag", &tag, "--settings", &file];
    let control_plane = stage.launch_as("control-plane", &options)?;
    let worker = stage.launch_as("worker", &options)?;

    let registry = "curl --silent --max-time 3 http://10.42.0.4:5000/v2/ || echo unreachable";
    for machine in [&control_plane, &worker] {
        let said = stage.shell(machine, registry)?;
        ensure(said.trim() == "unreachable", said)?;
    }
    until(600, "both nodes are Ready", || {
        let nodes = json(&stage.kubectl_on(&control_plane, "get nodes -o json")?)?;
        ensure(ready_nodes(&nodes).len() == 2, nodes.to_string())
    })?;
    // Its images are pulled by the kubelet alone.
    let machines = stage.machines()?;
    let launched = machines.iter().find(|machine| machine["name"] == *worker);
    let url = format!("http://{}/", text(&launched.ok_or("no worker")?["address"]));
    until(300, "the page of the sealed cluster", || {
        let page = stage.lab(&["curl", "--", "--silent", "--fail", "--max-time", "5", &url])?;
        ensure(page.contains("id=\"visits\""), page)
    })?;
    for machine in [worker, control_plane] {
        stage.lab(&["terminate", &machine, "--hard"])?;
    }
    Ok(())
}
