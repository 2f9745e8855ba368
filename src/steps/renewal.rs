//! Renews the certificates that kubeadm made on this control plane, with kubeadm and the CAs on
//! disk.
//!
//! Each renewal that starts leaves a note: a file per certificate, with the old serial number. The
//! note is removed once the certificate has another serial number and the part that reads it was
//! restarted with it. A person requests a renewal through the same notes. So if the agent is
//! interrupted, its next start continues.

mod static_pods;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;

use self::static_pods::{PARTS, Part, ROUNDS};
use crate::{
    certificates::{Inventory, Keeper, Source, Why, due, inventory::SOURCES},
    config::Settings,
    error::Result,
    identity::Identity,
    kubernetes::paths,
    ports::{Command, Host, World},
    steps::{State, Step},
    wait::{self, Backoff, Notes, Probe},
};

/// How long a renewal may take, in seconds.
pub const DEADLINE: u64 = 540;

/// Folder of the notes, one per certificate whose renewal was started.
pub const NOTES: &str = "/etc/kubernetes/k8s-bootstrap/renewal";

/// kubeadm writes key and certificate one after the other within this time.
const WRITTEN: Duration = Duration::from_secs(2);

/// Which certificates are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Certificates that are no longer accepted: at once, even if nothing else works.
    Useless,
    /// Certificates with a third of their lifetime left, and those that a person wants renewed: one
    /// control plane at a time, and each part only while the others are healthy.
    Due,
}

/// The control plane's certificates, renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Renewal {
    /// Which certificates to renew.
    pub which: Which,
    /// This node's name.
    pub node: String,
    /// This node's address, which identifies its etcd member.
    pub address: Ipv4Addr,
    /// Lifetime of a new certificate, in seconds.
    pub lifetime: u64,
    /// How long each wait for a healthy API and etcd may take, in seconds.
    pub deadline: u64,
}

impl Renewal {
    /// The renewal on this control plane.
    pub fn new(which: Which, settings: &Settings, me: &Identity) -> Self {
        Self {
            which,
            node: me.node_name.clone(),
            address: me.private_ip,
            lifetime: settings.certificates.lifetime,
            deadline: settings.deadlines.api,
        }
    }

    /// The certificates to renew now, each with the reason.
    async fn todo(
        &self,
        world: &World,
        inventory: &Inventory,
    ) -> Result<Vec<(&'static Source, Why)>> {
        let host = world.host.as_ref();
        let lifetime = Duration::from_secs(self.lifetime);
        let due = due(inventory, lifetime, world.clock.now())?;
        let mut todo = Vec::new();
        for source in SOURCES {
            let mut why = due
                .iter()
                .find(|(name, _)| *name == source.name)
                .map(|(_, why)| *why);
            if let Some(before) = noted(host, source).await? {
                let now = inventory.get(source.name).map(|c| &c.serial);
                why = match now {
                    None => Some(Why::Broken),
                    Some(serial) if *serial == before => why.or(Some(Why::Third)),
                    Some(_) => why,
                };
            }
            if let Some(why) = why
                && why.is_useless() == (self.which == Which::Useless)
            {
                todo.push((source, why));
            }
        }
        Ok(todo)
    }

    async fn renew(&self, world: &World) -> Result<()> {
        let read = || Inventory::read(world.host.as_ref());
        let mut todo = self.todo(world, &read().await?).await?;
        if todo.iter().any(|(_, why)| *why == Why::Broken) {
            // An incomplete file may still be being written, for example by a person.
            world.clock.sleep(WRITTEN).await;
            todo = self.todo(world, &read().await?).await?;
        }
        for (source, why) in todo {
            note(world.host.as_ref(), source).await?;
            let words = if why == Why::Broken {
                for file in source.files() {
                    world.host.remove(Path::new(file)).await?;
                }
                made_by(source)
            } else {
                vec!["certs", "renew", source.name]
            };
            let command = Command::new(
                "kubeadm",
                words
                    .iter()
                    .chain(&["--config", paths::INIT_CONFIG])
                    .copied(),
            );
            world.commands.succeed(command).await?;
        }
        Ok(())
    }

    /// Restarts the parts that read their certificates only at their start.
    async fn restart(&self, world: &World, notes: &Notes) -> Result<()> {
        let host = world.host.as_ref();
        for round in ROUNDS {
            let inventory = Inventory::read(host).await?;
            let mut stale = Vec::new();
            for part in round {
                if is_stale(host, &inventory, *part).await? {
                    stale.push(*part);
                }
            }
            if self.which == Which::Due && !stale.is_empty() {
                self.wait_for_health(world, notes).await?;
            }
            for part in &stale {
                part.restart(host).await?;
            }
            if self.which == Which::Due {
                for part in stale {
                    self.wait_for_part(world, notes, part).await?;
                }
            }
        }
        if self.which == Which::Due {
            // Before the next control plane may renew.
            self.wait_for_health(world, notes).await?;
        }
        Ok(())
    }

