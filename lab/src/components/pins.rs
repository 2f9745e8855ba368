//! What the agent downloads: its defaults, and the lab's overlay, which points it to the components
//! that were built here.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;

use super::platform;

/// The part of the agent's defaults that determines its downloads.
#[derive(Debug, Deserialize)]
pub struct Defaults {
    /// Each `[pins.NAME]` by its name.
    pub pins: BTreeMap<String, Pin>,
    /// Each `[addons.NAME]` by its name.
    pub addons: BTreeMap<String, Addon>,
    /// Tags of the control plane's images.
    pub kubernetes: Tags,
}

/// One download.
#[derive(Debug, Deserialize)]
pub struct Pin {
    /// The version in the URL.
    pub version: String,
    /// URL with `{version}` and `{arch}`.
    pub url: String,
    /// The file's digest by architecture, `amd64` or `arm64`.
    pub sha256: BTreeMap<String, String>,
}

/// Manifests that the agent applies together.
#[derive(Debug, Deserialize)]
pub struct Addon {
    /// Manifests in the order in which they are applied.
    pub sources: Vec<Manifest>,
    /// Images that nodes pull before they need them.
    #[serde(default)]
    pub images: Vec<String>,
}

/// A manifest of an add-on.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// Where the agent gets it: `https://...`, or `embedded:NAME` for the agent's own.
    pub url: String,
    /// The digest that it must have; empty for the agent's own manifests.
    #[serde(default)]
    pub sha256: String,
}

/// Tags that go with a version of Kubernetes.
#[derive(Debug, Deserialize)]
pub struct Tags {
    /// kubeadm's version, without the `v`.
    pub version: String,
    /// Tag of etcd's image.
    pub etcd_tag: String,
    /// Tag of the DNS server's image.
    pub coredns_tag: String,
    /// Tag of the sandbox's image.
    pub pause_tag: String,
}

impl Defaults {
    /// The defaults that the agent is built with.
    ///
    /// # Errors If they do not have the expected form.
    pub fn read() -> Result<Self> {
        toml::from_str(include_str!("../../../src/config/defaults.toml"))
            .context("read the agent's src/config/defaults.toml")
    }
}

impl Pin {
    /// The URL of `version` for this machine.
    pub fn url(&self, version: &str) -> String {
        self.url
            .replace("{version}", version)
            .replace("{arch}", platform::ARCH)
    }
}

/// The replacement of a pin's default.
pub struct Provided {
    /// Version without a leading `v`.
    pub version: String,
    /// Digest for this machine's architecture.
    pub sha256: String,
}

/// The replacement of an add-on's default.
pub struct ProvidedAddon {
    /// Its only manifest.
    pub manifest: Manifest,
    /// The images in the manifest.
    pub images: Vec<String>,
}

/// The TOML to merge into the agent's defaults.
///
/// # Errors None are expected: the data consists of strings.
pub fn text(
    defaults: &Defaults,
    pins: &BTreeMap<String, Provided>,
    addons: &BTreeMap<&str, ProvidedAddon>,
) -> Result<String> {
    let pins: BTreeMap<_, _> = pins
        .iter()
        .map(|(name, pin)| {
            let pin = json!({
                "version": pin.version,
                "sha256": { platform::ARCH: pin.sha256 },
            });
            (name, pin)
        })
        .collect();
    let addons: BTreeMap<_, _> = addons
        .iter()
        .map(|(name, addon)| {
            let Manifest { url, sha256 } = &addon.manifest;
            let mut settings = json!({ "sources": [{ "url": url, "sha256": sha256 }] });
            let early = defaults
                .addons
                .get(*name)
                .map(|addon| addon.images.as_slice());
            let early: Vec<&String> = early
                .unwrap_or_default()
                .iter()
                .filter_map(|image| addon.images.iter().find(|there| same_name(there, image)))
                .collect();
            if !early.is_empty() {
                settings["images"] = json!(early);
            }
            (name, settings)
        })
        .collect();
    let text = toml::to_string(&json!({ "pins": pins, "addons": addons }))?;
    Ok(text)
}

