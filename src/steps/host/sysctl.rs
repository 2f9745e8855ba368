//! Kernel parameters, now and after every boot.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::Serialize;

use super::files;
use crate::{
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    ports::{Host, World},
    steps::{State, Step},
    wait::Notes,
};

const SYSCTL: &str = "/etc/sysctl.d/90-k8s-bootstrap.conf";

/// Without these, pods cannot reach each other or services.
const REQUIRED: [(&str, &str); 3] = [
    ("net.bridge.bridge-nf-call-ip6tables", "1"),
    ("net.bridge.bridge-nf-call-iptables", "1"),
    ("net.ipv4.ip_forward", "1"),
];

/// What the kubelet's `protectKernelDefaults` compares, and room for the watches of many pods. A
/// node in a container may be unable to set any of them, and still works.
const ADVISORY: [(&str, &str); 8] = [
    ("fs.inotify.max_user_instances", "8192"),
    ("fs.inotify.max_user_watches", "1048576"),
    ("kernel.keys.root_maxbytes", "25000000"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
];

/// The parameters that this node needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sysctl {
    /// Must be set; every check reads them back.
    pub required: BTreeMap<String, String>,
    /// Set if the kernel allows it; otherwise the agent warns once.
    pub advisory: BTreeMap<String, String>,
}

impl Sysctl {
    /// The parameters that every node needs.
    pub fn wanted(_settings: &Settings, _identity: &Identity) -> Result<Self> {
        let owned = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        Ok(Self {
            required: owned(&REQUIRED),
            advisory: owned(&ADVISORY),
        })
    }

    fn file(&self) -> files::File {
        let lines: Vec<String> = self
            .required
            .iter()
            .chain(&self.advisory)
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        let content = format!("{}{}\n", files::HEADER, lines.join("\n"));
        (SYSCTL.into(), content)
    }
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

async fn value(host: &dyn Host, key: &str) -> Result<Option<String>> {
    let content = host.read(&path(key)).await?;
    Ok(content.map(|value| String::from_utf8_lossy(&value).trim().to_owned()))
}

/// Whether a limit is already higher, which the image or its administrator chose.
fn is_ample(found: Option<&str>, key: &str, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    (key.starts_with("fs.inotify.") || key.starts_with("kernel.keys."))
        && found.and_then(number) > number(wanted)
}

async fn set(host: &dyn Host, key: &str, wanted: &str) -> Result<()> {
    if value(host, key).await?.as_deref() == Some(wanted) {
        return Ok(());
    }
    host.set_kernel_parameter(&path(key), wanted)
        .await
        .map_err(|error| error.during(format!("the kernel rejects {key} = {wanted}")))?;
    let found = value(host, key).await?;
    if found.as_deref() == Some(wanted) {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the kernel did not apply {key} = {wanted}: the value is {}",
        found.as_deref().unwrap_or("nothing")
    )))
}

#[async_trait]
impl Step for Sysctl {
    async fn check(&self, world: &World) -> Result<State> {
        let host = world.host.as_ref();
        for (key, wanted) in &self.required {
            let found = value(host, key).await?;
            if found.as_ref() != Some(wanted) {
                let found = found.as_deref().unwrap_or("missing");
                return Ok(State::Differs(format!("{key} is {found}, not {wanted}")));
            }
        }
        files::check(host, &[self.file()]).await
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let host = world.host.as_ref();
        for (key, wanted) in &self.required {
            set(host, key, wanted).await.map_err(|error| {
                error.hint(format!(
                    "pods need it: make {key} writable, and for net.bridge.* load br_netfilter"
                ))
            })?;
        }
        let mut untaken = Vec::new();
        for (key, wanted) in &self.advisory {
            if is_ample(value(host, key).await?.as_deref(), key, wanted) {
                continue;
            }
            if set(host, key, wanted).await.is_err() {
                untaken.push(format!("{key}={wanted}"));
            }
        }
        if !untaken.is_empty() {
            tracing::warn!(
                parameters = untaken.join(" "),
                "the kernel does not allow these parameters here; the node works without them"
            );
        }
        files::write(host, &[self.file()]).await
    }
}
