//! The certificates of this node: which there are, when they end, and who renews them.
//!
//! ```text
//! inventory   every certificate on this machine with its dates           (pure but for reading)
//! due         which of them are to be renewed now, and why               (pure)
//! ```
//!
//! [`crate::steps::renewal`] renews them, by kubeadm and the authorities on the disk.
//!
//! Left out are the service accounts' keys, `sa.key` and `sa.pub`: they are keys without a
//! certificate and have no end.

pub mod due;
pub mod inventory;

pub use due::{Why, due};
pub use inventory::{Certificate, Inventory, Keeper, Source};
