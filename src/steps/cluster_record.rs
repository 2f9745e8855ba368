//! What the founder records for the others: that the cluster exists, which CA it has, and that it
//! is settled.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::Result,
    kubernetes::ca::own_ca_cert_hash,
    observe::{Initialized, Settled, record},
    ports::World,
    steps::{State, Step},
    wait::Notes,
};

/// The founder writes `initialized/N`; from then on every instance joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordCluster {
    /// The cluster's uid, from its founder's claim.
    pub cluster_uid: String,
    /// The id of this instance.
    pub founder: String,
}

#[async_trait]
impl Step for RecordCluster {
    async fn check(&self, world: &World) -> Result<State> {
        let record = record::read(world.store.as_ref()).await?;
        Ok(match record.cluster() {
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

/// The founder settles the cluster; from then on losing the founder does not lead to founding
/// again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettleCluster {
    /// The cluster's uid, from its founder's claim.
    pub cluster_uid: String,
    /// The id of this instance.
    pub instance: String,
}

#[async_trait]
impl Step for SettleCluster {
    async fn check(&self, world: &World) -> Result<State> {
        let record = record::read(world.store.as_ref()).await?;
        Ok(if record::is_settled(&record, &self.cluster_uid) {
            State::AsWanted
        } else {
            State::Differs("the store does not record the cluster as settled yet".to_owned())
        })
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let settled = Settled {
            cluster_uid: self.cluster_uid.clone(),
            instance: self.instance.clone(),
            time: world.clock.now(),
        };
        record::settle(world.store.as_ref(), &settled).await
    }
}

#[cfg(test)]
mod tests;
