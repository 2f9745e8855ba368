//! kubeadm, phase by phase, and how a node joins the cluster.
//!
//! The founder runs what `kubeadm init` does, in the same order but as separate steps, so that
//! certificates are made while images load and a kill at any point costs one phase:
//! [`ConfigFiles`], [`KubeadmPhase`] for each [`InitPhase`] up to `KubeletStart`, [`ApiReady`],
//! then the phases that write to the API. Every other node runs [`Join`], a worker [`Ticket`] before it.

mod blanket_approval;
pub mod config;
pub mod documents;
mod etcd_data;
mod init;
mod join;
pub mod kubeconfig;
mod pki;
mod ready;
mod rejoin;
pub mod reserved;
mod result;

pub use blanket_approval::BlanketApproval;
pub use etcd_data::EtcdData;
pub use init::{ConfigFiles, InitPhase, KubeadmPhase};
pub use join::{Join, Ticket};
pub use ready::ApiReady;
pub use rejoin::KubeletCertificate;
pub use result::PhaseResult;
