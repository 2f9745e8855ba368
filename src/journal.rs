//! What this instance remembers over restarts: its membership and its phases.
//!
//! The membership is the promise that a node which ever joined never founds, so it
//! is written before the first act that it stands for. What holds on the host is
//! always found out by a phase's own check; the record of phases tells a person what
//! happened, and how long it took.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Context, Error, Result},
    observe::{Membership, Memory, SettledRecord},
    ports::Host,
};

/// Where the journal lies on an instance.
pub const FILE: &str = "/var/lib/k8s-bootstrap/journal.json";

/// The version of the file's form; another one is refused rather than guessed at.
const VERSION: u32 = 1;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// The instance that wrote it: an image made from a node must not inherit its past.
    pub instance_id: String,
    /// The cluster that this instance belongs to, once it has chosen one.
    pub membership: Option<Membership>,
    /// The record of this instance's cluster, once the instance has seen that it is settled:
    /// from then on no loss in the store makes the instance anything else.
    #[serde(default)]
    pub settled: Option<SettledRecord>,
    /// The id that etcd gave to its cluster, in hexadecimal digits, once etcd has said it on this
    /// machine: from then on it never starts here without its data. The kubelet's unit looks for
    /// it too.
    #[serde(default)]
    pub etcd_cluster: Option<String>,
    /// A restore that was begun and has not come to its end.
    #[serde(default)]
    pub restoring: Option<Restoring>,
    /// Each phase that was ever begun.
    pub phases: BTreeMap<String, Entry>,
}

/// A restore that is under way: the backup's keys and data are being put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoring {
    /// The URL of the backup's `.json`.
    pub backup: String,
    /// When it was begun.
    pub begun: Timestamp,
}

/// The last that is known of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// sha256 of the phase's inputs.
    pub inputs: String,
    /// When it was begun.
    pub begun: Timestamp,
    /// When it was found to hold; none while it is under way or was interrupted.
    pub held: Option<Timestamp>,
}

impl Journal {
    /// An empty journal of an instance.
    pub fn new(instance_id: &str) -> Self {
        Self {
            version: VERSION,
            instance_id: instance_id.to_owned(),
            membership: None,
            settled: None,
            etcd_cluster: None,
            restoring: None,
            phases: BTreeMap::new(),
        }
    }

    /// What of it decides what this instance is.
    pub fn memory(&self) -> Memory {
        Memory {
            membership: self.membership.clone(),
            settled: self.settled.clone(),
        }
    }

    /// The journal on this host, or an empty one.
    pub async fn open(host: &dyn Host, instance_id: &str) -> Result<Self> {
        let path = Path::new(FILE);
        let Some(bytes) = host.read(path).await? else {
            return Ok(Self::new(instance_id));
        };
        let journal: Self = serde_json::from_slice(&bytes)
            .requiring(|| format!("cannot read the journal {FILE}"))
            .map_err(|error| {
                error.hint("if this node holds nothing of value, replace the instance")
            })?;
        if journal.version != VERSION {
            return Err(Error::refused(format!(
                "the journal {FILE} has version {}, this agent knows version {VERSION}",
                journal.version
            ))
            .hint("start the agent version that wrote it"));
        }
        if journal.instance_id != instance_id {
            return Err(Error::refused(format!(
                "the journal {FILE} was written by {}, this instance is {instance_id}: its disk was made from a node's",
                journal.instance_id
            ))
            .hint("launch from an image on which the agent never ran"));
        }
        Ok(journal)
    }

    /// The instance that wrote the journal on this host, as far as it can be read.
    pub async fn writer(host: &dyn Host) -> Result<Option<String>> {
        let bytes = host.read(Path::new(FILE)).await?.unwrap_or_default();
        let journal: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(journal["instance_id"].as_str().map(str::to_owned))
    }

    /// Refuses to go on while a restore is under way: etcd's data may be neither the old nor the
    /// new ones.
    pub fn refuse_while_restoring(&self) -> Result<()> {
        let Some(Restoring { backup, begun }) = &self.restoring else {
            return Ok(());
        };
        Err(Error::refused(format!(
            "a restore that was begun at {begun:.0} has not come to its end"
        ))
        .hint(format!(
            "run it again: k8s-bootstrap etcd restore --from {backup}"
        )))
    }

    /// Writes it, whole or not at all.
    pub async fn save(&self, host: &dyn Host) -> Result<()> {
        let mut bytes =
            serde_json::to_vec_pretty(self).attempting(|| "cannot form the journal".to_owned())?;
        bytes.push(b'\n');
        host.write(&PathBuf::from(FILE), &bytes, 0o600).await
    }

    /// Removes it: the last act of whoever takes a node off its machine, since until then a
    /// runner goes on writing it.
    pub async fn forget(host: &dyn Host) -> Result<()> {
        host.remove(Path::new(FILE)).await
    }
}

#[cfg(test)]
mod tests;
