//! A running join service on loopback and those who try to get in: real TLS and HTTP, an STS
//! that verifies signatures as the real one does, and everything else scripted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// What came back is looked at once: that it is used up keeps the tables short.
#![allow(clippy::needless_pass_by_value)]

mod application;
mod connection;
mod proof;
mod stage;
mod sts;
