//! Services outside the instance: the EC2 API, the metadata service, download hosts, hosted zones.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::Files;
use crate::{
    error::{Error, Result},
    identity::Identity,
    ports::{
        Dns, Download, Downloads, Ec2, Hook, Instance, InstanceFacts, InstanceState, Metadata,
        Notices, RecordSet, Scaling, Target,
    },
    steps::host::Inventory,
};

/// A running instance as EC2 lists it, at 10.42.0.`last`.
pub fn running(me: &Identity, last: u8) -> Instance {
    Instance {
        id: me.instance_id.clone(),
        state: InstanceState::Running,
        role: Some(me.role),
        private_ip: Some([10, 42, 0, last].into()),
        public_ip: None,
        private_dns_name: None,
        profile: None,
        launched: "2026-11-23T11:59:00Z".parse().unwrap(),
        zone: "eu-central-1a".to_owned(),
        instance_type: "c7i-flex.large".to_owned(),
        tags: BTreeMap::new(),
    }
}

/// An EC2 API in memory.
#[derive(Default)]
pub struct FakeEc2 {
    instances: Mutex<Vec<Instance>>,
    untagged: Mutex<Vec<Instance>>,
    trouble: Mutex<Option<fn() -> Error>>,
    asked: AtomicUsize,
    latency: Mutex<Duration>,
}

impl FakeEc2 {
    /// Lists these from now on, and stops failing.
    pub fn list(&self, instances: impl IntoIterator<Item = Instance>) {
        *self.trouble.lock().unwrap() = None;
        *self.instances.lock().unwrap() = instances.into_iter().collect();
    }

    /// Lists these only when asked by id from now on.
    pub fn untagged(&self, instances: impl IntoIterator<Item = Instance>) {
        *self.untagged.lock().unwrap() = instances.into_iter().collect();
    }

    /// Answers every request with this error from now on.
    pub fn fail_with(&self, error: fn() -> Error) {
        *self.trouble.lock().unwrap() = Some(error);
    }

    /// Takes this long for an answer from now on.
    pub fn takes(&self, latency: Duration) {
        *self.latency.lock().unwrap() = latency;
    }

    /// How often it was asked for instances.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Ec2 for FakeEc2 {
    async fn instances(&self, _cluster: &str) -> Result<Vec<Instance>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let latency = *self.latency.lock().unwrap();
        tokio::time::sleep(latency).await;
        match *self.trouble.lock().unwrap() {
            Some(error) => Err(error()),
            None => Ok(self.instances.lock().unwrap().clone()),
        }
    }

    async fn by_ids(&self, ids: &[&str]) -> Result<Vec<Instance>> {
        let mut listed = self.instances("any").await?;
        listed.extend_from_slice(&self.untagged.lock().unwrap());
        listed.retain(|instance| ids.contains(&instance.id.as_str()));
        Ok(listed)
    }

    async fn tag(&self, instance: &str, key: &str, value: &str) -> Result<()> {
        let mut instances = self.instances.lock().unwrap();
        for tagged in instances.iter_mut().filter(|i| i.id == instance) {
            tagged.tags.insert(key.to_owned(), value.to_owned());
        }
        Ok(())
    }
}

/// A metadata service in memory, without user-data.
#[derive(Default)]
pub struct FakeMetadata {
    notices: Mutex<Notices>,
    more_networks: Mutex<Vec<String>>,
    tags: Mutex<Option<BTreeMap<String, String>>>,
    hostname: Mutex<String>,
}

impl FakeMetadata {
    /// Sets the instance's tags.
    pub fn tagged(&self, tags: Option<BTreeMap<String, String>>) {
        *self.tags.lock().unwrap() = tags;
    }

    /// Sets the host name.
    pub fn named(&self, hostname: &str) {
        hostname.clone_into(&mut self.hostname.lock().unwrap());
    }

    /// Adds a network to the VPC.
    pub fn add_network(&self, network: &str) {
        self.more_networks.lock().unwrap().push(network.to_owned());
    }

    /// Returns these notices from now on.
    pub fn notice(&self, notices: Notices) {
        *self.notices.lock().unwrap() = notices;
    }
}

#[async_trait]
impl Metadata for FakeMetadata {
    async fn facts(&self) -> Result<InstanceFacts> {
        Ok(InstanceFacts {
            instance_id: "i-0123456789abcdef0".to_owned(),
            instance_type: "c7i-flex.large".to_owned(),
            region: "eu-central-1".to_owned(),
            zone: "eu-central-1a".to_owned(),
            account: "123456789012".to_owned(),
            private_ip: [10, 0, 0, 1].into(),
            local_hostname: self.hostname.lock().unwrap().clone(),
        })
    }

    async fn tags(&self) -> Result<Option<BTreeMap<String, String>>> {
        Ok(self.tags.lock().unwrap().clone())
    }

