//! The record without a store: in the tags of the control planes' own instances.
//!
//! Tags have no compare-and-set, so a rule selects the only writer of claims: among a fixed number
//! of control planes, the one that EC2 reports as launched first, and only while EC2 lists exactly
//! that number. Every control plane copies the record to its own instance, so the record is lost
//! only with the last of them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use async_trait::async_trait;

use super::{FolderStore, check_key, check_prefix};
use crate::{
    config::tags::RECORD,
    error::{Error, Result},
    identity::Identity,
    ports::{Created, Ec2, Instance, Role, Store},
};

/// The most characters in a tag's value.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions>
const LONGEST: usize = 256;

/// The prefix of the entries that different instances may write one after the other.
const FOUNDER: &str = "founder/";

/// Tags `k8s-bootstrap:record:KEY`, with `:` for `/`, which tags that the metadata service shows
/// must not contain.
pub struct TagStore {
    ec2: Arc<dyn Ec2>,
    me: Identity,
    control_planes: usize,
    /// What this instance wrote; EC2's answers may not show it yet.
    own: FolderStore,
}

impl TagStore {
    /// The record of this instance's cluster with this number of control planes. What this instance
    /// writes is also stored below `folder`.
    pub fn new(ec2: Arc<dyn Ec2>, me: &Identity, control_planes: usize, folder: &Path) -> Self {
        Self {
            ec2,
            me: me.clone(),
            control_planes,
            own: FolderStore::new(folder, "", &me.cluster),
        }
    }

    /// The control planes that are not terminated, ordered by launch time.
    async fn peers(&self) -> Result<Vec<Instance>> {
        let mut peers = self.ec2.instances(&self.me.cluster).await?;
        peers.retain(|i| i.role == Some(Role::ControlPlane) && !i.state.is_gone());
        peers.sort_by(|a, b| (a.launched, &a.id).cmp(&(b.launched, &b.id)));
        Ok(peers)
    }

    /// Everything recorded anywhere. A control plane adds missing tags to its own instance.
    async fn record(&self) -> Result<BTreeMap<String, String>> {
        let peers = self.peers().await?;
        let mut record = BTreeMap::new();
        for (key, value) in peers
            .iter()
            .flat_map(recorded)
            .chain(self.own.list("").await?)
        {
            record.entry(key).or_insert(value);
        }
        if let Some(mine) = peers.iter().find(|peer| peer.id == self.me.instance_id) {
            let there = recorded(mine);
            for (key, value) in &record {
                if there.get(key) != Some(value) {
                    self.publish(key, value).await?;
                }
            }
        }
        Ok(record)
    }

    async fn publish(&self, key: &str, value: &str) -> Result<()> {
        let tag = format!("{RECORD}{}", key.replace('/', ":"));
        self.ec2.tag(&self.me.instance_id, &tag, value).await
    }

    async fn keep(&self, key: &str, value: &str) -> Result<Created> {
        // To disk first: otherwise a claim that EC2 does not show yet could be made twice.
        let created = self.own.create(key, value).await?;
        let kept = self.own.get(key).await?;
        self.publish(key, kept.as_deref().unwrap_or(value)).await?;
        Ok(created)
    }

    /// Whether this instance may write this entry; the error says what is missing. The writer of
    /// the previous entry may also write the next: no other instance considers it dead.
    async fn may_write(&self, number: &str) -> Result<()> {
        let before = number.parse::<u32>().ok().and_then(|n| n.checked_sub(1));
        if let Some(before) = before
            && self.own.get(&format!("{FOUNDER}{before}")).await?.is_some()
        {
            return Ok(());
        }
        let peers = self.peers().await?;
        if peers.len() != self.control_planes {
            return Err(Error::failed(format!(
                "without a store, {} control planes elect the founder, but EC2 lists {}",
                self.control_planes,
                peers.len()
            ))
            .hint("launch or terminate control planes, or correct store.control_planes"));
        }
        match peers.first() {
            Some(first) if first.id == self.me.instance_id => Ok(()),
            first => Err(Error::failed(format!(
                "without a store, {} founds the cluster, since it was launched first",
                first.map_or("the instance", |first| first.id.as_str())
            ))),
        }
    }
}

fn check(key: &str, value: &str) -> Result<()> {
    check_key(key)?;
    if value.chars().count() > LONGEST {
        return Err(Error::refused(format!(
            "the value of `{key}` is too long for a tag: more than {LONGEST} characters"
        )));
    }
    Ok(())
}

/// The record entries in an instance's tags.
fn recorded(instance: &Instance) -> BTreeMap<String, String> {
    let ours = |(tag, value): (&String, &String)| {
        let key = tag.strip_prefix(RECORD)?.replace(':', "/");
        Some((key, value.clone()))
    };
    instance.tags.iter().filter_map(ours).collect()
}

#[async_trait]
impl Store for TagStore {
    async fn create(&self, key: &str, value: &str) -> Result<Created> {
        check(key, value)?;
        if self.record().await?.contains_key(key) {
            return Ok(Created::AlreadyThere);
        }
        if let Some(number) = key.strip_prefix(FOUNDER) {
            self.may_write(number).await?;
        }
        self.keep(key, value).await
    }

