//! Prepares this machine. Needs no peer, so it runs during discovery.

mod artifact;
mod bundle;
mod containerd;
mod files;
mod foreign;
mod hosts;
mod images;
mod kernel;
mod kubelet;
mod pod_limits;
mod preflight;
mod swap;
mod sysctl;
mod units;

#[cfg(test)]
mod tests;

pub use artifact::{ARTIFACTS, Artifact, Inventory, Kind as ArtifactKind};
pub use bundle::Bundle;
pub use containerd::Containerd;
pub use foreign::ForeignNetworks;
pub use hosts::Hosts;
pub use images::Images;
pub use kernel::{Feature, Kernel, Shown};
pub use kubelet::KubeletUnit;
pub use pod_limits::PodLimits;
pub use preflight::Preflight;
pub use swap::Swap;
pub use sysctl::Sysctl;