    async fn vpc_networks(&self) -> Result<Vec<String>> {
        let mut networks = vec!["10.42.0.0/16".to_owned()];
        networks.extend_from_slice(&self.more_networks.lock().unwrap());
        Ok(networks)
    }

    async fn notices(&self) -> Result<Notices> {
        Ok(self.notices.lock().unwrap().clone())
    }

    async fn user_data(&self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// An Auto Scaling API in memory.
#[derive(Default)]
pub struct FakeScaling {
    hooks: Mutex<Vec<Hook>>,
}

impl FakeScaling {
    /// Makes these hooks wait for every instance.
    pub fn wait(&self, hooks: impl IntoIterator<Item = Hook>) {
        *self.hooks.lock().unwrap() = hooks.into_iter().collect();
    }
}

#[async_trait]
impl Scaling for FakeScaling {
    async fn waiting_for(&self, _instance: &str) -> Result<Vec<Hook>> {
        Ok(self.hooks.lock().unwrap().clone())
    }

    async fn complete(&self, hook: &Hook, _instance: &str) -> Result<()> {
        self.hooks.lock().unwrap().retain(|there| there != hook);
        Ok(())
    }
}

/// Download hosts; the content of each file is its own address.
///
/// A download that expects the digest of that content gets the file, see
/// [`installable`](super::installable); any other is only recorded. Texts are offered by address
/// and digest.
pub struct FakeDownloads {
    files: Arc<Files>,
    texts: Mutex<BTreeMap<(String, String), String>>,
    fetched: Mutex<Vec<Download>>,
    stalled: AtomicBool,
}

impl FakeDownloads {
    /// Downloads to the machine with these files.
    pub fn onto(files: Arc<Files>) -> Self {
        Self {
            files,
            texts: Mutex::default(),
            fetched: Mutex::default(),
            stalled: AtomicBool::new(false),
        }
    }

    /// Offers a text.
    pub fn offer(&self, url: &str, sha256: &str, text: &str) {
        let key = (url.to_owned(), sha256.to_owned());
        self.texts.lock().unwrap().insert(key, text.to_owned());
    }

    /// From now on no download finishes.
    pub fn stall(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// What was fetched so far.
    pub fn fetched(&self) -> Vec<Download> {
        self.fetched.lock().unwrap().clone()
    }
}

#[async_trait]
impl Downloads for FakeDownloads {
    async fn fetch(&self, download: &Download) -> Result<()> {
        self.fetched.lock().unwrap().push(download.clone());
        if self.stalled.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let (content, digest) = (&download.url, &download.sha256);
        if hex::encode(Sha256::digest(content)) != *digest {
            return Ok(());
        }
        match &download.target {
            Target::File(path) | Target::Program(path) => self.files.put(path, content),
            Target::Programs(folder) => {
                let inventory = Inventory {
                    url: content.clone(),
                    sha256: digest.clone(),
                    files: [("program".to_owned(), digest.clone())].into(),
                };
                let inventory_text = serde_json::to_vec(&inventory).unwrap();
                self.files.put(folder.join("program"), content);
                self.files.put(Inventory::path(digest), inventory_text);
            }
        }
        Ok(())
    }

    async fn text(&self, url: &str, sha256: &str) -> Result<String> {
        let texts = self.texts.lock().unwrap();
        texts
            .get(&(url.to_owned(), sha256.to_owned()))
            .cloned()
            .ok_or_else(|| Error::failed(format!("{url}: 404")))
    }
}

/// Hosted zones in memory, which keep every write.
#[derive(Default)]
pub struct FakeDns {
    record: Mutex<Option<RecordSet>>,
    writes: Mutex<Vec<RecordSet>>,
    trouble: Mutex<Option<fn() -> Error>>,
}

impl FakeDns {
    /// Sets the record set that every name has.
    pub fn put(&self, record: Option<RecordSet>) {
        *self.record.lock().unwrap() = record;
    }

    /// Every write so far.
    pub fn writes(&self) -> Vec<RecordSet> {
        self.writes.lock().unwrap().clone()
    }

    /// Answers every request with this error from now on.
    pub fn fail_with(&self, error: fn() -> Error) {
        *self.trouble.lock().unwrap() = Some(error);
    }

    fn up(&self) -> Result<()> {
        self.trouble.lock().unwrap().map_or(Ok(()), |e| Err(e()))
    }
}

#[async_trait]
impl Dns for FakeDns {
    async fn record(&self, _zone: &str, _name: &str) -> Result<Option<RecordSet>> {
        self.up()?;
        Ok(self.record.lock().unwrap().clone())
    }

    async fn write(&self, _zone: &str, _name: &str, record: &RecordSet) -> Result<()> {
        self.up()?;
        self.writes.lock().unwrap().push(record.clone());
        self.put(Some(record.clone()));
        Ok(())
    }
}
