//! Downloaded programs: kubeadm, kubelet, kubectl, containerd, runc, CNI plugins.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Pin, Settings},
    error::{Context, Error, Result},
    identity::Identity,
    ports::{Download, Host, Role, Target, World, is_sha256},
    steps::{State, Step},
    wait::Notes,
};

/// Every artifact by the name of its pin, with its destination; first those that containerd needs,
/// since images can be pulled once it runs.
pub const ARTIFACTS: [(&str, Kind); 6] = [
    ("containerd", Kind::Archive("/usr/local/bin")),
    ("runc", Kind::Program("/usr/local/sbin/runc")),
    ("cni-plugins", Kind::Archive("/opt/cni/bin")),
    ("kubelet", Kind::Program("/usr/local/bin/kubelet")),
    ("kubeadm", Kind::Program("/usr/local/bin/kubeadm")),
    ("kubectl", Kind::Program("/usr/local/bin/kubectl")),
];

/// How an artifact is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One program; its path.
    Program(&'static str),
    /// A gzipped tar archive of programs; their folder.
    Archive(&'static str),
}

/// A verified download in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// The name of its pin.
    pub name: String,
    /// The pinned version.
    pub version: String,
    /// URL, digest and destination.
    pub download: Download,
}

/// The files that the agent unpacked from an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Where the archive came from.
    pub url: String,
    /// The archive's own sha256.
    pub sha256: String,
    /// sha256 of each file by its name.
    pub files: BTreeMap<String, String>,
}

impl Inventory {
    /// Where the inventory of the archive with this sha256 is kept.
    pub fn path(sha256: &str) -> PathBuf {
        Path::new("/var/lib/k8s-bootstrap/artifacts")
            .join(format!("{}.json", sha256.to_ascii_lowercase()))
    }
}

impl Artifact {
    /// The artifact of this name, as pinned in the settings for this architecture.
    pub fn wanted(name: &str, settings: &Settings, identity: &Identity) -> Result<Self> {
        let Some((_, kind)) = ARTIFACTS.iter().find(|(known, _)| *known == name) else {
            return Err(Error::refused(format!("there is no artifact `{name}`")));
        };
        let Some(pin) = settings.pins.get(name) else {
            return Err(Error::refused(format!("nothing is pinned as `{name}`"))
                .hint(format!("add [pins.{name}] with version, url and sha256")));
        };
        let sha256 = digest(name, pin, &identity.arch)?;
        let url = settings.download_url(&address(name, pin, &identity.arch)?, &sha256);
        Ok(Self {
            name: name.to_owned(),
            version: pin.version.clone(),
            download: Download {
                url,
                sha256,
                target: match *kind {
                    Kind::Program(path) => Target::Program(path.into()),
                    Kind::Archive(folder) => Target::Programs(folder.into()),
                },
            },
        })
    }

    /// The artifacts of this role. kubectl is for the people on a control plane: nothing on a worker
    /// runs it, and it is a third of what a worker would download.
    pub fn all(settings: &Settings, identity: &Identity) -> Result<Vec<Self>> {
        let names = ARTIFACTS.iter().map(|(name, _)| *name);
        names
            .filter(|name| identity.role == Role::ControlPlane || *name != "kubectl")
            .map(|name| Self::wanted(name, settings, identity))
            .collect()
    }
}

fn digest(name: &str, pin: &Pin, arch: &str) -> Result<String> {
    let Some(digest) = pin.sha256.get(arch) else {
        let known: Vec<&str> = pin.sha256.keys().map(String::as_str).collect();
        return Err(Error::refused(format!(
            "{name} {} is not pinned for {arch}, only for {}",
            pin.version,
            known.join(", ")
        ))
        .hint(format!("add {arch} = \"...\" to [pins.{name}.sha256]")));
    };
    if !is_sha256(digest) {
        return Err(Error::refused(format!(
            "pins.{name}.sha256.{arch} is `{digest}`, which is not a sha256"
        ))
        .hint("a sha256 has 64 hexadecimal digits, as `sha256sum` prints them"));
    }
    Ok(digest.to_ascii_lowercase())
}

fn address(name: &str, pin: &Pin, arch: &str) -> Result<String> {
    let address = pin
        .url
        .replace("{version}", &pin.version)
        .replace("{arch}", arch);
    if address.contains(['{', '}']) {
        return Err(Error::refused(format!(
            "pins.{name}.url has an unknown placeholder: {}",
            pin.url
        ))
        .hint("only {version} and {arch} are replaced"));
    }
    let url = url::Url::parse(&address)
        .requiring(|| format!("pins.{name}.url is not a URL: {address}"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(
            Error::refused(format!("pins.{name}.url is not an HTTP URL: {address}"))
                .hint("use an https:// URL; an http:// one is verified by its digest too"),
        );
    }
    Ok(address)
}

#[async_trait]
impl Step for Artifact {
    async fn check(&self, world: &World) -> Result<State> {
        let found = match &self.download.target {
            Target::File(path) | Target::Program(path) => {
                is_installed(world.host.as_ref(), path, &self.download.sha256).await?
            }
            Target::Programs(folder) => self.unpacked(world.host.as_ref(), folder).await?,
        };
        Ok(match found {
            None => State::AsWanted,
            Some(differs) => State::Differs(format!("{} {}: {differs}", self.name, self.version)),
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        notes.waiting_for(format!("the download of {}", self.download.url));
        world
            .downloads
            .fetch(&self.download)
            .await
            .map_err(|error| error.during(format!("cannot install {} {}", self.name, self.version)))
    }
}

impl Artifact {
    async fn unpacked(&self, host: &dyn Host, folder: &Path) -> Result<Option<String>> {
        let Some(text) = host.read(&Inventory::path(&self.download.sha256)).await? else {
            return Ok(Some("not installed".to_owned()));
        };
        // Treat an unreadable inventory as absent: it is written again.
        let Ok(inventory) = serde_json::from_slice::<Inventory>(&text) else {
            return Ok(Some("its inventory is damaged".to_owned()));
        };
        for (name, sha256) in &inventory.files {
            let differs = is_installed(host, &folder.join(name), sha256).await?;
            if differs.is_some() {
                return Ok(differs);
            }
        }
        Ok(None)
    }
}

async fn is_installed(host: &dyn Host, path: &Path, sha256: &str) -> Result<Option<String>> {
    Ok(match host.sha256(path).await? {
        None => Some(format!("{} is missing", path.display())),
        Some(found) if found != sha256 => Some(format!("{} has another sha256", path.display())),
        Some(_) => None,
    })
}
