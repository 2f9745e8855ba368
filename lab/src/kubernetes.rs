//! The cluster in the lab, through the first running control plane.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::layout::{Layout, namespace};
use crate::lifecycle::Image;
use crate::machine::enter;
use crate::state::State;

/// kubectl inside a control plane's network, with the cluster's admin kubeconfig.
pub fn kubectl(layout: &Layout, arguments: &[String]) -> Result<Command> {
    let state = State::require(layout)?;
    let mut said = Vec::new();
    for machine in state.control_planes() {
        let found = enter::output(
            layout,
            &machine.name,
            &["cat", "/etc/kubernetes/admin.conf"],
        );
        match found {
            Ok(output) if output.status.success() => {
                let file = layout.run().join("kubeconfig");
                fs::write(&file, output.stdout)?;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net=/run/netns/{}", namespace(&machine.name)))
                    .arg("--")
                    .arg(Image::load(layout)?.kubectl)
                    .args(arguments)
                    .env("KUBECONFIG", &file);
                return Ok(command);
            }
            Ok(output) => said.push(format!(
                "{}: {}",
                machine.name,
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => said.push(format!("{}: {error:#}", machine.name)),
        }
    }
    bail!(
        "no control plane has an admin kubeconfig yet: {}",
        said.join("; ")
    )
}

/// Replaces this process by kubectl. Returns only on failure.
pub fn become_kubectl(layout: &Layout, arguments: &[String]) -> Result<()> {
    Err(anyhow!(kubectl(layout, arguments)?.exec()).context("cannot start nsenter"))
}

/// Names of the nodes that are Ready.
pub fn ready_nodes(layout: &Layout) -> Result<Vec<String>> {
    let arguments = ["get", "nodes", "-o", "json", "--request-timeout=5s"].map(str::to_owned);
    let output = kubectl(layout, &arguments)?
        .output()
        .context("cannot start kubectl")?;
    if !output.status.success() {
        bail!(
            "kubectl: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    parse_ready(&output.stdout)
}

fn parse_ready(list: &[u8]) -> Result<Vec<String>> {
    let list: serde_json::Value =
        serde_json::from_slice(list).context("kubectl's list of nodes is not JSON")?;
    let nodes = list["items"].as_array().cloned().unwrap_or_default();
    let is_ready = |node: &serde_json::Value| {
        node["status"]["conditions"].as_array().is_some_and(|all| {
            all.iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
    };
    Ok(nodes
        .iter()
        .filter(|node| is_ready(node))
        .filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_nodes_whose_ready_condition_is_true_count() {
        let list = serde_json::json!({ "items": [
            { "metadata": { "name": "a" }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } },
            { "metadata": { "name": "b" }, "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } },
            { "metadata": { "name": "c" }, "status": {} },
        ] });
        assert_eq!(parse_ready(list.to_string().as_bytes()).unwrap(), ["a"]);
    }
}
