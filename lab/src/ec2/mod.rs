//! The AWS API: moto behind a proxy that can fail on command, and the lab's own calls to it.

pub mod client;
pub mod credentials;
pub mod faults;
pub mod groups;
pub mod lag;
pub mod listings;
pub mod moto;
pub mod policies;
pub mod proxy;
pub mod replay;
pub mod stacks;
pub mod states;
pub mod unsigned;

/// The account that moto simulates.
pub const ACCOUNT: &str = "123456789012";
/// The image of all machines: an Ubuntu that moto knows. moto takes an unknown image for Windows.
pub const IMAGE: &str = "ami-785db401";
/// The instance type in the cluster that this project reproduces.
pub const INSTANCE_TYPE: &str = "c7i-flex.large";

/// RFC 3339 in UTC, as EC2 writes times, from seconds since the epoch.
pub fn stamp(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}
