//! Kubernetes as kubeadm makes it: its paths, its CA, its Nodes, and Leases.
//!
//! Facts that several modules need are defined here once.

mod api;
pub mod ca;
pub mod lease;
pub mod node;
pub mod paths;

pub use api::{API_PORT, LOCAL_ENDPOINT};