    async fn wait_for_health(&self, world: &World, notes: &Notes) -> Result<()> {
        let backoff = Backoff::local(Duration::from_secs(self.deadline));
        let clock = world.clock.as_ref();
        let what = "the API and etcd to be healthy";
        wait::until(clock, notes, backoff, what, || async {
            let unwell = self.unwell(world).await?;
            Ok(unwell.map_or(Probe::Done(()), Probe::NotYet))
        })
        .await
    }

    async fn wait_for_part(&self, world: &World, notes: &Notes, part: Part) -> Result<()> {
        let backoff = Backoff::local(Duration::from_secs(self.deadline));
        let clock = world.clock.as_ref();
        let what = format!("{} to run with its renewed certificate", part.name);
        wait::until(clock, notes, backoff, &what, || async {
            let missing = part.not_ready(world, &self.node).await?;
            Ok(missing.map_or(Probe::Done(()), Probe::NotYet))
        })
        .await
        .map_err(|error| error.hint("look at `journalctl -u kubelet` and at /var/log/pods"))
    }

    /// Why no part may be stopped now; `None` if one may.
    async fn unwell(&self, world: &World) -> Result<Option<String>> {
        if !world.cluster.ready().await? {
            return Ok(Some("/readyz does not return ok".to_owned()));
        }
        let (mut voters, mut healthy) = (0, 0);
        for member in world.etcd.members().await? {
            let answers = world.etcd.is_healthy(&member).await;
            if member.address == self.address && !answers {
                return Ok(Some("this node's etcd member is not healthy".to_owned()));
            }
            if !member.learner {
                voters += 1;
                healthy += usize::from(answers);
            }
        }
        let majority = healthy * 2 > voters;
        Ok((!majority).then(|| format!("{healthy} of {voters} etcd members are healthy")))
    }

    /// Removes the notes of completed renewals.
    async fn conclude(host: &dyn Host) -> Result<()> {
        let inventory = Inventory::read(host).await?;
        for source in SOURCES {
            let Some(before) = noted(host, source).await? else {
                continue;
            };
            let renewed = inventory
                .get(source.name)
                .is_some_and(|c| c.serial != before);
            let part = PARTS.iter().find(|part| part.reads == source.name);
            let stale = match part {
                Some(part) => is_stale(host, &inventory, *part).await?,
                None => false,
            };
            if renewed && !stale {
                host.remove(&place(source)).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Step for Renewal {
    async fn check(&self, world: &World) -> Result<State> {
        let host = world.host.as_ref();
        let inventory = Inventory::read(host).await?;
        let todo = self.todo(world, &inventory).await?;
        if let Some((source, why)) = todo.first() {
            let more = match todo.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            return Ok(State::Differs(format!("{} {why}{more}", source.name)));
        }
        if self.which == Which::Useless {
            return Ok(State::AsWanted);
        }
        for part in PARTS {
            if is_stale(host, &inventory, part).await? {
                let (part, reads) = (part.name, part.reads);
                return Ok(State::Differs(format!(
                    "{part} still runs with the old {reads}"
                )));
            }
        }
        for source in SOURCES {
            if noted(host, source).await?.is_some() {
                let name = source.name;
                return Ok(State::Differs(format!(
                    "the renewal of {name} is not finished"
                )));
            }
        }
        Ok(State::AsWanted)
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        self.renew(world).await?;
        self.restart(world, notes).await?;
        Self::conclude(world.host.as_ref()).await
    }
}

/// Asks this control plane's agent to renew all certificates that it manages.
pub async fn ask_for_all(host: &dyn Host) -> Result<()> {
    for source in SOURCES.iter().filter(|s| s.keeper == Keeper::Agent) {
        if host.exists(Path::new(source.file)).await? {
            note(host, source).await?;
        }
    }
    Ok(())
}

/// kubeadm's arguments to make a missing certificate.
fn made_by(source: &Source) -> Vec<&'static str> {
    match source.name.strip_suffix(".conf") {
        Some(name) => vec!["init", "phase", "kubeconfig", name],
        None => vec!["init", "phase", "certs", source.name],
    }
}

async fn is_stale(host: &dyn Host, inventory: &Inventory, part: Part) -> Result<bool> {
    let before = match Source::of(part.reads) {
        Some(source) => noted(host, source).await?,
        None => None,
    };
    let now = inventory.get(part.reads).map(|c| &c.serial);
    let renewed = before.is_some() && now.is_some() && before.as_ref() != now;
    part.is_stale(host, renewed).await
}

fn place(source: &Source) -> PathBuf {
    Path::new(NOTES).join(source.name)
}

/// The serial number that a certificate had when its renewal started; `None` without a note.
async fn noted(host: &dyn Host, source: &Source) -> Result<Option<String>> {
    let note = host.read(&place(source)).await?;
    Ok(note.map(|note| String::from_utf8_lossy(&note).into_owned()))
}

/// Writes a note; an earlier one stays.
async fn note(host: &dyn Host, source: &Source) -> Result<()> {
    let path = place(source);
    if host.exists(&path).await? {
        return Ok(());
    }
    let inventory = Inventory::read(host).await?;
    let serial = inventory.get(source.name).map(|c| c.serial.as_str());
    // No certificate has this serial number.
    let serial = serial.unwrap_or("none");
    host.write(&path, serial.as_bytes(), 0o600).await
}

#[cfg(test)]
mod tests;
