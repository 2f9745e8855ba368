//! Kubernetes as kubeadm makes it: its paths, its CA, its Nodes, and Leases.
//!
//! What several rooms know of it stands here once.

pub mod ca;
pub mod lease;
pub mod node;
pub mod paths;
