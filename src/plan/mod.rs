//! What is done on a node, as data: every list of phases is in this module.
//!
//! ```text
//! boot          preparing the host, then founding or joining
//! upkeep        what a running node checks again, and a renewal of certificates
//! decommission  what a node does before it leaves
//! removal       removing the cluster's traces from this machine
//! ```

mod boot;
pub mod decommission;
mod phase;
pub mod removal;
mod upkeep;

pub use boot::{before_claim, cluster, host};
pub use decommission::{Notice, decommission};
pub use phase::Phase;
pub use upkeep::{certificates_renewal, each_cycle};

/// Deadline of a phase that only touches this machine, in seconds.
const LOCAL: u64 = 120;
