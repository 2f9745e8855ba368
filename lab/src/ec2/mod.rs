//! The AWS API: moto behind a proxy that can fail on command, and the lab's own calls to it.

pub mod client;
pub mod credentials;
pub mod faults;
pub mod groups;
pub mod listings;
pub mod moto;
pub mod policies;
pub mod proxy;
pub mod replay;
pub mod states;
