//! EC2 on one machine, to test k8s-bootstrap.
//!
//! The lab provides what an instance sees of EC2, and no more: a VPC with its resolver, machines
//! that boot systemd and cloud-init, the metadata service, the EC2 API (moto), and, instead of the
//! internet, an artifact server and an image registry. The modules are declared in the order in
//! which `up` needs them. `bench` measures the application and the start of nodes on the lab.

pub mod layout;
pub mod process;
pub mod state;

pub mod components;
pub mod host;
pub mod network;
pub mod tls;

pub mod artifacts;
pub mod dhcp;
pub mod ec2;
pub mod forward_proxy;
pub mod imds;
pub mod registry;
pub mod resolver;
pub mod serve;
pub mod zone;

pub mod bundle;
pub mod machine;
pub mod userdata;

pub mod bench;
pub mod down;
pub mod firewall;
pub mod kubernetes;
pub mod lifecycle;
pub mod metrics;
pub mod stack;
pub mod status;
pub mod up;
pub mod visitors;
