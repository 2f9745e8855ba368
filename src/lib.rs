//! Turns EC2 instances into a Kubernetes cluster, and keeps it healthy.
//!
//! The flow, and the rooms in its order:
//!
//! ```text
//! user-data, config file, IMDS, EC2 tags
//!   -> config       what the user asked for, validated, every default known
//!   -> identity     who this instance is
//!   -> observe      what exists now: peers, the cluster's record, this host
//!   -> decide       found, join, start over, wait or refuse                (pure)
//!   -> plan         every list of phases, as data                          (pure)
//!   -> steps        what a phase does: check, apply
//!   -> runner       carries phases out, in parallel where `after` allows
//!   -> journal      what this instance remembers of it
//!   -> report       what people and programs see
//!   -> agent        the life of a node: boot, steady state, leaving, starting over
//!   -> join         whom a control plane lets in, and which certificates kubelets get
//!   -> leader       what one control plane at a time does for the whole cluster
//!   -> certificates which certificates the node has, and which are due
//!   -> snapshots    what a backup is, and how a cluster comes back from one
//! ```
//!
//! Before an instance exists: `user_data` (what downloads this agent) and `stack` (everything else in
//! the account). `release` says what this build is.
//!
//! Below all of them are `error`, `ports` (the traits to the world), `wait` (every wait has an end
//! and a reason) and `kubernetes` (paths, the CA, Leases, the Node). Above them are `adapters` (the
//! only code that touches the world), `cli` and `commands` (the command line, which wires them),
//! `user_data` (how the agent gets onto an instance) and `simulate` (a world on a virtual clock).
//! `testing` is a world of fakes for tests. `tests/rooms` fails on a cycle between rooms.

// clippy.toml lists what only adapters may use; tests own their world.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

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
pub mod observe;
pub mod plan;
pub mod ports;
pub mod release;
pub mod report;
pub mod runner;
pub mod simulate;
pub mod snapshots;
pub mod stack;
pub mod steps;
#[cfg(test)]
mod testing;
pub mod user_data;
pub mod wait;
