//! What one control plane at a time does for the whole cluster: the holder of a Lease.
//!
//! Each duty is a loop of its own in the steady state, so that a slow one delays no other,
//! and asks [`lead`] before each act.

pub mod addons;
mod lease;

pub use lease::{LEASE, Leader, lead};
