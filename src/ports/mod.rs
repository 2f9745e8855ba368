//! The traits through which the agent reaches the outside world.
//!
//! Everything outside `adapters` uses only these traits, so decisions, plans and phases run in
//! tests and simulations exactly as on an instance.

mod archive;
mod certificates;
mod cluster;
mod commands;
mod dns;
mod downloads;
mod ec2;
mod etcd;
mod host;
mod join;
mod leases;
mod metadata;
mod peers;
mod scaling;
mod store;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

pub use archive::{Archive, Place, is_bucket};
pub use certificates::CertificateRequests;
pub use cluster::{Cluster, Eviction, NodeCondition, OWNER_LABEL, ObjectRef, Part};
pub use commands::{Command, Commands, Output};
pub use dns::{Dns, RecordSet};
pub use downloads::{Download, Downloads, Target, is_sha256};
pub use ec2::{Ec2, Instance, InstanceState, Role};
pub use etcd::{Alarm, Database, Etcd, Member, MemberStatus, RaisedAlarm, Snapshot};
pub use host::{Host, MachineFacts};
pub use join::{Applicant, Caller, JoinServices, JoinTicket, Proof, Sts};
pub use leases::{LeaseMemory, LeaseState};
pub use metadata::{InstanceFacts, Interruption, Metadata, Notices};
pub use peers::{ApiHealth, NoBalancer, Peers};
pub use scaling::{Hook, Scaling};
pub use store::{Created, Store};

/// Time; tests and simulations replace it.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The wall clock: for what is recorded and shown. It jumps when it is set.
    fn now(&self) -> Timestamp;
    /// The time since a fixed moment: the monotonic clock. It only goes forward and is used to
    /// measure how long something has lasted. Two instances cannot compare their values.
    fn elapsed(&self) -> Duration;
    /// Waits for this long.
    async fn sleep(&self, duration: Duration);
    /// A uniform random number in 0..1, for jitter.
    fn jitter(&self) -> f64;
}

/// All ports together.
#[derive(Clone)]
pub struct World {
    /// The metadata service.
    pub metadata: Arc<dyn Metadata>,
    /// The EC2 API.
    pub ec2: Arc<dyn Ec2>,
    /// The cluster's shared store.
    pub store: Arc<dyn Store>,
    /// This machine.
    pub host: Arc<dyn Host>,
    /// Child processes.
    pub commands: Arc<dyn Commands>,
    /// Verified downloads.
    pub downloads: Arc<dyn Downloads>,
    /// The Kubernetes API.
    pub cluster: Arc<dyn Cluster>,
    /// Where backups are kept.
    pub archive: Arc<dyn Archive>,
    /// etcd, through this control plane's member.
    pub etcd: Arc<dyn Etcd>,
    /// Hosted zones.
    pub dns: Arc<dyn Dns>,
    /// Auto Scaling.
    pub scaling: Arc<dyn Scaling>,
    /// The cluster's requests for certificates.
    pub certificates: Arc<dyn CertificateRequests>,
    /// STS: who signed a request.
    pub sts: Arc<dyn Sts>,
    /// The control planes' join services.
    pub join: Arc<dyn JoinServices>,
    /// Other control planes, as seen on the network.
    pub peers: Arc<dyn Peers>,
    /// The wall clock, the monotonic clock and timers.
    pub clock: Arc<dyn Clock>,
    /// When this process saw each Lease change.
    pub leases: Arc<LeaseMemory>,
}
