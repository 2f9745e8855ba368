//! What exists now: the instances that EC2 knows and the record that they share.

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

/// All that a decision looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When it was begun.
    pub now: Timestamp,
    /// The same on the clock that never steps: what several looks agree on is measured by it.
    pub elapsed: Duration,
    /// The cluster's instances in every state.
    pub instances: Vec<Instance>,
    /// The shared record.
    pub record: Record,
    /// The cluster that this instance remembers to belong to.
    pub membership: Option<Membership>,
    /// That cluster's record, if this instance remembers that it is settled.
    pub settled: Option<SettledRecord>,
    /// What is there of a cluster on the machines; looked for only before an act that rests on
    /// there being nothing.
    pub evidence: Evidence,
}

/// Looks at EC2 and the store.
pub async fn observe(world: &World, me: &Identity, memory: Memory) -> Result<Observation> {
    // Ages are judged from before the first question: what is old by then stays old, however
    // long the answers take.
    let now = world.clock.now();
    let elapsed = world.clock.elapsed();
    // The record is read first: a claim of an instance that EC2 does not list yet
    // then shows as a young claim, never as a missing one.
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
