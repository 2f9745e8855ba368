//! A running join service on loopback and clients that try to join: real TLS and HTTP, an STS that
//! verifies signatures like the real one, and everything else scripted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Each outcome is checked once: taking it by value keeps the tables short.
#![allow(clippy::needless_pass_by_value)]

mod application;
mod connection;
mod proof;
mod stage;
mod sts;
