//! The cluster's record in the store: which instance founds, what was founded, what is settled.
//!
//! The entries are `founder/1`, `founder/2`, …, each created once. An entry is a claim to found a
//! cluster, or it says that the cluster of the previous claim is settled: then no claim can follow,
//! since its key is taken. So if a takeover and a settling race, the store lets exactly one happen.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    error::{Context, Error, Result},
    ports::{Created, Store},
};

/// Prefix of the entries, which are numbered.
const FOUNDER: &str = "founder";
/// Prefix of the clusters that exist, numbered as their claims.
const INITIALIZED: &str = "initialized";

/// What the store says about the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The claims to found it, in order; the last one counts.
    pub claims: Vec<Claim>,
    /// What was founded, by the number of its claim.
    pub initialized: BTreeMap<u32, Initialized>,
    /// Says that the last claim's cluster has something to lose: nobody takes over from its
    /// founder.
    pub settled: Option<Settled>,
}

/// An entry below `founder/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// An instance claims to found a cluster.
    Claim(Claim),
    /// The cluster of the previous claim is settled.
    Settled(Settled),
}

/// An instance's claim to be the founder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// 1 for the first; n + 1 only after the holder of n is gone for good.
    #[serde(skip)]
    pub number: u32,
    /// The id of the instance that claims.
    pub instance: String,
    /// The uid of the cluster that it will found.
    pub cluster_uid: String,
    /// When it claimed, by its own clock.
    pub time: Timestamp,
}

impl Claim {
    /// A claim with a new cluster uid. The uid is unique, since no instance makes two claims of one
    /// number at the same time.
    pub fn new(number: u32, instance: &str, time: Timestamp) -> Self {
        let digest = Sha256::digest(format!("{instance} {number} {}", time.as_nanosecond()));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self {
            number,
            instance: instance.to_owned(),
            cluster_uid: uuid::Builder::from_custom_bytes(bytes)
                .into_uuid()
                .to_string(),
            time,
        }
    }
}

/// The fact that a cluster exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialized {
    /// The cluster's uid, from its founder's claim.
    pub cluster_uid: String,
    /// `sha256:…` of the cluster CA's public key, which joiners pin.
    pub ca_hash: String,
    /// The instance that founded it.
    pub founder: String,
    /// When this was recorded.
    pub time: Timestamp,
}

/// The fact that a cluster has something to lose, whatever becomes of its founder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The cluster's uid, from its founder's claim.
    pub cluster_uid: String,
    /// The instance that says so: the founder, or another control plane.
    pub instance: String,
    /// When this was recorded.
    pub time: Timestamp,
}

/// All that the store says about a settled cluster. Each of its nodes keeps a copy, so that a key
/// lost from the store can be written again and never changes what the node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledRecord {
    /// The record from before the cluster was settled.
    #[serde(flatten)]
    pub recorded: Recorded,
    /// The entry that says it is settled.
    pub settled: Settled,
}

impl SettledRecord {
    /// The cluster's uid, from its founder's claim.
    pub fn cluster_uid(&self) -> &str {
        &self.recorded.claim.cluster_uid
    }

    /// The keys and values of this record in the store.
    fn values(&self) -> Result<[(String, String); 3]> {
        let next = format!("{FOUNDER}/{}", self.recorded.number + 1);
        let [claim, initialized] = self.recorded.values()?;
        // First the key that keeps others from claiming.
        let settled = (next, form(&Entry::Settled(self.settled.clone()))?);
        Ok([settled, initialized, claim])
    }
}

/// A cluster's claim and the fact that it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The claim's number, which is in both keys.
    pub number: u32,
    /// The claim as the store has it, without its number.
    pub claim: Claim,
    /// The fact that it exists.
    pub initialized: Initialized,
}

impl Recorded {
    /// What is recorded about the cluster with this uid.
    pub fn of(record: &Record, cluster_uid: &str) -> Option<Self> {
        let claim = record.claim_for(cluster_uid)?;
        Some(Self {
            number: claim.number,
            claim: Claim {
                number: 0,
                ..claim.clone()
            },
            initialized: record.initialized.get(&claim.number)?.clone(),
        })
    }

    /// The keys and values of both in the store.
    fn values(&self) -> Result<[(String, String); 2]> {
        let number = self.number;
        Ok([
            (
                format!("{FOUNDER}/{number}"),
                form(&Entry::Claim(self.claim.clone()))?,
            ),
            (format!("{INITIALIZED}/{number}"), form(&self.initialized)?),
        ])
    }

