//! Pulls images ahead, while the node waits for other things anyway.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::containerd::{CERTS, CTR};
use crate::{
    config::{Settings, names_its_registry, overridden},
    error::{Error, Result},
    identity::Identity,
    ports::{Command, Role, World},
    steps::{State, Step},
    wait::{Backoff, Notes, Probe, until},
};

/// Number of concurrent pulls; more only compete for the disk.
const AT_ONCE: usize = 3;

/// The registry that has a separate folder for CoreDNS.
const DEFAULT_REPOSITORY: &str = "registry.k8s.io";

/// Images in containerd's `k8s.io` namespace, which is the kubelet's.
///
/// containerd's CRI plugin adopts them as they arrive, and pins the sandbox image by name, so that
/// the kubelet's garbage collection leaves it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Images {
    /// References with their registry's host.
    pub images: Vec<String>,
    /// How long one image may take, in seconds.
    pub deadline: u64,
}

impl Images {
    /// Those that a control plane's own start waits for; nothing if `images.preload` is off.
    pub fn of_control_plane(settings: &Settings) -> Result<Self> {
        let kubernetes = &settings.kubernetes;
        let repository = &kubernetes.image_repository;
        let mut images = vec![
            kubernetes.pause_image(),
            format!("{repository}/etcd:{}", kubernetes.etcd_tag),
        ];
        let components = [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
        ];
        images.extend(components.map(|name| component(settings, name)));
        Self::of(settings, images)
    }

    /// All others that this node needs; nothing if `images.preload` is off.
    pub fn wanted(settings: &Settings, identity: &Identity) -> Result<Self> {
        Self::of(settings, others(settings, identity.role))
    }

    fn of(settings: &Settings, images: Vec<String>) -> Result<Self> {
        let images = if settings.images.preload {
            images
        } else {
            Vec::new()
        };
        for image in &images {
            if !names_its_registry(image) {
                return Err(
                    Error::refused(format!("`{image}` does not name its registry's host"))
                        .hint("write it in full, such as docker.io/library/redis:8, in `images` of the add-on or in [kubernetes]"),
                );
            }
        }
        Ok(Self {
            images,
            deadline: settings.deadlines.download,
        })
    }
}

/// The image of a program that has Kubernetes's own version.
fn component(settings: &Settings, name: &str) -> String {
    let kubernetes = &settings.kubernetes;
    format!(
        "{}/{name}:v{}",
        kubernetes.image_repository, kubernetes.version
    )
}

/// The images of a role besides those of [`Images::of_control_plane`]; first those that its own
/// start waits for.
fn others(settings: &Settings, role: Role) -> Vec<String> {
    let kubernetes = &settings.kubernetes;
    let repository = &kubernetes.image_repository;
    let mut images = Vec::new();
    if role == Role::Worker {
        images.push(kubernetes.pause_image());
    }
    images.push(component(settings, "kube-proxy"));
    let mut addons: Vec<_> = settings.addons.values().filter(|a| a.enabled).collect();
    addons.sort_by_key(|addon| addon.order);
    for addon in addons {
        for image in &addon.images {
            let other = overridden(&addon.image_overrides, image);
            let image = other.map_or(image.as_str(), |(_, to)| to);
            // `ctr` takes a password only where every process of the node sees it. The kubelet pulls
            // these itself.
            if !settings.images.needs_login(image) && !images.iter().any(|known| known == image) {
                images.push(image.to_owned());
            }
        }
    }
    if role == Role::ControlPlane {
        // CoreDNS starts here, since there are no workers yet, but only after the network. As in
        // kubeadm, only the default registry has a folder for it.
        let coredns = if repository == DEFAULT_REPOSITORY {
            "coredns/coredns"
        } else {
            "coredns"
        };
        images.push(format!("{repository}/{coredns}:{}", kubernetes.coredns_tag));
    }
    images
}

impl Images {
    async fn missing(&self, world: &World) -> Result<Vec<&String>> {
        let list = ctr(&["images", "ls", "--quiet"]);
        let output = world.commands.succeed(list).await?;
        let there: BTreeSet<&str> = output.stdout.lines().map(str::trim).collect();
        let missing = self.images.iter().filter(|i| !there.contains(i.as_str()));
        Ok(missing.collect())
    }

    async fn pull(&self, world: &World, notes: &Notes, image: &str) -> Result<()> {
        let deadline = Duration::from_secs(self.deadline);
        let pull = ctr(&["images", "pull", "--hosts-dir", CERTS, image]).within(deadline);
        let what = format!("the image {image}");
        until(
            world.clock.as_ref(),
            notes,
            Backoff::remote(deadline),
            &what,
            async || {
                let output = world.commands.run(pull.clone()).await?;
                let said = output.stderr.to_lowercase();
                output
                    .success(&pull)
                    .map_err(|error| refusal(&said, error))?;
                Ok(Probe::Done(()))
            },
        )
        .await
        .map_err(|error| error.during(format!("cannot pull {image}")))
    }
}

/// Separates errors that a person must fix unless they pass from errors that the next attempt may
/// not see.
fn refusal(said: &str, error: Error) -> Error {
    // A missing "content digest" is containerd's own error: content was garbage-collected while
    // another pull needed it.
    if said.contains(": not found") && !said.contains("content digest") {
        return error
            .unless_it_passes()
            .hint("the registry has no such image: check the tags in [kubernetes], `images` of the add-on and [images.mirrors]");
    }
    if ["authorization failed", "401 unauthorized", "403 forbidden"]
        .iter()
        .any(|sign| said.contains(sign))
    {
        return error
            .unless_it_passes()
            .hint("the registry refuses to serve the image without credentials: check its name and [images.mirrors]");
    }
    error
}

fn ctr(args: &[&str]) -> Command {
    let namespace = ["--namespace", "k8s.io"];
    Command::new(CTR, namespace.iter().chain(args).copied())
}

#[async_trait]
impl Step for Images {
    async fn check(&self, world: &World) -> Result<State> {
        if self.images.is_empty() {
            return Ok(State::AsWanted);
        }
        // Before containerd runs nothing can be asked, so everything is to be pulled.
        let Ok(missing) = self.missing(world).await else {
            return Ok(State::Differs(format!(
                "containerd does not list its images; {} are needed",
                self.images.len()
            )));
        };
        Ok(match missing[..] {
            [] => State::AsWanted,
            [one] => State::Differs(format!("{one} is not pulled yet")),
            [first, ..] => State::Differs(format!(
                "{first} and {} more images are not pulled yet",
                missing.len() - 1
            )),
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        let missing = self.missing(world).await?;
        notes.waiting_for(format!("{} images to be pulled", missing.len()));
        let mut pulls = Vec::with_capacity(missing.len());
        for image in missing {
            pulls.push(self.pull(world, notes, image));
        }
        stream::iter(pulls)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}
