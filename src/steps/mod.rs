//! What is done to an instance, one module per kind of step.
//!
//! A step is data: the wanted state. [`Step::check`] compares it with the actual state without
//! changing anything, [`Step::apply`] establishes it, and the same check verifies the result. Only
//! the runner calls both; `plan` calls only the check.

pub mod addons;
pub mod cluster_record;
pub mod decommission;
pub mod host;
pub mod kubeadm;
mod node_ready;
pub mod renewal;

use async_trait::async_trait;
use serde::Serialize;

pub use node_ready::NodeReady;

use crate::{error::Result, ports::World, wait::Notes};

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing to do.
    AsWanted,
    /// What differs, in words for a person.
    Differs(String),
}

/// One kind of step.
#[async_trait]
pub trait Step: Send + Sync {
    /// Compares the wanted with the actual state; changes nothing.
    async fn check(&self, world: &World) -> Result<State>;
    /// Establishes the wanted state; may be called again after an interruption at any point.
    async fn apply(&self, world: &World, notes: &Notes) -> Result<()>;
}

/// Declares [`Action`], the conversions into it and its dispatch, so that a kind of step is one line.
macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident($step:ty),)*) => {
        /// Every kind of step.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(tag = "action", rename_all = "kebab-case")]
        pub enum Action {
            $($(#[$doc])* $name($step),)*
        }

        $(impl From<$step> for Action {
            fn from(step: $step) -> Self {
                Self::$name(step)
            }
        })*

        #[async_trait]
        impl Step for Action {
            async fn check(&self, world: &World) -> Result<State> {
                match self {
                    $(Self::$name(step) => step.check(world).await,)*
                }
            }

            async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
                match self {
                    $(Self::$name(step) => step.apply(world, notes).await,)*
                }
            }
        }
    };
}

actions! {
    /// Refuses a machine that cannot become this node.
    Preflight(host::Preflight),
    /// Kernel features.
    Kernel(host::Kernel),
    /// Kernel parameters.
    Sysctl(host::Sysctl),
    /// No swap.
    Swap(host::Swap),
    /// The node's own name.
    Hosts(host::Hosts),
    /// Network daemons leave foreign routes and interfaces alone.
    ForeignNetworks(host::ForeignNetworks),
    /// Packet rules for what pods may not reach.
    PodLimits(host::PodLimits),
    /// Everything that is downloaded, in one file.
    Bundle(host::Bundle),
    /// A pinned download.
    Artifact(host::Artifact),
    /// containerd, configured and running.
    Containerd(host::Containerd),
    /// The kubelet's unit.
    KubeletUnit(host::KubeletUnit),
    /// Images on the node.
    Images(host::Images),
    /// kubeadm's configuration.
    ConfigFiles(kubeadm::ConfigFiles),
    /// etcd's data is still there.
    EtcdData(kubeadm::EtcdData),
    /// One phase of `kubeadm init`.
    KubeadmPhase(kubeadm::KubeadmPhase),
    /// The API answers at the cluster's endpoint.
    ApiReady(kubeadm::ApiReady),
    /// A worker's admission, before it joins.
    Ticket(kubeadm::Ticket),
    /// `kubeadm join`.
    Join(kubeadm::Join),
    /// The control plane's certificates.
    Renewal(renewal::Renewal),
    /// The kubelet's certificate.
    KubeletCertificate(kubeadm::KubeletCertificate),
    /// The cluster recorded in the store.
    RecordCluster(cluster_record::RecordCluster),
    /// The cluster recorded as settled.
    SettleCluster(cluster_record::SettleCluster),
    /// kubeadm's blanket approval removed: only the join service admits nodes.
    BlanketApproval(kubeadm::BlanketApproval),
    /// The manifests of an add-on, applied.
    Addon(addons::Addon),
    /// The node's Ready condition.
    NodeReady(NodeReady),
    /// The node cordoned.
    Cordon(decommission::Cordon),
    /// The node uncordoned.
    Uncordon(decommission::Uncordon),
    /// The node marked not Ready.
    Unready(decommission::Unready),
    /// The node's pods evicted.
    Evict(decommission::Evict),
    /// Time until DNS stops naming this node.
    WaitForDns(decommission::WaitForDns),
    /// The node's member removed from etcd.
    LeaveEtcd(decommission::LeaveEtcd),
    /// The Node marked for deletion.
    MarkLeft(decommission::MarkLeft),
    /// The Auto Scaling group may continue.
    CompleteHooks(decommission::CompleteHooks),
}
