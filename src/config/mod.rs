//! The user's settings: fragments merged over the defaults, then validated.
//!
//! Precedence, lowest first: the defaults, the instance's EC2 tags, the TOML parts
//! of the user-data in their order, the configuration file.

mod embedded;
mod image;
mod known;
mod load;
mod network;
mod proxy;
pub mod service_accounts;
mod settings;
pub mod tags;
pub mod user_data;
mod validate;

pub use embedded::{EMBEDDED, embedded};
pub use image::{
    PrivateRegistry, has_api_version, in_full, names_its_registry, overridden, private_registry,
    registry_of, registry_server,
};
pub use load::{Fragment, Sources, load};
pub use network::Network;
pub use settings::{
    Addon, Addresses, Cluster, Component, Deadlines, Dns, Downloads, Images, Kubeadm, Kubernetes,
    Leaving, LoginPlace, Node, Overrides, Patch, Pin, Report, ServiceAccounts, Settings, Snapshots,
    Source, Store, StoreKind,
};

/// The defaults and their documentation, as TOML.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// Path of the user's settings on an instance.
pub const FILE: &str = "/etc/k8s-bootstrap/config.toml";
