//! What one control plane at a time does for the whole cluster: the one that holds the Lease.
//!
//! Each task is a separate loop in the steady state, so that a slow one delays no other, and calls
//! [`lead`] before each action.

pub mod addons;
pub mod dns;
pub mod healing;
pub mod issuer;
pub mod left_nodes;
pub mod maintenance;
pub mod snapshots;

use crate::{error::Result, kubernetes::lease::LEADER, ports::World};

pub use crate::kubernetes::lease::Holder as Leader;

/// Takes or renews the Lease; otherwise returns who leads.
pub async fn lead(world: &World, me: &str) -> Result<Leader> {
    LEADER.take(world, me).await
}
