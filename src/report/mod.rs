//! What the agent reports about itself: one status, shown by systemd, over HTTP and as metrics.

mod backups;
mod etcd;
mod issuer;
pub mod metrics;
mod status;
mod work;

pub use backups::SnapshotReport;
pub use etcd::{EtcdReport, MemberReport, MemberState};
pub use issuer::IssuerReport;
pub use status::{
    AddonReport, AddonState, AddonsReport, CertificateReport, DnsReport, PhaseReport, Stage, Status,
};
pub use work::{Counts, Work};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{certificates::Inventory, identity::Identity, observe::Membership, runner::Progress};

/// Holds the status and notifies everything that shows it.
#[derive(Debug)]
pub struct Reporter(watch::Sender<Status>);

impl Reporter {
    /// A reporter with the status of an agent that is starting.
    pub fn new(now: Timestamp) -> Self {
        Self(watch::Sender::new(Status::starting(now)))
    }

    /// The current status and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// Sets the stage and its message.
    pub fn stage(&self, stage: Stage, message: impl Into<String>, now: Timestamp) {
        let message = message.into();
        self.change(|status| {
            if status.stage != stage {
                status.since = now;
            }
            status.stage = stage;
            status.message = message;
        });
    }

    /// Sets what the agent waits for outside of any phase.
    pub fn message(&self, message: impl Into<String>) {
        let message = message.into();
        self.change(|status| status.message = message);
    }

    /// Sets what is known once metadata and settings are read.
    pub fn identity(&self, me: &Identity, kubernetes: &str) {
        self.change(|status| {
            status.cluster = Some(me.cluster.clone());
            status.node = Some(me.node_name.clone());
            status.instance_id = Some(me.instance_id.clone());
            status.role = Some(me.role);
            status.kubernetes = Some(kubernetes.to_owned());
        });
    }

    /// Sets the cluster that this instance belongs to.
    pub fn membership(&self, membership: &Membership) {
        self.change(|status| {
            status.cluster_uid = Some(membership.cluster_uid.clone());
            status.origin = Some(membership.origin);
        });
    }

    /// Copies the runner's progress.
    pub fn progress(&self, progress: &Progress) {
        let phases = progress
            .iter()
            .map(|(name, state)| PhaseReport {
                name: name.clone(),
                state: state.clone(),
            })
            .collect();
        self.change(|status| status.phases = phases);
    }

    /// Sets who leads, and the state of the add-ons.
    pub fn addons(&self, report: AddonsReport) {
        self.change(|status| {
            status.leader = Some(report.leader);
            status.addons = report.addons;
        });
    }

    /// Sets the problems with etcd that only a person can fix.
    pub fn troubles(&self, troubles: Vec<String>) {
        self.change(|status| status.troubles = troubles);
    }

    /// Sets the state of etcd's members and their databases; `None` if etcd does not answer here.
    pub fn etcd(&self, report: Option<EtcdReport>) {
        self.change(|status| status.etcd = report);
    }

    /// Sets the addresses of the cluster's name; `None` on nodes that do not maintain them.
    pub fn dns(&self, report: Option<DnsReport>) {
        self.change(|status| status.dns = report);
    }

    /// Sets the issuer of tokens; `None` on nodes that do not publish its keys.
    pub fn issuer(&self, report: Option<IssuerReport>) {
        self.change(|status| status.issuer = report);
    }

    /// Sets the state of backups; `None` on a control plane that does not lead.
    pub fn snapshots(&self, report: Option<SnapshotReport>) {
        self.change(|status| status.snapshots = report);
    }

    /// Sets when the node's certificates expire, and what a person must know about them.
    pub fn certificates(&self, inventory: &Inventory, troubles: Vec<String>) {
        let certificates = inventory.certificates.iter();
        let certificates = certificates
            .map(|certificate| CertificateReport {
                name: certificate.name.to_owned(),
                not_after: certificate.not_after,
            })
            .collect();
        self.change(|status| {
            status.certificates = certificates;
            status.certificate_troubles = troubles;
        });
    }

    /// Sets why only a person can decide which cluster this node belongs to; `None` if that is clear.
    pub fn conflict(&self, conflict: Option<String>) {
        self.change(|status| status.conflict = conflict);
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}
