//! What one control plane at a time does for the whole cluster: the holder of a Lease.
//!
//! Each duty is a loop of its own in the steady state, so that a slow one delays no other,
//! and asks [`lead`] before each act.

pub mod addons;
pub mod departed;
pub mod dns;
pub mod healing;
pub mod maintenance;
pub mod snapshots;

use crate::{error::Result, kubernetes::lease::LEADER, ports::World};

pub use crate::kubernetes::lease::Holder as Leader;

/// Leads, or says who does.
pub async fn lead(world: &World, me: &str) -> Result<Leader> {
    LEADER.take(world, me).await
}