    /// The control planes that elected the writer are all gone: none is left to elect one.
    async fn rebuild(&self, key: &str, value: &str) -> Result<Created> {
        check(key, value)?;
        if self.record().await?.contains_key(key) {
            return Ok(Created::AlreadyThere);
        }
        self.keep(key, value).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        check_key(key)?;
        Ok(self.record().await?.remove(key))
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let folder = check_prefix(prefix)?;
        let mut record = self.record().await?;
        record.retain(|key, _| {
            let below = key.strip_prefix(folder);
            folder.is_empty() || below.is_some_and(|rest| rest.starts_with('/'))
        });
        Ok(record)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        Err(Error::refused(format!(
            "a record in tags, such as `{key}`, is removed only with its instances"
        ))
        .hint("remove the tag from every control plane, or terminate them"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        ports::InstanceState,
        testing::{FakeEc2, control_plane, running},
    };

    struct Region {
        ec2: Arc<FakeEc2>,
        folder: tempfile::TempDir,
    }

    fn identity(last: u8) -> Identity {
        control_plane(&format!("i-{last}"))
    }

    /// Each instance is launched one second after the one before.
    fn instance(last: u8) -> Instance {
        let mut instance = running(&identity(last), last);
        instance.launched += std::time::Duration::from_secs(last.into());
        instance
    }

    impl Region {
        fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
            let ec2 = Arc::new(FakeEc2::default());
            ec2.list(instances);
            let folder = tempfile::tempdir().unwrap();
            Self { ec2, folder }
        }

        fn store(&self, last: u8) -> TagStore {
            let disk = self.folder.path().join(last.to_string());
            TagStore::new(self.ec2.clone(), &identity(last), 3, &disk)
        }

        async fn instances(&self) -> Vec<Instance> {
            self.ec2.instances("").await.unwrap()
        }
    }

    #[tokio::test]
    async fn only_the_control_plane_launched_first_may_claim() {
        let region = Region::new([instance(2), instance(1)]);
        let claim = async |last| region.store(last).create("founder/1", "me").await;
        let error = claim(1).await.unwrap_err();
        assert!(
            error
                .one_line()
                .contains("3 control planes elect the founder, but EC2 lists 2"),
            "{error}"
        );
        region.ec2.list([instance(2), instance(1), instance(3)]);
        let error = claim(2).await.unwrap_err();
        assert!(
            error.one_line().contains("i-1 founds the cluster"),
            "{error}"
        );
        assert_eq!(claim(1).await.unwrap(), Created::Yes);
        for last in [1, 2, 3] {
            assert_eq!(claim(last).await.unwrap(), Created::AlreadyThere);
        }
        // A replacement is one too many until its predecessor is terminated, and never the first.
        region.ec2.list([1, 2, 3, 4].map(instance));
        let error = region.store(2).create("founder/2", "me").await.unwrap_err();
        assert!(error.one_line().contains("EC2 lists 4"), "{error}");
        let mut dead = instance(1);
        dead.state = InstanceState::Terminated;
        region
            .ec2
            .list([dead, instance(2), instance(3), instance(4)]);
        assert_eq!(
            region.store(2).create("founder/2", "me").await.unwrap(),
            Created::Yes
        );
    }

    #[tokio::test]
    async fn a_claim_that_ec2_does_not_show_yet_is_not_made_twice() {
        let region = Region::new([1, 2, 3].map(instance));
        let store = region.store(1);
        store.create("founder/1", "first").await.unwrap();
        region.ec2.list([1, 2, 3].map(instance));
        assert_eq!(
            store.create("founder/1", "second").await.unwrap(),
            Created::AlreadyThere
        );
        assert_eq!(
            store.get("founder/1").await.unwrap().as_deref(),
            Some("first")
        );
        let tags = &region.instances().await[0].tags;
        assert_eq!(tags["k8s-bootstrap:record:founder:1"], "first");
    }

    #[tokio::test]
    async fn every_control_plane_copies_the_record_and_keeps_it_when_its_writer_is_gone() {
        let region = Region::new([1, 2, 3].map(instance));
        region.store(1).create("founder/1", "one").await.unwrap();
        region
            .store(1)
            .create("initialized/1", "yes")
            .await
            .unwrap();
        let all = region.store(2).list("").await.unwrap();
        assert_eq!(
            all.into_keys().collect::<Vec<_>>(),
            ["founder/1", "initialized/1"]
        );
        let mut left = region.instances().await;
        left[0].state = InstanceState::Terminated;
        region.ec2.list(left);
        let found = region.store(3).list("initialized/").await.unwrap();
        assert_eq!(found["initialized/1"], "yes");
        assert!(region.store(3).list("init").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_value_too_long_for_a_tag_is_refused() {
        let region = Region::new([1, 2, 3].map(instance));
        let long = "x".repeat(257);
        let error = region
            .store(1)
            .create("founder/1", &long)
            .await
            .unwrap_err();
        assert!(error.one_line().contains("too long for a tag"), "{error}");
        assert!(region.store(1).create("../x", "x").await.is_err());
        assert!(region.store(1).delete("founder/1").await.is_err());
    }

    #[tokio::test]
    async fn a_lost_record_is_written_again_by_the_only_control_plane_left() {
        let region = Region::new([instance(7)]);
        let store = region.store(7);
        for (key, value) in [("founder/2", "claim"), ("initialized/2", "yes")] {
            assert_eq!(store.rebuild(key, value).await.unwrap(), Created::Yes);
            let again = store.rebuild(key, "other").await;
            assert_eq!(again.unwrap(), Created::AlreadyThere);
        }
        // It may also record the cluster as settled, whatever the configured number.
        let settled = store.create("founder/3", "settled").await;
        assert_eq!(settled.unwrap(), Created::Yes);
        let tags = &region.instances().await[0].tags;
        assert_eq!(tags["k8s-bootstrap:record:initialized:2"], "yes");
    }

    #[tokio::test]
    async fn the_writer_of_an_entry_may_write_the_next_whatever_the_number_of_control_planes() {
        let region = Region::new([1, 2, 3].map(instance));
        region.store(1).create("founder/1", "one").await.unwrap();
        region.ec2.list([instance(1), instance(3)]);
        let next = region.store(1).create("founder/2", "two").await;
        assert_eq!(next.unwrap(), Created::Yes);
    }
}
