#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod artifacts;
mod bundle;
mod images;
mod machine;
mod preflight;
mod services;
