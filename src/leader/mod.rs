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

use crate::{error::Result, lease::Lease, ports::World};

pub use crate::lease::Holder as Leader;

/// The Lease of the control plane that leads; it holds for a minute.
pub const LEADER: Lease = Lease {
    name: "k8s-bootstrap-leader",
    seconds: 60,
};

/// Leads, or says who does.
pub async fn lead(world: &World, me: &str) -> Result<Leader> {
    LEADER.take(world, me).await
}
