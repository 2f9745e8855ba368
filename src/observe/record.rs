//! The cluster's record in the store: who founds, what was founded.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    error::{Context, Error, Result},
    ports::{Created, Store},
};

/// The key that exists once the cluster does.
const INITIALIZED: &str = "initialized";
/// Under this, `founder/1`, `founder/2`, … in the order of the claims.
const FOUNDER: &str = "founder/";

/// What the store says of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The claims to found it; the last one counts.
    pub claims: Vec<Claim>,
    /// Set once the cluster exists.
    pub initialized: Option<Initialized>,
}

/// An instance's claim to be the founder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// 1 for the first; n + 1 only after the holder of n is gone for good.
    #[serde(skip)]
    pub number: u32,
    /// The instance that claims.
    pub instance: String,
    /// The uid of the cluster that it will found.
    pub cluster_uid: String,
    /// When it claimed.
    pub time: Timestamp,
}

impl Claim {
    /// A claim with a cluster uid of its own: no instance makes two of one number at one moment.
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

/// The fact that the cluster exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialized {
    /// The cluster's uid.
    pub cluster_uid: String,
    /// `sha256:…` of the cluster CA's public key, which joiners pin.
    pub ca_hash: String,
    /// The instance that founded it.
    pub founder: String,
    /// When.
    pub time: Timestamp,
}

/// Reads the record.
pub async fn read(store: &dyn Store) -> Result<Record> {
    let mut claims = Vec::new();
    for (key, value) in store.list(FOUNDER).await? {
        let number = key
            .strip_prefix(FOUNDER)
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| {
                Error::refused(format!("the store has the key `{key}`, which is no claim"))
                    .hint("only k8s-bootstrap may write under its prefix: remove the key")
            })?;
        let claim: Claim = parse(&key, &value)?;
        claims.push(Claim { number, ..claim });
    }
    claims.sort_by_key(|claim| claim.number);
    let initialized = match store.get(INITIALIZED).await? {
        Some(value) => Some(parse(INITIALIZED, &value)?),
        None => None,
    };
    Ok(Record {
        claims,
        initialized,
    })
}

/// Claims to be the founder. Who holds the claim afterwards is seen by reading the record again.
pub async fn claim(store: &dyn Store, claim: &Claim) -> Result<Created> {
    let key = format!("{FOUNDER}{}", claim.number);
    store.create(&key, &form(claim)?).await
}

/// Records that the cluster exists. Doing it again with the same uid is no error.
pub async fn initialize(store: &dyn Store, initialized: &Initialized) -> Result<()> {
    if store.create(INITIALIZED, &form(initialized)?).await? == Created::Yes {
        return Ok(());
    }
    let there = read(store).await?.initialized;
    match there {
        Some(there) if there.cluster_uid == initialized.cluster_uid => Ok(()),
        Some(there) => Err(Error::refused(format!(
            "the store already records the cluster {} founded by {}; this instance founded {}",
            there.cluster_uid, there.founder, initialized.cluster_uid
        ))
        .hint("terminate this instance: the other cluster is the one that nodes join")),
        None => Err(Error::failed(
            "the record `initialized` vanished while it was written",
        )),
    }
}

fn form(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).attempting(|| "cannot form a record".to_owned())
}

fn parse<T: DeserializeOwned>(key: &str, value: &str) -> Result<T> {
    serde_json::from_str(value)
        .requiring(|| format!("the store's value of `{key}` is not what k8s-bootstrap writes"))
        .map_err(|error| error.hint("compare the agents' versions, or remove the key"))
}