    /// A record for a cluster of which only these facts are known: it assumes that this instance
    /// made the first claim.
    pub fn first(cluster_uid: &str, ca_hash: &str, instance: &str, time: Timestamp) -> Self {
        Self {
            number: 1,
            claim: Claim {
                number: 0,
                instance: instance.to_owned(),
                cluster_uid: cluster_uid.to_owned(),
                time,
            },
            initialized: Initialized {
                cluster_uid: cluster_uid.to_owned(),
                ca_hash: ca_hash.to_owned(),
                founder: instance.to_owned(),
                time,
            },
        }
    }
}

impl Record {
    /// Whether everything recorded belongs to this cluster.
    pub fn is_only_of(&self, cluster_uid: &str) -> bool {
        let claims = self.claims.iter().map(|claim| &claim.cluster_uid);
        let initialized = self.initialized.values().map(|there| &there.cluster_uid);
        let settled = self.settled.iter().map(|settled| &settled.cluster_uid);
        claims
            .chain(initialized)
            .chain(settled)
            .all(|uid| uid == cluster_uid)
    }

    /// The cluster that exists: that of the last claim, once it is initialized. After a takeover
    /// the old cluster no longer counts.
    pub fn cluster(&self) -> Option<&Initialized> {
        let last = self.claims.last()?;
        let cluster = self.initialized.get(&last.number)?;
        (cluster.cluster_uid == last.cluster_uid).then_some(cluster)
    }

    /// The claim for the cluster with this uid.
    pub fn claim_for(&self, cluster_uid: &str) -> Option<&Claim> {
        let mut newest_first = self.claims.iter().rev();
        newest_first.find(|claim| claim.cluster_uid == cluster_uid)
    }

    /// All that the record says about this cluster; `None` if it does not say that the cluster is
    /// settled.
    pub fn settled_record(&self, cluster_uid: &str) -> Option<SettledRecord> {
        let settled = self.settled.as_ref()?;
        let is_whole = [&settled.cluster_uid, &self.cluster()?.cluster_uid]
            .into_iter()
            .all(|uid| uid == cluster_uid);
        let recorded = Recorded::of(self, cluster_uid).filter(|_| is_whole)?;
        Some(SettledRecord {
            recorded,
            settled: settled.clone(),
        })
    }

    /// The record that these keys and values make.
    ///
    /// Claims numbered after the entry that says a cluster is settled do not count.
    fn of(values: &BTreeMap<String, String>) -> Result<Self> {
        let mut record = Self::default();
        let mut settled: Option<(u32, Settled)> = None;
        for (key, value) in values {
            let (kind, number) = key.split_once('/').unwrap_or((key, ""));
            if kind != FOUNDER && kind != INITIALIZED {
                continue;
            }
            let number = number.parse().map_err(|_| {
                Error::refused(format!(
                    "the store has the key `{key}`, which k8s-bootstrap does not write"
                ))
                .hint("only k8s-bootstrap may write under its prefix: remove the key")
            })?;
            if kind == INITIALIZED {
                record.initialized.insert(number, parse(key, value)?);
                continue;
            }
            match parse(key, value)? {
                Entry::Claim(claim) => record.claims.push(Claim { number, ..claim }),
                Entry::Settled(entry) if settled.as_ref().is_none_or(|(n, _)| number < *n) => {
                    settled = Some((number, entry));
                }
                Entry::Settled(_) => {}
            }
        }
        record.claims.sort_by_key(|claim| claim.number);
        if let Some((end, settled)) = settled {
            record.claims.retain(|claim| claim.number < end);
            record.settled = Some(settled);
        }
        Ok(record)
    }
}

/// Reads the record.
pub async fn read(store: &dyn Store) -> Result<Record> {
    Record::of(&store.list("").await?)
}

/// Claims to be the founder. To see which instance holds the claim, read the record again.
pub async fn claim(store: &dyn Store, claim: &Claim) -> Result<Created> {
    let key = format!("{FOUNDER}/{}", claim.number);
    store
        .create(&key, &form(&Entry::Claim(claim.clone()))?)
        .await
}

