//! The certificates of this node: which ones exist, when they expire, and who renews them.
//!
//! ```text
//! inventory   every certificate on this machine with its dates           (pure but for reading)
//! due         which of them are to be renewed now, and why               (pure)
//! ```
//!
//! [`crate::steps::renewal`] renews them, with kubeadm and the authorities on disk.
//!
//! The service accounts' keys, `sa.key` and `sa.pub`, are not included: they have no certificate
//! and never expire.

pub mod due;
pub mod inventory;

pub use due::{Why, due};
pub use inventory::{Certificate, Inventory, Keeper, Source};
