//! Machines that boot like an instance: systemd-nspawn containers, or virtual machines.

pub mod cgroups;
pub mod disk;
pub mod enter;
pub mod supervisor;
pub mod vm;
