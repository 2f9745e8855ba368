//! User-data of the lab's machines: what a person would pass to EC2, plus the agent's settings that
//! a container needs, and one on cgroup v1. A virtual machine needs none of those.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::components::VISITS;
use crate::layout::Layout;
use crate::machine::cgroups::CgroupVersion;
use crate::network::ARTIFACTS;
use crate::state::Kind;

/// Settings of every machine in the lab besides the pins: mirrors, and the ingress controller whose
/// image can be built here.
const SETTINGS: &str = r#"
[downloads.mirrors]
"https://dl.k8s.io" = "http://ARTIFACTS/dl.k8s.io"
"https://github.com" = "http://ARTIFACTS/github.com"
"https://raw.githubusercontent.com" = "http://ARTIFACTS/raw.githubusercontent.com"

[images.mirrors]
"*" = ["http://ARTIFACTS:5000"]
"ARTIFACTS:5001" = ["http://ARTIFACTS:5001"]
[images.logins]
"ARTIFACTS:5001" = "file:///etc/lab-registry-login"

[addons.ingress-nginx]
enabled = false
[addons.ingress-traefik]
enabled = true
[addons.metrics-server]
enabled = true
[addons.visits]
enabled = true
values = { image = "VISITS" }
"#;

/// What a container needs. None of it is a default of the agent.
const CONTAINER: &str = r#"
[kubeadm]
ignore_preflight_errors = ["SystemVerification"]

[kubelet.config]
# The machines share the disk of the machine that they run on, whose shares say nothing here.
imageGCHighThresholdPercent = 100

[kubelet.config.evictionHard]
"imagefs.available" = "1Gi"
"nodefs.available" = "1Gi"
"memory.available" = "100Mi"

[kube_proxy.config.conntrack]
maxPerCore = 0
min = 0

[containerd.config.plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
"#;

/// What a container on cgroup v1 needs as well.
const CGROUP_V1: &str = r#"
[node]
allow_cgroup_v1 = true

[kubelet.config]
failCgroupV1 = false
cgroupDriver = "cgroupfs"

[containerd.config.plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"#;

/// The agent's binary, as published on the artifact server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// The URL that machines download it from.
    pub url: String,
    /// The published file on this machine.
    pub binary: PathBuf,
}

/// Finds the agent's binary: `LAB_AGENT`, else the release build.
pub fn agent_binary(layout: &Layout) -> Result<PathBuf> {
    let path = std::env::var_os("LAB_AGENT").map_or_else(
        || {
            let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
            layout
                .repository()
                .join("target")
                .join(triple)
                .join("release/k8s-bootstrap")
        },
        PathBuf::from,
    );
    if !path.is_file() {
        bail!(
            "the agent's binary is not at {}: build it with `cargo build --release -p k8s-bootstrap`, \
             or name another with LAB_AGENT",
            path.display()
        );
    }
    Ok(path)
}

/// Publishes the binary on the artifact server.
pub fn publish_agent(layout: &Layout, binary: &Path) -> Result<Agent> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let folder = layout.run().join("www/k8s-bootstrap").join(&sha256);
    fs::create_dir_all(&folder)?;
    let published = folder.join("k8s-bootstrap");
    fs::copy(binary, &published).context("cannot publish the agent's binary")?;
    Ok(Agent {
        url: format!("http://{ARTIFACTS}/k8s-bootstrap/{sha256}/k8s-bootstrap"),
        binary: published,
    })
}

/// The agent's settings: the lab's own for this kind of machine on a host with these control groups,
/// the pins, the hosted zone, and what the caller adds.
pub fn settings(
    kind: Kind,
    cgroups: CgroupVersion,
    pins: &str,
    zone: &str,
    extra: &str,
) -> Result<String> {
    let mut merged: toml::Table = SETTINGS
        .replace("ARTIFACTS", &ARTIFACTS.to_string())
        .replace("VISITS", VISITS)
        .parse()
        .context("the lab's settings are not TOML")?;
    if kind == Kind::Container {
        merge(&mut merged, CONTAINER.parse()?);
        if cgroups == CgroupVersion::V1 {
            merge(&mut merged, CGROUP_V1.parse()?);
        }
    }
    merge(
        &mut merged,
        pins.parse().context("the components' pins are not TOML")?,
    );
    merge(&mut merged, crate::zone::settings(zone).parse()?);
    merge(
        &mut merged,
        extra.parse().context("the extra settings are not TOML")?,
    );
    toml::to_string(&merged).context("cannot write the settings")
}

