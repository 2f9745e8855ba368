//! Turns EC2 instances into a Kubernetes cluster, and keeps it whole.
//!
//! The flow, and the modules in its order:
//!
//! ```text
//! user-data, config file, IMDS, EC2 tags
//!   -> config     what the user asked for, validated, every default known
//!   -> identity   who this instance is
//!   -> observe    what exists now: peers, cluster record, this host
//!   -> decide     found, join, start over, wait or refuse                (pure)
//!   -> plan       phases as data: name, step, after, deadline            (pure)
//!   -> runner     carries phases out, in parallel where `after` allows
//!   -> report     systemd, journal, HTTP
//!   -> steady     the same again, for the life of the node
//!   -> join       whom a control plane lets in, and which certificates kubelets get
//!   -> leader     what one control plane at a time does for the whole cluster
//!   -> certificates which certificates the node has, when they end, who renews them
//!   -> leaving    how a node goes
//!   -> start_over how it leaves a cluster that was given up
//! ```

pub mod adapters;
pub mod agent;
pub mod certificates;
pub mod cli;
pub mod commands;
pub mod config;
pub mod decide;
pub mod error;
pub mod identity;
pub mod join;
pub mod journal;
pub mod kubernetes;
pub mod leader;

pub mod logging;
pub mod observe;
pub mod plan;
pub mod ports;
pub mod report;
pub mod runner;
pub mod simulate;
pub mod snapshots;
pub mod steps;
#[cfg(test)]
mod testing;
pub mod user_data;
pub mod wait;
