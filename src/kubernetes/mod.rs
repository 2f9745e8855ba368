//! Kubernetes as kubeadm makes it: its paths, its CA, its Nodes, and Leases.
//!
//! What several rooms know of it stands here once.

mod api;
pub mod ca;
pub mod lease;
pub mod node;
pub mod paths;

pub use api::{API_PORT, LOCAL_ENDPOINT};
