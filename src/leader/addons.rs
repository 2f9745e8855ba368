//! Reconciles the add-ons other than the network's: on the control plane that leads.
//!
//! A cycle applies what differs from its record, removes what is no longer wanted, and checks
//! roll-outs; it waits for none of them. A failure of one add-on is reported, retried later, and
//! stops nothing else.

use std::{collections::BTreeMap, time::Duration};

use tracing::{info, warn};

use crate::{
    config::Settings,
    error::{Error, Result},
    leader::{self, Leader},
    ports::{ObjectRef, World},
    report::{AddonReport, AddonState, AddonsReport},
    steps::addons::{
        Addon,
        applied::{self, Record},
        references,
    },
    wait::{Pauses, schedules::ADDON, within},
};

/// The deadline for applying one add-on: shorter than the Lease, which is renewed first, so two
/// leaders never work at the same time.
const ATTEMPT: Duration = Duration::from_secs(40);

/// How long one object may be refused for temporary reasons; the next cycle tries again.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

/// Objects of these kinds hold what only a person may delete: data, or objects of others.
const KEPT: [&str; 4] = [
    "CustomResourceDefinition",
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
];

/// What one control plane remembers from cycle to cycle.
#[derive(Debug)]
pub struct Upkeep {
    me: String,
    addons: Vec<Addon>,
    /// Add-ons that are enabled, including the network's: their records are not left-overs.
    enabled: Vec<String>,
    troubles: BTreeMap<String, Trouble>,
}

/// An add-on that failed, and when it is tried again.
#[derive(Debug, Clone)]
struct Trouble {
    digest: String,
    pauses: Pauses,
    /// On the monotonic clock.
    next: Duration,
    message: String,
}

impl Upkeep {
    /// For the control plane with this name.
    pub fn new(settings: &Settings, me: &str) -> Self {
        let enabled = settings.addons.iter().filter(|(_, addon)| addon.enabled);
        Self {
            me: me.to_owned(),
            addons: Addon::of_the_leader(settings),
            enabled: enabled.map(|(name, _)| name.clone()).collect(),
            troubles: BTreeMap::new(),
        }
    }

    /// One cycle over everything, if this instance leads. An error concerns the API as a whole.
    pub async fn cycle(&mut self, world: &World) -> Result<AddonsReport> {
        let follow = |leader| AddonsReport {
            leader,
            addons: Vec::new(),
        };
        if let Leader::Other(leader) = leader::lead(world, &self.me).await? {
            return Ok(follow(leader));
        }
        let mut records = Record::all(world).await?;
        let mut failed = BTreeMap::new();
        for addon in self.addons.clone() {
            let record = records.entry(addon.name.clone()).or_default();
            match self.bring(world, &addon, record).await {
                Ok(None) => {}
                Ok(Some(message)) => {
                    failed.insert(addon.name, message);
                }
                Err(Interrupted::ByLeader(leader)) => return Ok(follow(leader)),
                Err(Interrupted::ByError(error)) => return Err(error),
            }
        }
        if let Leader::Other(leader) = leader::lead(world, &self.me).await? {
            return Ok(follow(leader));
        }
        // Only now, so that an object that moved to another add-on is already recorded there.
        let mut addons = Vec::new();
        let all = records.clone();
        for (name, record) in &mut records {
            let wanted = self.addons.iter().any(|addon| addon.name == *name);
            if !wanted && self.enabled.contains(name) {
                continue;
            }
            let message = match failed.remove(name) {
                Some(message) => Err(message),
                None => remove(world, name, wanted, record, &all)
                    .await
                    .map_err(|error| error.during("cannot remove objects").one_line()),
            };
            let (state, message) = match message {
                Err(message) => (AddonState::Failed, message),
                Ok(()) if wanted => rollout(world, record).await,
                Ok(()) => continue,
            };
            addons.push(AddonReport {
                name: name.clone(),
                state,
                message,
            });
        }
        Ok(AddonsReport {
            leader: self.me.clone(),
            addons,
        })
    }

