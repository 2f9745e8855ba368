//! containerd's configuration, version 3 (containerd 2.0 and up).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::CERTS;
use crate::{
    config::{Overrides, Settings},
    error::{Context, Result},
    steps::host::files::HEADER,
};

/// The socket of the CRI and of `ctr`.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

/// The document, as far as it differs from containerd's own defaults.
#[derive(Serialize)]
struct Config {
    version: u32,
    root: &'static str,
    state: &'static str,
    grpc: Grpc,
    plugins: Plugins,
}

#[derive(Serialize)]
struct Grpc {
    address: &'static str,
}

#[derive(Serialize)]
struct Plugins {
    #[serde(rename = "io.containerd.cri.v1.images")]
    images: ImagePlugin,
    #[serde(rename = "io.containerd.cri.v1.runtime")]
    runtime: RuntimePlugin,
}

#[derive(Serialize)]
struct ImagePlugin {
    snapshotter: &'static str,
    #[allow(clippy::struct_field_names)] // containerd's name
    pinned_images: BTreeMap<&'static str, String>,
    registry: Registry,
}

#[derive(Serialize)]
struct Registry {
    config_path: &'static str,
}

#[derive(Serialize)]
struct RuntimePlugin {
    cni: Cni,
    containerd: Runtimes,
}

#[derive(Serialize)]
struct Cni {
    bin_dirs: [&'static str; 1],
    conf_dir: &'static str,
}

#[derive(Serialize)]
struct Runtimes {
    default_runtime_name: &'static str,
    runtimes: BTreeMap<&'static str, Runc>,
}

#[derive(Serialize)]
struct Runc {
    runtime_type: &'static str,
    options: RuncOptions,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RuncOptions {
    binary_name: &'static str,
    systemd_cgroup: bool,
}

/// config.toml, with the user's settings merged over it (RFC 7386: null removes).
pub(super) fn document(settings: &Settings) -> Result<String> {
    let config = Config {
        version: 3,
        root: "/var/lib/containerd",
        state: "/run/containerd",
        grpc: Grpc { address: SOCKET },
        plugins: Plugins {
            images: ImagePlugin {
                snapshotter: "overlayfs",
                // The same image as for kubeadm and the kubelet; otherwise pods hang if it cannot
                // be pulled.
                pinned_images: BTreeMap::from([("sandbox", settings.kubernetes.pause_image())]),
                registry: Registry { config_path: CERTS },
            },
            runtime: RuntimePlugin {
                cni: Cni {
                    bin_dirs: ["/opt/cni/bin"],
                    conf_dir: "/etc/cni/net.d",
                },
                containerd: Runtimes {
                    default_runtime_name: "runc",
                    runtimes: BTreeMap::from([(
                        "runc",
                        Runc {
                            runtime_type: "io.containerd.runc.v2",
                            options: RuncOptions {
                                binary_name: "/usr/local/sbin/runc",
                                systemd_cgroup: true,
                            },
                        },
                    )]),
                },
            },
        },
    };
    merged(&config, &settings.containerd.config)
        .map_err(|error| error.hint("correct [containerd.config]: it must be valid as TOML"))
}

fn merged(config: &Config, overrides: &Overrides) -> Result<String> {
    let what = || "cannot generate containerd's config.toml".to_owned();
    let mut document = serde_json::to_value(config).requiring(what)?;
    json_patch::merge(&mut document, &Value::Object(overrides.clone()));
    let text = toml::to_string(&document).requiring(what)?;
    Ok(format!("{HEADER}{text}"))
}