/// Records that the cluster exists. Doing it again with the same uid is no error.
pub async fn initialize(store: &dyn Store, initialized: &Initialized) -> Result<()> {
    let record = read(store).await?;
    let claim = own_claim(&record, &initialized.cluster_uid)?;
    let key = format!("{INITIALIZED}/{}", claim.number);
    if store.create(&key, &form(initialized)?).await? == Created::Yes {
        return Ok(());
    }
    let there = read(store).await?;
    match there.initialized.get(&claim.number) {
        Some(there) if there.cluster_uid == initialized.cluster_uid => Ok(()),
        Some(there) => Err(Error::refused(format!(
            "the store already records the cluster {} founded by {}; this instance founded {}",
            there.cluster_uid, there.founder, initialized.cluster_uid
        ))
        .hint("terminate this instance: the other cluster is the one that nodes join")),
        None => Err(not_listed_yet(&key)),
    }
}

/// Writes a lost record again from a backup. Existing keys stay, so doing it again is no error.
pub async fn rebuild(store: &dyn Store, recorded: &Recorded) -> Result<()> {
    for (key, value) in recorded.values()? {
        store.rebuild(&key, &value).await?;
    }
    Ok(())
}

/// Records that the cluster has something to lose. Doing it again is no error. After a takeover the
/// old cluster can no longer be settled.
pub async fn settle(store: &dyn Store, settled: &Settled) -> Result<()> {
    let record = read(store).await?;
    if is_settled(&record, &settled.cluster_uid) {
        return Ok(());
    }
    let claim = own_claim(&record, &settled.cluster_uid)?;
    let key = format!("{FOUNDER}/{}", claim.number + 1);
    let entry = form(&Entry::Settled(settled.clone()))?;
    if store.create(&key, &entry).await? == Created::Yes {
        return Ok(());
    }
    let there = read(store).await?;
    if is_settled(&there, &settled.cluster_uid) {
        return Ok(());
    }
    own_claim(&there, &settled.cluster_uid)?;
    Err(not_listed_yet(&key))
}

/// Writes again the keys of a settled cluster's record that `seen` lacks, and returns how many it
/// wrote. Fails if another cluster's value has one of these keys.
pub async fn write_again(
    store: &dyn Store,
    seen: &Record,
    record: &SettledRecord,
) -> Result<usize> {
    if seen.settled_record(record.cluster_uid()).is_some() {
        return Ok(0);
    }
    let mut written = 0;
    for (key, value) in record.values()? {
        if store.create(&key, &value).await? == Created::Yes {
            written += 1;
            continue;
        }
        // Listed, since no policy allows getting a single key.
        let mut there = store.list("").await?;
        let there = there.remove(&key).ok_or_else(|| not_listed_yet(&key))?;
        if belongs_to(&there).as_deref() != Some(record.cluster_uid()) {
            return Err(Error::failed(format!(
                "the store's `{key}` does not belong to cluster {}, which is settled: {there}",
                record.cluster_uid()
            ))
            .hint(
                "terminate the instance that wrote it, then remove the key: \
                 an agent writes it again",
            ));
        }
    }
    Ok(written)
}

/// The uid of the cluster that a value of the record belongs to.
fn belongs_to(value: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(value).ok()?;
    let places = ["/claim/cluster_uid", "/settled/cluster_uid", "/cluster_uid"];
    let uid = places.iter().find_map(|place| value.pointer(place))?;
    uid.as_str().map(str::to_owned)
}

/// Whether this cluster is the settled one.
pub fn is_settled(record: &Record, cluster_uid: &str) -> bool {
    let settled = record.settled.as_ref();
    settled.is_some_and(|settled| settled.cluster_uid == cluster_uid)
}

/// The claim for this cluster, which must be the last one.
fn own_claim<'a>(record: &'a Record, cluster_uid: &str) -> Result<&'a Claim> {
    match record.claims.last() {
        Some(last) if last.cluster_uid == cluster_uid => Ok(last),
        Some(last) if record.claim_for(cluster_uid).is_some() => Err(Error::refused(format!(
            "cluster {cluster_uid} was abandoned: {} has since claimed to found another",
            last.instance
        ))
        .hint("terminate this instance: the other cluster is the one that nodes join")),
        // A list may lag behind the claim.
        _ => Err(Error::failed(format!(
            "the store lists no claim for cluster {cluster_uid}"
        ))),
    }
}

fn not_listed_yet(key: &str) -> Error {
    Error::failed(format!(
        "the store already has `{key}` but does not list it yet"
    ))
}

fn form(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).attempting(|| "cannot serialize a record".to_owned())
}

fn parse<T: DeserializeOwned>(key: &str, value: &str) -> Result<T> {
    serde_json::from_str(value)
        .requiring(|| format!("the store's value of `{key}` is not what k8s-bootstrap writes"))
        .map_err(|error| error.hint("compare the agents' versions, or remove the key"))
}

#[cfg(test)]
mod tests;
