//! Kubernetes as kubeadm makes it: its paths, ports, CA, Nodes and Leases.
//!
//! Facts that several modules need are defined here once.

pub mod ca;
pub mod credential_provider;
pub mod lease;
pub mod node;
pub mod paths;
mod ports;

pub use ports::{
    API_PORT, BUNDLE_SERVER, CONTROLLER_MANAGER_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT,
    LOCAL_ENDPOINT, SCHEDULER_PORT,
};
