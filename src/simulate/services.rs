//! EC2, the store and the clock as a simulated instance sees them.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    absent::absent,
    place::Place,
    scene::{Moment, Scene, time},
};
use crate::{
    error::Result,
    observe::{Claim, Initialized, record::Entry},
    ports::{Clock, Created, Ec2, Instance, Store},
};

/// Index of EC2 in [`Scene::buckets`].
pub const EC2: usize = 0;
/// Index of the store.
pub const STORE: usize = 1;
/// Index of the API and etcd.
pub const API: usize = 2;

#[async_trait]
impl Clock for Place {
    fn now(&self) -> Timestamp {
        let scene = self.scene();
        time(scene.timeline.now(), scene.machines[self.index].ahead)
    }

    fn elapsed(&self) -> Duration {
        self.scene().timeline.now()
    }

    async fn sleep(&self, duration: Duration) {
        Place::sleep(self, duration).await;
    }

    fn jitter(&self) -> f64 {
        self.scene().dice.fraction()
    }
}

#[async_trait]
impl Ec2 for Place {
    async fn instances(&self, _cluster: &str) -> Result<Vec<Instance>> {
        let list = self.call(EC2, "list instances", false, Scene::list).await?;
        let mut scene = self.scene();
        let scene = &mut *scene;
        let now = scene.timeline.now();
        scene.laws.listed(self.index, &list, now, &scene.machines);
        Ok(list)
    }

    async fn by_ids(&self, ids: &[&str]) -> Result<Vec<Instance>> {
        let list = |scene: &mut Scene| scene.list_by_ids(ids);
        self.call(EC2, "look instances up", false, list).await
    }

    async fn tag(&self, _instance: &str, _key: &str, _value: &str) -> Result<()> {
        absent("store in tags")
    }
}

impl Scene {
    /// Creates a key if it is absent, and checks the laws that concern it.
    fn create(&mut self, by: usize, key: &str, value: &str) -> Created {
        let now = self.timeline.now();
        let store = self.store_of(by);
        let created = if store.contains_key(key) {
            Created::AlreadyThere
        } else {
            store.insert(key.to_owned(), (now, value.to_owned()));
            let settled = self.laws.settled.as_deref();
            if settled.is_some_and(|uid| value.contains(uid)) {
                self.counts.rewritten += usize::from(self.lost_keys.remove(key));
            }
            self.written(by, key, value);
            Created::Yes
        };
        self.note_of(by, || format!("create {key}: {created:?}"));
        created
    }

    fn written(&mut self, by: usize, key: &str, value: &str) {
        let number = key.strip_prefix("founder/").and_then(|n| n.parse().ok());
        if let (Some(number), Ok(entry)) = (number, serde_json::from_str::<Entry>(value)) {
            match entry {
                Entry::Claim(claim) => {
                    self.counts.claims += 1;
                    self.counts.takeovers += usize::from(number > 1);
                    let claim = Claim { number, ..claim };
                    let now = self.timeline.now();
                    self.laws.claimed(by, claim, now, &self.machines);
                    self.reached(by, Moment::Claimed);
                }
                Entry::Settled(settled) => {
                    self.laws.settled(by, &settled.cluster_uid, &self.machines);
                    self.reached(by, Moment::Settled);
                }
            }
        } else if let Ok(initialized) = serde_json::from_str::<Initialized>(value) {
            self.laws
                .initialized(by, &initialized.cluster_uid, &self.machines);
            self.reached(by, Moment::Initialized);
        }
    }

    /// All keys with this prefix, as the store shows them.
    fn below(&mut self, by: usize, start: &str) -> BTreeMap<String, String> {
        let moment = self.store_moment();
        let keys = self.store_of(by).iter();
        keys.filter(|(key, (since, _))| key.starts_with(start) && *since <= moment)
            .map(|(key, (_, value))| (key.clone(), value.clone()))
            .collect()
    }
}

#[async_trait]
impl Store for Place {
    async fn create(&self, key: &str, value: &str) -> Result<Created> {
        let what = format!("create {key}");
        let create = |scene: &mut Scene| scene.create(self.index, key, value);
        self.call(STORE, &what, true, create).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        let get = |scene: &mut Scene| scene.below(self.index, key).remove(key);
        self.call(STORE, "get", false, get).await
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let list = |scene: &mut Scene| scene.below(self.index, prefix);
        self.call(STORE, "list", false, list).await
    }

    async fn delete(&self, _key: &str) -> Result<()> {
        absent("agent that deletes keys")
    }
}
