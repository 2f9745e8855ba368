//! What exists now: the instances that EC2 knows and the record that they share.

pub mod record;

use jiff::Timestamp;

use crate::{
    error::Result,
    identity::Identity,
    journal::Membership,
    ports::{Instance, World},
};

pub use record::{Claim, Initialized, Record, Settled};

/// All that a decision looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When it was begun.
    pub now: Timestamp,
    /// The cluster's instances in every state.
    pub instances: Vec<Instance>,
    /// The shared record.
    pub record: Record,
    /// What this instance remembers.
    pub membership: Option<Membership>,
}

/// Looks.
pub async fn observe(
    world: &World,
    me: &Identity,
    membership: Option<Membership>,
) -> Result<Observation> {
    // Ages are judged from before the first question: what is old by then stays old, however
    // long the answers take.
    let now = world.clock.now();
    // The record is read first: a claim of an instance that EC2 does not list yet
    // then shows as a young claim, never as a missing one.
    let record = record::read(world.store.as_ref()).await?;
    let instances = world.ec2.instances(&me.cluster).await?;
    Ok(Observation {
        now,
        instances,
        record,
        membership,
    })
}
