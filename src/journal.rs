//! What this instance remembers across restarts: its membership and its phases.
//!
//! The membership guarantees that a node which has joined never founds, so it is written before the
//! first action that depends on it. Whether a phase holds is always decided by its own check; the
//! record of phases tells a person what happened and how long it took.

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

/// Path of the journal on an instance.
pub const FILE: &str = "/var/lib/k8s-bootstrap/journal.json";

/// The version of the file format; any other version is refused.
const VERSION: u32 = 1;

/// The journal's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// The instance that wrote it: an image made from a node must not inherit its past.
    pub instance_id: String,
    /// The cluster that this instance belongs to, once it has chosen one.
    pub membership: Option<Membership>,
    /// The record of this instance's cluster, once the instance has seen that it is settled. From
    /// then on no loss in the store changes what the instance is.
    #[serde(default)]
    pub settled: Option<SettledRecord>,
    /// etcd's cluster ID in hexadecimal, once etcd has reported it on this machine. From then on
    /// etcd never starts here without its data. The kubelet's unit checks for it too.
    #[serde(default)]
    pub etcd_cluster: Option<String>,
    /// A restore that was started and is not finished.
    #[serde(default)]
    pub restoring: Option<Restoring>,
    /// Each phase that was ever started.
    pub phases: BTreeMap<String, Entry>,
}

/// A restore that is under way: the backup's keys and data are being put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoring {
    /// The URL of the backup's `.json`.
    pub backup: String,
    /// When it was started, by this machine's clock.
    pub begun: Timestamp,
}

/// The last known state of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// sha256 of the phase's inputs.
    pub inputs: String,
    /// When it was started, by this machine's clock.
    pub begun: Timestamp,
    /// When it was found to hold; `None` while it is under way or after an interruption.
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

    /// The part that decides what this instance is.
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
                "the journal {FILE} has version {}, but this agent reads version {VERSION}",
                journal.version
            ))
            .hint("start the agent version that wrote it"));
        }
        if journal.instance_id != instance_id {
            return Err(Error::refused(format!(
                "the journal {FILE} was written by {}, but this instance is {instance_id}: its disk is a copy of a node's",
                journal.instance_id
            ))
            .hint("launch from an image on which the agent never ran"));
        }
        Ok(journal)
    }

    /// The ID of the instance that wrote the journal on this host; `None` if the journal is absent
    /// or unreadable.
    pub async fn writer(host: &dyn Host) -> Result<Option<String>> {
        let bytes = host.read(Path::new(FILE)).await?.unwrap_or_default();
        let journal: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(journal["instance_id"].as_str().map(str::to_owned))
    }

    /// Refuses to go on while a restore is under way: etcd's data may be neither the old nor the
    /// new.
    pub fn refuse_while_restoring(&self) -> Result<()> {
        let Some(Restoring { backup, begun }) = &self.restoring else {
            return Ok(());
        };
        Err(Error::refused(format!(
            "a restore that began at {begun:.0} is not complete"
        ))
        .hint(format!(
            "run it again: k8s-bootstrap etcd restore --from {backup}"
        )))
    }

    /// Writes it atomically.
    pub async fn save(&self, host: &dyn Host) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .attempting(|| "cannot serialize the journal".to_owned())?;
        bytes.push(b'\n');
        host.write(&PathBuf::from(FILE), &bytes, 0o600).await
    }

    /// Removes it. Must come last when a node is removed from its machine, since until then a
    /// runner keeps writing it.
    pub async fn forget(host: &dyn Host) -> Result<()> {
        host.remove(Path::new(FILE)).await
    }
}

#[cfg(test)]
mod tests;