/// Whether two images differ at most in registry and tag.
fn same_name(one: &str, other: &str) -> bool {
    fn name(image: &str) -> Option<&str> {
        let (_, path) = image.split_once('/')?;
        Some(path.split_once(':')?.0)
    }
    name(one).is_some() && name(one) == name(other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use toml::{Table, Value};

    use super::super::families::{
        CALICO, CNI, CONTAINERD, COREDNS, ETCD, KUBERNETES, LOCAL_PATH, METRICS_SERVER, RUNC,
    };
    use super::super::manifests::ADDONS;
    use super::*;

    /// Whether each setting of `overlay` is one of `defaults`, of the same type.
    fn covered(overlay: &Table, defaults: &Table, path: &str) {
        for (key, value) in overlay {
            let path = format!("{path}.{key}");
            let default = defaults.get(key).unwrap_or_else(|| panic!("{path}"));
            match (value, default) {
                (Value::Table(inner), Value::Table(default)) => {
                    covered(inner, default, &path);
                }
                (value, default) => assert!(value.same_type(default), "{path}"),
            }
        }
    }

    /// The version in the address of an add-on's first manifest.
    fn of_addon(defaults: &Defaults, name: &str) -> String {
        let url = &defaults.addons[name].sources[0].url;
        let version = url.split("/v").nth(1).unwrap();
        version.split('/').next().unwrap().to_owned()
    }

    #[test]
    fn the_page_names_each_version_that_differs_from_the_pins_and_no_other() {
        let page = include_str!("../../README.md");
        let defaults = Defaults::read().unwrap();
        let pin = |name: &str| defaults.pins[name].version.clone();
        let tags = &defaults.kubernetes;
        let etcd = tags.etcd_tag.split('-').next().unwrap().to_owned();
        let coredns = tags.coredns_tag.trim_start_matches('v').to_owned();
        for (name, pinned, family) in [
            ("Kubernetes", pin("kubelet"), KUBERNETES),
            ("containerd", pin("containerd"), CONTAINERD),
            ("runc", pin("runc"), RUNC),
            ("CNI plugins", pin("cni-plugins"), CNI),
            ("etcd", etcd, ETCD),
            ("CoreDNS", coredns, COREDNS),
            ("Calico", of_addon(&defaults, "calico"), CALICO),
            (
                "local-path-provisioner",
                of_addon(&defaults, "storage"),
                LOCAL_PATH,
            ),
            (
                "metrics-server",
                of_addon(&defaults, "metrics-server"),
                METRICS_SERVER,
            ),
        ] {
            let built = family.version;
            let row = format!("| {name} | {pinned} | {built} |");
            let rows: Vec<&str> = page
                .lines()
                .filter(|line| line.starts_with(&format!("| {name} |")))
                .collect();
            let wanted: &[&str] = if pinned == built { &[] } else { &[&row] };
            assert_eq!(rows, wanted, "{name}");
        }
    }

    #[test]
    fn the_overlay_names_only_settings_that_the_defaults_have() {
        let defaults = Defaults::read().unwrap();
        let provided = defaults
            .pins
            .keys()
            .map(|name| {
                let provided = Provided {
                    version: "9.9.9".into(),
                    sha256: "0".repeat(64),
                };
                (name.clone(), provided)
            })
            .collect();
        let addons = ADDONS
            .iter()
            .map(|buildable| {
                let addon = ProvidedAddon {
                    manifest: Manifest {
                        url: "https://example.com/x.yaml".into(),
                        sha256: "1".repeat(64),
                    },
                    images: vec![
                        "docker.io/calico/node:v3".into(),
                        "docker.io/calico/kube-controllers:v3".into(),
                    ],
                };
                (buildable.addon, addon)
            })
            .collect();
        let text = text(&defaults, &provided, &addons).unwrap();

        let overlay: Table = text.parse().unwrap();
        let whole: Table = include_str!("../../../src/config/defaults.toml")
            .parse()
            .unwrap();
        covered(&overlay, &whole, "");
        let early = &overlay["addons"]["calico"]["images"];
        let node = Value::String("docker.io/calico/node:v3".into());
        assert_eq!(early.as_array().unwrap(), &[node]);
        let pins = overlay["pins"].as_table().unwrap();
        assert_eq!(pins.len(), defaults.pins.len());
        assert_eq!(
            pins["kubeadm"]["sha256"][platform::ARCH].as_str(),
            Some("0".repeat(64).as_str())
        );
    }

    #[test]
    fn a_pin_s_url_is_that_of_this_machine() {
        let pin = Pin {
            version: "1.0.0".into(),
            url: "https://example.com/v{version}/x-{version}-{arch}".into(),
            sha256: BTreeMap::new(),
        };
        assert_eq!(
            pin.url("2.0.0"),
            format!("https://example.com/v2.0.0/x-2.0.0-{}", platform::ARCH)
        );
    }
}
