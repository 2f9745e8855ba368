//! What is shown, by subject.

pub mod arrival;
pub mod etcd;
pub mod life;
pub mod refusals;
pub mod reports;
pub mod workload;