/// The same settings without mirrors, from a bundle.
pub fn from_bundle(settings: &str, bundle: &str) -> Result<String> {
    let mut merged: toml::Table = settings.parse().context("the settings are not TOML")?;
    merged.remove("downloads");
    merged.remove("images");
    merge(
        &mut merged,
        bundle
            .parse()
            .context("the bundle's settings are not TOML")?,
    );
    toml::to_string(&merged).context("cannot write the settings")
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The user-data, as the agent's own command creates it for its users. The role comes from a tag.
pub fn compose(agent: &Path, url: &str, settings: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
    fs::write(file.path(), settings).context("cannot write the settings")?;
    let output = Command::new(agent)
        .args(["user-data", "--url", url, "--config"])
        .arg(file.path())
        .output()
        .with_context(|| format!("cannot run {}", agent.display()))?;
    if !output.status.success() {
        bail!(
            "the agent refuses to make user-data from the lab's settings:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("the user-data is not text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn add_ons_that_the_lab_enables_are_the_agent_s_and_fit_each_other() {
        let merged: toml::Table = settings(Kind::Container, CgroupVersion::V1, "", "Z1", "")
            .unwrap()
            .parse()
            .unwrap();
        let defaults: toml::Table = include_str!("../../src/config/defaults.toml")
            .parse()
            .unwrap();
        let addons = merged["addons"].as_table().unwrap();
        for name in addons.keys() {
            assert!(defaults["addons"].get(name).is_some(), "{name}");
        }
        // Two controllers would compete for the workers' ports.
        let on = |name: &&str| addons[*name]["enabled"].as_bool() == Some(true);
        let ingress = ["ingress-nginx", "ingress-traefik"]
            .iter()
            .filter(|n| on(n));
        assert_eq!(ingress.collect::<Vec<_>>(), [&"ingress-traefik"]);
    }

    #[test]
    fn with_cgroup_v2_a_container_has_the_drivers_that_ship() {
        let of = |kind, cgroups| -> toml::Table {
            let text = settings(kind, cgroups, "", "Z1", "").unwrap();
            text.parse().unwrap()
        };
        let v1 = of(Kind::Container, CgroupVersion::V1);
        assert_eq!(
            v1["kubelet"]["config"]["cgroupDriver"].as_str(),
            Some("cgroupfs")
        );
        let v2 = of(Kind::Container, CgroupVersion::V2);
        assert!(v2["kubelet"]["config"].get("cgroupDriver").is_none());
        assert!(v2.get("node").is_none());
        assert!(of(Kind::Vm, CgroupVersion::V1).get("kubelet").is_none());
    }

    #[test]
    fn settings_are_merged_table_by_table_and_later_ones_win() {
        let pins = "[pins.runc]\nversion = \"1.5.2\"\n";
        let extra = "[kubelet.config]\nmaxPods = 20\ncgroupDriver = \"systemd\"\n";
        let merged: toml::Table = settings(Kind::Container, CgroupVersion::V1, pins, "Z1", extra)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(merged["pins"]["runc"]["version"].as_str(), Some("1.5.2"));
        let kubelet = &merged["kubelet"]["config"];
        assert_eq!(kubelet["maxPods"].as_integer(), Some(20));
        assert_eq!(kubelet["cgroupDriver"].as_str(), Some("systemd"));
        assert_eq!(kubelet["failCgroupV1"].as_bool(), Some(false));
        assert_eq!(
            merged["images"]["mirrors"]["*"][0].as_str(),
            Some("http://10.42.0.4:5000")
        );
    }
}
