//! Manifests for the cluster: reads, patches and applies them, then waits for the roll-out.

pub mod applied;
mod manifest;
mod patch;
mod source;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    config::{Overrides, Patch, Settings, Source},
    error::{Context, Error, Kind, Result},
    ports::{ObjectRef, World},
    steps::{State, Step, kubeadm::config::endpoint},
    wait::{self, Backoff, Notes, Probe},
};
use applied::Record;

/// How long the founder retries one object: right after `init` much is still being set up.
const SERVED_WITHIN: Duration = Duration::from_mins(2);

/// One add-on, as the settings want it.
///
/// At the end, a ConfigMap records the digest of what was applied: so a check costs one request,
/// and an interrupted add-on is applied again.
///
/// The network's add-ons are steps of the founder's plan; the leader reconciles all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Addon {
    /// Its name in the settings.
    pub name: String,
    /// Where its manifests come from, with mirrors applied.
    pub sources: Vec<Source>,
    /// Applied to its objects, in order.
    pub patches: Vec<Patch>,
    /// Filled into its objects in place of `{values.KEY}`.
    pub values: Overrides,
    /// Images to run in place of those that its manifests name.
    pub image_overrides: BTreeMap<String, String>,
    /// How long the roll-out may take, in seconds.
    pub deadline: u64,
}

/// The objects of one file.
pub struct Manifest {
    /// Its URL or path.
    pub place: String,
    /// In the file's order, patched.
    pub objects: Vec<Value>,
}

impl Manifest {
    /// The images that its objects run.
    pub fn images(&self) -> BTreeSet<String> {
        self.objects.iter().flat_map(values::images).collect()
    }
}

impl Addon {
    /// The network's add-ons in groups of equal `order`: a group starts when the previous one has
    /// rolled out.
    pub fn of_the_founder(settings: &Settings) -> Vec<Vec<Self>> {
        enabled(settings, true)
            .chunk_by(|(order, _), (next, _)| order == next)
            .map(|group| group.iter().map(|(_, addon)| addon.clone()).collect())
            .collect()
    }

    /// All other add-ons, in their order.
    pub fn of_the_leader(settings: &Settings) -> Vec<Self> {
        let enabled = enabled(settings, false).into_iter();
        enabled.map(|(_, addon)| addon).collect()
    }

    /// The digest of everything that determines what is applied: not the URLs, but the digests of
    /// their contents.
    pub async fn digest(&self, world: &World) -> Result<String> {
        let changes = serde_json::to_string(&(&self.patches, &self.values, &self.image_overrides))
            .requiring(|| format!("add-on {}: cannot serialize its changes", self.name))?;
        let mut digest = Sha256::new();
        for source in &self.sources {
            let part = source::digest(source, world).await;
            digest.update(part.map_err(|error| self.during(error))?);
            digest.update([0]);
        }
        digest.update(changes);
        Ok(hex::encode(digest.finalize()))
    }

    /// Its manifests, read and patched.
    pub async fn manifests(&self, world: &World) -> Result<Vec<Manifest>> {
        self.read(world).await.map_err(|error| self.during(error))
    }

    async fn read(&self, world: &World) -> Result<Vec<Manifest>> {
        let (mut places, mut objects) = (Vec::new(), Vec::new());
        for source in &self.sources {
            for text in source::texts(source, world).await? {
                let found = manifest::objects(&text.text)
                    .map_err(|error| error.during(text.place.clone()))?;
                places.push((text.place, found.len()));
                objects.extend(found);
            }
        }
        // A patch need not know which file contains its object.
        for patch in &self.patches {
            patch::apply(patch, &mut objects)?;
        }
        for object in &mut objects {
            values::fill(&self.values, object)?;
        }
        values::replace_images(&self.image_overrides, &mut objects)?;
        let mut objects = objects.into_iter();
        Ok(places
            .into_iter()
            .map(|(place, count)| Manifest {
                place,
                objects: objects.by_ref().take(count).collect(),
            })
            .collect())
    }

