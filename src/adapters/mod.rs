//! The only place that accesses the outside world: metadata service, AWS, files, programs, the
//! Kubernetes API, and clients that request the agent's status.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this room does the I/O"
)]

pub mod archive;
pub mod arguments;
pub mod aws;
pub mod balancer;
pub mod bundle;
pub mod clock;
pub mod commands;
pub mod downloads;
pub mod etcd;
pub mod host;
pub mod http;
pub mod imds;
pub mod join;
pub mod kube;
pub mod logging;
pub mod report;
pub mod signals;
pub mod store;
pub mod systemd;
pub mod wiring;
