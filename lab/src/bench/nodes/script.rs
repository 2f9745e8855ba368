//! The user-data that a careful engineer would write: bench/plain-kubeadm, with the versions,
//! digests and sources that the agent has in the lab.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::components::pins::Defaults;
use crate::components::platform;
use crate::layout::Layout;
use crate::lifecycle::Image;
use crate::machine::cgroups::CgroupVersion;
use crate::network::ARTIFACTS;
use crate::state::Kind;
use crate::userdata;

/// How a worker joins, from `kubeadm token create --print-join-command`.
#[derive(Debug, PartialEq, Eq)]
pub struct Join {
    endpoint: String,
    token: String,
    ca_hash: String,
}

impl Join {
    /// Reads kubeadm's command.
    pub fn parse(command: &str) -> Option<Self> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|w| *w == word)?;
            words.get(at + 1).map(|w| (*w).to_owned())
        };
        Some(Self {
            endpoint: after("join")?,
            token: after("--token")?,
            ca_hash: after("--discovery-token-ca-cert-hash")?,
        })
    }
}

/// User-data of a first control plane.
pub fn control_plane(layout: &Layout) -> Result<String> {
    whole(layout, &[], "control-plane.sh")
}

/// User-data of a worker.
pub fn worker(layout: &Layout, join: &Join) -> Result<String> {
    let values = [
        ("ENDPOINT", join.endpoint.as_str()),
        ("TOKEN", &join.token),
        ("CA_HASH", &join.ca_hash),
    ];
    whole(layout, &values, "worker.sh")
}

fn whole(layout: &Layout, values: &[(&str, &str)], last: &str) -> Result<String> {
    let read = |name: &str| {
        let file = layout.repository().join("bench/plain-kubeadm").join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let image = Image::load(layout)?;
    let settings = userdata::settings(Kind::Container, CgroupVersion::here(), &image.pins, "", "")?;
    let mut text = format!("#!/bin/sh\n{}", about(&settings.parse()?)?);
    for (name, value) in values {
        assign(&mut text, name, value);
    }
    Ok(text + &read("node.sh")? + &read(last)?)
}

fn assign(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name}='{}'", value.replace('\'', r"'\''"));
}

/// Versions, downloads and what the lab's containers need, from the settings of its agents.
fn about(settings: &Table) -> Result<String> {
    let defaults = Defaults::read()?;
    let mut text = String::new();
    let mut download = |name: &str, url: &str, sha256: Option<&str>| -> Result<()> {
        let sha256 =
            sha256.with_context(|| format!("the lab's settings have no sha256 of {name}"))?;
        let name = name.to_uppercase().replace('-', "_");
        assign(&mut text, &format!("{name}_URL"), &mirrored(settings, url));
        assign(&mut text, &format!("{name}_SHA256"), sha256);
        Ok(())
    };
    for (name, pin) in &defaults.pins {
        let version = at(settings, &["pins", name, "version"]).unwrap_or(&pin.version);
        let sha256 = at(settings, &["pins", name, "sha256", platform::ARCH]);
        download(name, &pin.url(version), sha256)?;
    }
    let calico = value(settings, &["addons", "calico", "sources"]).and_then(|list| list.get(0));
    let of_calico = |key: &str| calico?.get(key)?.as_str();
    let url = of_calico("url").context("the lab's settings have no manifest of calico")?;
    download("calico", url, of_calico("sha256"))?;

    let tags = &defaults.kubernetes;
    let driver = at(settings, &["kubelet", "config", "cgroupDriver"]).unwrap_or("systemd");
    let kubelet = lines(settings, "kubelet", &["cgroupDriver"])?;
    for (name, value) in [
        ("MIRROR", format!("http://{ARTIFACTS}:5000").as_str()),
        ("KUBERNETES_VERSION", &tags.version),
        ("ETCD_TAG", &tags.etcd_tag),
        ("COREDNS_TAG", &tags.coredns_tag),
        ("PAUSE_VERSION", &tags.pause_tag),
        ("CGROUP_DRIVER", driver),
        ("KUBELET", &kubelet),
        ("KUBE_PROXY", &lines(settings, "kube_proxy", &[])?),
    ] {
        assign(&mut text, name, value);
    }
    Ok(text)
}

fn value<'a>(settings: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let first = settings.get(*first)?;
    rest.iter().try_fold(first, |value, key| value.get(*key))
}

fn at<'a>(settings: &'a Table, path: &[&str]) -> Option<&'a str> {
    value(settings, path)?.as_str()
}

/// The URL at the lab's artifact server.
fn mirrored(settings: &Table, url: &str) -> String {
    let mirrors = value(settings, &["downloads", "mirrors"]).and_then(Value::as_table);
    let found = mirrors.into_iter().flatten().find_map(|(site, mirror)| {
        let rest = url.strip_prefix(site.as_str())?;
        Some(format!("{}{rest}", mirror.as_str()?))
    });
    found.unwrap_or_else(|| url.to_owned())
}

/// A component's configuration as lines of YAML, without these keys.
fn lines(settings: &Table, component: &str, without: &[&str]) -> Result<String> {
    let config = value(settings, &[component, "config"]).and_then(Value::as_table);
    let mut text = Vec::new();
    for (key, value) in config.into_iter().flatten() {
        if !without.contains(&key.as_str()) {
            text.push(format!("{key}: {}", serde_json::to_string(value)?));
        }
    }
    Ok(text.join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_that_kubeadm_prints_is_read() {
        let printed = "kubeadm join 10.42.0.10:6443 --token ab.cd --discovery-token-ca-cert-hash sha256:00 \n";
        let join = Join {
            endpoint: "10.42.0.10:6443".into(),
            token: "ab.cd".into(),
            ca_hash: "sha256:00".into(),
        };
        assert_eq!(Join::parse(printed), Some(join));
        assert_eq!(Join::parse("error"), None);
    }

    #[test]
    fn the_script_has_what_the_agent_has_in_the_lab() {
        let sha = "a".repeat(64);
        let pins = format!(
            "[pins.kubelet]\nversion = \"9.9.9\"\nsha256.{arch} = \"{sha}\"\n\
             [[addons.calico.sources]]\nurl = \"https://raw.githubusercontent.com/c.yaml\"\nsha256 = \"00\"\n",
            arch = platform::ARCH,
        );
        let settings =
            userdata::settings(Kind::Container, CgroupVersion::V1, &pins, "Z1", "").unwrap();
        let mut table: Table = settings.parse().unwrap();
        // The lab provides every pin.
        for name in Defaults::read().unwrap().pins.keys() {
            let pins = table["pins"].as_table_mut().unwrap();
            pins.entry(name).or_insert_with(|| {
                let text = format!("version = \"1\"\nsha256.{} = \"0\"", platform::ARCH);
                Value::Table(text.parse().unwrap())
            });
        }
        let text = about(&table).unwrap();
        for line in [
            format!(
                "KUBELET_URL='http://{ARTIFACTS}/dl.k8s.io/release/v9.9.9/bin/linux/{}/kubelet'",
                platform::ARCH
            ),
            format!("KUBELET_SHA256='{sha}'"),
            format!("CALICO_URL='http://{ARTIFACTS}/raw.githubusercontent.com/c.yaml'"),
            "CGROUP_DRIVER='cgroupfs'".to_owned(),
            "KUBE_PROXY='conntrack: {\"maxPerCore\":0,\"min\":0}'".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("failCgroupV1: false"), "{text}");
    }
}
