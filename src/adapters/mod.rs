//! The only place that touches the world: metadata service, AWS, files, programs, the Kubernetes API, and those
//! who ask how the agent is.

pub mod archive;
pub mod aws;
pub mod balancer;
pub mod clock;
pub mod commands;
pub mod downloads;
pub mod etcd;
pub mod host;
pub mod http;
pub mod imds;
pub mod join;
pub mod kube;
pub mod report;
pub mod store;
pub mod systemd;
pub mod wiring;
