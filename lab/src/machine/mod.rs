//! Machines: systemd-nspawn containers that boot like an instance.

pub mod cgroups;
pub mod disk;
pub mod enter;
pub mod supervisor;