    /// Applies every manifest, even if others fail; the error names each that failed.
    pub async fn put(
        &self,
        world: &World,
        manifests: &[Manifest],
        served_within: Duration,
    ) -> Result<()> {
        let mut errors: Vec<Error> = Vec::new();
        for manifest in manifests {
            let applied = world
                .cluster
                .apply(&self.name, &manifest.objects, served_within)
                .await;
            if let Err(error) = applied {
                errors.push(error.during(manifest.place.clone()));
            }
        }
        let Some(first) = errors.pop() else {
            return Ok(());
        };
        if errors.is_empty() {
            return Err(self.during(first));
        }
        errors.push(first);
        let lines: Vec<String> = errors.iter().map(Error::one_line).collect();
        let all = Error::failed(lines.join("; "));
        // What a person must fix does not pass by itself.
        let refused = errors.iter().any(|error| error.kind() == Kind::Refused);
        Err(self.during(if refused { all.for_a_person() } else { all }))
    }

    fn during(&self, error: Error) -> Error {
        error.during(format!("add-on {}", self.name))
    }
}

fn enabled(settings: &Settings, network: bool) -> Vec<(u32, Addon)> {
    let mut wanted: Vec<_> = settings
        .addons
        .iter()
        .filter(|(_, addon)| addon.enabled && addon.is_network() == network)
        .collect();
    wanted.sort_by_key(|(name, addon)| (addon.order, name.as_str()));
    let endpoint = endpoint(settings);
    let mirrored = |source: &Source| Source {
        url: settings.download_url(&source.url, &source.sha256),
        ..source.clone()
    };
    wanted
        .into_iter()
        .map(|(name, addon)| {
            let wanted = Addon {
                name: name.clone(),
                sources: addon.sources.iter().map(mirrored).collect(),
                patches: addon
                    .patches
                    .iter()
                    .map(|patch| patch::filled(patch, endpoint))
                    .collect(),
                values: addon.values.clone(),
                image_overrides: addon.image_overrides.clone(),
                deadline: settings.deadlines.rollout,
            };
            (addon.order, wanted)
        })
        .collect()
}

/// References to all objects of these manifests.
pub fn references(manifests: &[Manifest]) -> Vec<ObjectRef> {
    let objects = manifests.iter().flat_map(|manifest| &manifest.objects);
    objects.map(ObjectRef::of).collect()
}

#[async_trait]
impl Step for Addon {
    async fn check(&self, world: &World) -> Result<State> {
        let digest = self.digest(world).await?;
        Ok(match Record::read(world, &self.name).await {
            Ok(Some(record)) if record.digest == digest => State::AsWanted,
            Ok(Some(_)) => {
                State::Differs(format!("a different version of {} was applied", self.name))
            }
            Ok(None) => State::Differs(format!("{} was not applied", self.name)),
            Err(error) => State::Differs(format!("{}: {}", self.name, error.one_line())),
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        let digest = self.digest(world).await?;
        let manifests = self.manifests(world).await?;
        let objects: Vec<Value> = references(&manifests)
            .iter()
            .map(ObjectRef::skeleton)
            .collect();
        notes.waiting_for(format!("{}: applying {} objects", self.name, objects.len()));
        self.put(world, &manifests, SERVED_WITHIN).await?;
        wait::until(
            world.clock.as_ref(),
            notes,
            Backoff::local(Duration::from_secs(self.deadline)),
            &format!("the roll-out of {}", self.name),
            || async {
                let missing = world.cluster.not_rolled_out(&objects).await?;
                Ok(if missing.is_empty() {
                    Probe::Done(())
                } else {
                    Probe::NotYet(missing.join(", "))
                })
            },
        )
        .await?;
        let record = Record {
            digest,
            ..Record::default()
        };
        record.write(world, &self.name).await
    }
}

#[cfg(test)]
mod tests;
