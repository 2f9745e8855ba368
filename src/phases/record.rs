//! What the founder tells the others: that the cluster exists, and which CA it has.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::Result,
    observe::{Initialized, record},
    phases::{Notes, State, Step, kubeadm::own_ca_cert_hash},
    ports::World,
};

/// The founder writes `initialized`: from then on every instance joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordCluster {
    /// The cluster's uid.
    pub cluster_uid: String,
    /// This instance.
    pub founder: String,
}

#[async_trait]
impl Step for RecordCluster {
    async fn check(&self, world: &World) -> Result<State> {
        let there = record::read(world.store.as_ref()).await?.initialized;
        Ok(match there {
            Some(there) if there.cluster_uid == self.cluster_uid => State::AsWanted,
            Some(there) => {
                State::Differs(format!("the store records cluster {}", there.cluster_uid))
            }
            None => State::Differs("the store does not record the cluster yet".to_owned()),
        })
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let initialized = Initialized {
            cluster_uid: self.cluster_uid.clone(),
            ca_hash: own_ca_cert_hash(world.host.as_ref()).await?,
            founder: self.founder.clone(),
            time: world.clock.now(),
        };
        record::initialize(world.store.as_ref(), &initialized).await
    }
}

#[cfg(test)]
mod tests;