    /// Applies the add-on if it differs from its record; returns why it is not as wanted.
    async fn bring(
        &mut self,
        world: &World,
        addon: &Addon,
        record: &mut Record,
    ) -> Result<Option<String>, Interrupted> {
        let digest = match addon.digest(world).await {
            Ok(digest) => digest,
            // Nothing was tried, so no pause is needed.
            Err(error) => return Ok(Some(error.one_line())),
        };
        if record.digest == digest && record.objects.is_some() {
            self.troubles.remove(&addon.name);
            return Ok(None);
        }
        let now = world.clock.elapsed();
        if let Some(trouble) = self.troubles.get(&addon.name)
            && trouble.digest == digest
            && now < trouble.next
        {
            return Ok(Some(trouble.message.clone()));
        }
        match leader::lead(world, &self.me).await {
            Ok(Leader::Me) => {}
            Ok(Leader::Other(leader)) => return Err(Interrupted::ByLeader(leader)),
            Err(error) => return Err(Interrupted::ByError(error)),
        }
        let outcome = within(
            world.clock.as_ref(),
            ATTEMPT,
            apply(world, addon, &digest, record),
        )
        .await;
        let error = match outcome {
            Some(Ok(count)) => {
                info!("add-on {}: applied {count} objects", addon.name);
                self.troubles.remove(&addon.name);
                return Ok(None);
            }
            Some(Err(error)) => error,
            None => Error::failed(format!(
                "add-on {}: not applied within {} s",
                addon.name,
                ATTEMPT.as_secs()
            )),
        };
        let mut pauses = match self.troubles.remove(&addon.name) {
            Some(trouble) if trouble.digest == digest => trouble.pauses,
            _ => ADDON.pauses(),
        };
        let pause = pauses.next(world.clock.as_ref());
        let line = error.one_line();
        warn!(
            HINT = error.remedy(),
            "{line}; retrying in {} s",
            pause.as_secs()
        );
        let trouble = Trouble {
            digest,
            pauses,
            next: now + pause,
            message: line.clone(),
        };
        self.troubles.insert(addon.name.clone(), trouble);
        Ok(Some(line))
    }
}

/// Why a cycle ends early.
enum Interrupted {
    /// Another control plane leads now.
    ByLeader(String),
    /// The API does not answer.
    ByError(Error),
}

/// Applies an add-on and keeps its record up to date.
async fn apply(world: &World, addon: &Addon, digest: &str, record: &mut Record) -> Result<usize> {
    let manifests = addon.manifests(world).await?;
    let objects = references(&manifests);
    let count = objects.len();
    // Written first, so that everything applied can be found again after any interruption.
    *record = record.about_to_be(objects);
    record.write(world, &addon.name).await?;
    addon.put(world, &manifests, SERVED_WITHIN).await?;
    digest.clone_into(&mut record.digest);
    record.write(world, &addon.name).await?;
    Ok(count)
}

/// Removes what is no longer part of an add-on; for an add-on that is not wanted, everything.
async fn remove(
    world: &World,
    name: &str,
    wanted: bool,
    record: &mut Record,
    all: &BTreeMap<String, Record>,
) -> Result<()> {
    let mut leaving = std::mem::take(&mut record.stale);
    if !wanted {
        leaving.extend(record.objects.take().unwrap_or_default());
    }
    let had = !leaving.is_empty();
    // Objects first, then what they use.
    for object in leaving.into_iter().rev() {
        let others = all.iter().filter(|(other, _)| *other != name);
        let moved = others
            .filter_map(|(_, record)| record.objects.as_ref())
            .any(|objects| applied::holds(objects, &object));
        if moved {
            continue;
        }
        if KEPT.contains(&object.kind.as_str()) {
            info!("add-on {name}: kept {object}: delete it by hand if its data is not needed");
            continue;
        }
        if world.cluster.delete(name, &object).await? {
            info!("add-on {name}: removed {object}");
        }
    }
    if !wanted {
        world
            .cluster
            .delete(name, &applied::reference(name))
            .await?;
        info!("add-on {name}: removed");
    } else if had {
        record.write(world, name).await?;
    }
    Ok(())
}

async fn rollout(world: &World, record: &Record) -> (AddonState, String) {
    let objects: Vec<_> = record
        .objects
        .iter()
        .flatten()
        .map(ObjectRef::skeleton)
        .collect();
    match world.cluster.not_rolled_out(&objects).await {
        Ok(missing) if missing.is_empty() => (AddonState::Applied, String::new()),
        Ok(missing) => (AddonState::RollingOut, missing.join(", ")),
        Err(error) => (AddonState::RollingOut, error.one_line()),
    }
}

#[cfg(test)]
mod tests;
