//! Features that the kernel must have, built in or as modules.

use std::path::Path;

use async_trait::async_trait;
use serde::Serialize;

use super::files;
use crate::{
    config::Settings,
    error::Result,
    identity::Identity,
    ports::{Host, World},
    steps::{State, Step},
    wait::Notes,
};

const MODULES_LOAD: &str = "/etc/modules-load.d/k8s-bootstrap.conf";

/// The features that containers, services and the pod network need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// The features, with the module of each if it is not built in.
    pub features: Vec<Feature>,
}

/// One feature of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// The module that provides it, as `modprobe` names it.
    pub module: &'static str,
    /// How to see that it is available, built in or loaded.
    pub shown_by: Shown,
}

/// How to see that a feature is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// A line of /proc/filesystems.
    FileSystem,
    /// This path exists.
    Path(&'static str),
    /// Not visible before it is used: never required, loaded if possible.
    Nothing,
}

const FEATURES: [Feature; 4] = [
    Feature {
        module: "overlay",
        shown_by: Shown::FileSystem,
    },
    Feature {
        module: "br_netfilter",
        shown_by: Shown::Path("/proc/sys/net/bridge"),
    },
    Feature {
        module: "nf_conntrack",
        shown_by: Shown::Path("/proc/sys/net/netfilter/nf_conntrack_max"),
    },
    Feature {
        module: "vxlan",
        shown_by: Shown::Nothing,
    },
];

/// Modules as the kernel's package lists them.
struct Listed {
    built_in: String,
    loadable: String,
}

impl Listed {
    async fn of(host: &dyn Host) -> Result<Self> {
        let folder = Path::new("/lib/modules").join(host.machine().await?.kernel);
        Ok(Self {
            built_in: files::text(host, &folder.join("modules.builtin")).await?,
            loadable: files::text(host, &folder.join("modules.dep")).await?,
        })
    }

    fn is_built_in(&self, module: &str) -> bool {
        lists(&self.built_in, module)
    }

    fn is_loadable(&self, module: &str) -> bool {
        lists(&self.loadable, module)
    }
}

/// Whether a line starts with the path of the module: `kernel/net/x.ko.zst: kernel/net/y.ko.zst`.
fn lists(list: &str, module: &str) -> bool {
    list.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split_once(".ko")
            .is_some_and(|(name, _)| name.replace('-', "_") == module)
    })
}

impl Kernel {
    /// The features that every node needs.
    pub fn wanted(_settings: &Settings, _identity: &Identity) -> Result<Self> {
        Ok(Self {
            features: FEATURES.to_vec(),
        })
    }

    /// The list of modules that systemd loads at boot; `None` if all are built in.
    fn modules_load(&self, listed: &Listed) -> Option<String> {
        let modules: Vec<&str> = self
            .features
            .iter()
            .map(|feature| feature.module)
            .filter(|module| listed.is_loadable(module))
            .collect();
        (!modules.is_empty()).then(|| format!("{}{}\n", files::HEADER, modules.join("\n")))
    }

    async fn missing(&self, host: &dyn Host, listed: &Listed) -> Result<Vec<Feature>> {
        let mut missing = Vec::new();
        for feature in &self.features {
            if !is_there(host, feature, listed).await? {
                missing.push(*feature);
            }
        }
        Ok(missing)
    }
}

async fn is_there(host: &dyn Host, feature: &Feature, listed: &Listed) -> Result<bool> {
    let module = Path::new("/sys/module").join(feature.module);
    if listed.is_built_in(feature.module) || host.exists(&module).await? {
        return Ok(true);
    }
    match feature.shown_by {
        Shown::FileSystem => Ok(files::text(host, Path::new("/proc/filesystems"))
            .await?
            .lines()
            .any(|line| line.split_ascii_whitespace().last() == Some(feature.module))),
        Shown::Path(path) => host.exists(Path::new(path)).await,
        // Without the kernel's module list nobody can tell; with it, a loadable module is to be
        // loaded.
        Shown::Nothing => Ok(!listed.is_loadable(feature.module)),
    }
}

#[async_trait]
impl Step for Kernel {
    async fn check(&self, world: &World) -> Result<State> {
        let host = world.host.as_ref();
        let listed = Listed::of(host).await?;
        let missing: Vec<&str> = self
            .missing(host, &listed)
            .await?
            .iter()
            .map(|feature| feature.module)
            .collect();
        if !missing.is_empty() {
            return Ok(State::Differs(format!(
                "the kernel lacks {}",
                missing.join(", ")
            )));
        }
        match self.modules_load(&listed) {
            Some(content) => files::check(host, &[(MODULES_LOAD.into(), content)]).await,
            None => Ok(State::AsWanted),
        }
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let host = world.host.as_ref();
        let listed = Listed::of(host).await?;
        for feature in self.missing(host, &listed).await? {
            let loaded = host.load_module(feature.module).await;
            match (loaded, feature.shown_by) {
                (Ok(()), _) => {}
                (Err(error), Shown::Nothing) => {
                    tracing::warn!(
                        module = feature.module,
                        error = error.one_line(),
                        "cannot determine whether the kernel has this feature"
                    );
                }
                (Err(error), _) => {
                    return Err(error
                        .hint(format!(
                            "boot a kernel that has {} built in or as a module, such as the image's own; on Ubuntu, modules are in linux-modules-extra",
                            feature.module
                        ))
                        .for_a_person());
                }
            }
        }
        if let Some(content) = self.modules_load(&listed) {
            files::write(host, &[(MODULES_LOAD.into(), content)]).await?;
        }
        Ok(())
    }
}
