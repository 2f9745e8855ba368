//! What a control plane tells the others: that the cluster exists, and how to join it.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::Result,
    leader::{self, Leader},
    observe::{Initialized, record},
    phases::{
        Notes, State, Step,
        kubeadm::{JoinTicket, TICKET_TTL, mint, own_ca_cert_hash},
    },
    ports::{Role, World},
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

/// A control plane leaves tickets for joiners, and new ones before the old ones end.
///
/// This is the place of the join service, which will hand a ticket to one proven instance
/// instead of leaving one for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinTickets {
    /// The roles that may join.
    pub roles: Vec<Role>,
    /// The instance that makes them only while it leads; none makes them whoever leads.
    #[serde(skip)]
    pub as_leader: Option<String>,
}

impl JoinTickets {
    /// Tickets for workers and control planes.
    pub fn for_all() -> Self {
        Self {
            roles: vec![Role::Worker, Role::ControlPlane],
            as_leader: None,
        }
    }

    /// The same, left to the leader. Of two control planes that renew at once, one could leave
    /// the key of certificates that the other's have replaced.
    pub fn by_the_leader(me: &str) -> Self {
        Self {
            as_leader: Some(me.to_owned()),
            ..Self::for_all()
        }
    }

    /// Past half of its life a ticket is due: a joiner that takes it still has an hour.
    async fn due(&self, world: &World) -> Result<Vec<Role>> {
        let mut due = Vec::new();
        for role in &self.roles {
            let ticket = JoinTicket::fetch(world, *role).await?;
            let fresh = world.clock.now() + TICKET_TTL / 2;
            if ticket.is_none_or(|ticket| ticket.expires < fresh) {
                due.push(*role);
            }
        }
        if let Some(me) = &self.as_leader
            && !due.is_empty()
            && leader::lead(world, me).await? != Leader::Me
        {
            due.clear();
        }
        Ok(due)
    }
}

#[async_trait]
impl Step for JoinTickets {
    async fn check(&self, world: &World) -> Result<State> {
        let due = self.due(world).await?;
        if due.is_empty() {
            return Ok(State::AsWanted);
        }
        let names: Vec<&str> = due.iter().map(|role| role.as_str()).collect();
        Ok(State::Differs(format!(
            "join tickets are due for: {}",
            names.join(", ")
        )))
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        for role in self.due(world).await? {
            let ticket = mint(world, role, TICKET_TTL).await?;
            ticket.publish(world, role).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
