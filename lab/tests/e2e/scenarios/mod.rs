//! The scenarios, by subject.

pub mod air_gap;
pub mod arrival;
pub mod attacks;
pub mod certificates;
pub mod control_planes;
pub mod disaster;
pub mod etcd;
pub mod joining;
pub mod life;
pub mod metrics;
pub mod own_kernel;
pub mod permissions;
pub mod pod_roles;
pub mod pods;
pub mod proxy;
pub mod record;
pub mod refusals;
pub mod reports;
pub mod stack;
pub mod vm;
pub mod workload;
