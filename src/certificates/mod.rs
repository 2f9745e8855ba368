//! The certificates of this node: which there are, when they end, and who renews them.
//!
//! ```text
//! inventory   every certificate on this machine with its dates           (pure but for reading)
//! due         which of them are to be renewed now, and why               (pure)
//! renewal     by kubeadm, from the authorities on the disk
//! parts       the static pods that have to be started with new certificates
//! upkeep      the same again, for the life of the node
//! ```
//!
//! Left out are the service accounts' keys, `sa.key` and `sa.pub`: they are keys without a
//! certificate and have no end.

pub mod due;
pub mod inventory;
mod parts;
pub mod renewal;
pub mod upkeep;

pub use due::{Why, due};
pub use inventory::{Certificate, Inventory, Keeper, Source};
pub use renewal::Renewal;
