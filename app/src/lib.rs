//! A page that counts its visits in Redis and says which pod and node answered.
//!
//! [`settings`] reads the environment, [`counter`] assigns the visits' numbers, [`ledger`] is Redis
//! behind it, [`pages`] renders the fixed parts once, [`web`] answers, and [`serve`] is one process
//! from its start to its last answer.

pub mod counter;
pub mod ledger;
pub mod metrics;
pub mod pages;
pub mod serve;
pub mod settings;
pub mod web;
