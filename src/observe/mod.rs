//! What exists now: the instances that EC2 lists and the record that they share.

pub mod evidence;
mod membership;
pub mod record;

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    error::Result,
    identity::Identity,
    ports::{Instance, World},
};

pub use evidence::Evidence;
pub use membership::{Membership, Memory, Origin};
pub use record::{Claim, Initialized, Record, Settled, SettledRecord};

/// Everything that a decision is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When the observation began.
    pub now: Timestamp,
    /// Same on the monotonic clock, which measures how long several observations have agreed.
    pub elapsed: Duration,
    /// The cluster's instances in every state.
    pub instances: Vec<Instance>,
    /// The shared record.
    pub record: Record,
    /// The cluster that this instance remembers as its own.
    pub membership: Option<Membership>,
    /// That cluster's record, if this instance remembers that it is settled.
    pub settled: Option<SettledRecord>,
    /// What the machines show of a cluster. Gathered only before an action that depends on there
    /// being no cluster.
    pub evidence: Evidence,
}

/// Observes EC2 and the store.
pub async fn observe(world: &World, me: &Identity, memory: Memory) -> Result<Observation> {
    // Ages are measured from before the first request: what is old by then stays old, however long
    // the answers take.
    let now = world.clock.now();
    let elapsed = world.clock.elapsed();
    // The record is read first: a claim of an instance that EC2 does not list yet then appears as a
    // young claim, never as a missing one.
    let record = record::read(world.store.as_ref()).await?;
    let instances = world.ec2.instances(&me.cluster).await?;
    Ok(Observation {
        now,
        elapsed,
        instances,
        record,
        membership: memory.membership,
        settled: memory.settled,
        evidence: Evidence::default(),
    })
}
