//! What the agent says of itself: one status, shown by systemd, over HTTP and as metrics.

mod backups;
mod etcd;
pub mod metrics;
mod status;

pub use backups::SnapshotReport;
pub use etcd::{EtcdReport, MemberReport, MemberState};
pub use status::{
    AddonReport, AddonState, AddonsReport, CertificateReport, DnsReport, PhaseReport, Stage, Status,
};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{certificates::Inventory, identity::Identity, observe::Membership, runner::Progress};

/// Holds the status and tells everyone who shows it.
#[derive(Debug)]
pub struct Reporter(watch::Sender<Status>);

impl Reporter {
    /// A reporter whose status says that the agent starts.
    pub fn new(now: Timestamp) -> Self {
        Self(watch::Sender::new(Status::starting(now)))
    }

    /// The status now and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// Enters a stage.
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

    /// Says what is being waited for outside of any phase.
    pub fn message(&self, message: impl Into<String>) {
        let message = message.into();
        self.change(|status| status.message = message);
    }

    /// Says who this instance is.
    pub fn identity(&self, me: &Identity, kubernetes: &str) {
        self.change(|status| {
            status.cluster = Some(me.cluster.clone());
            status.node = Some(me.node_name.clone());
            status.instance_id = Some(me.instance_id.clone());
            status.role = Some(me.role);
            status.kubernetes = Some(kubernetes.to_owned());
        });
    }

    /// Says which cluster this instance belongs to.
    pub fn membership(&self, membership: &Membership) {
        self.change(|status| {
            status.cluster_uid = Some(membership.cluster_uid.clone());
            status.origin = Some(membership.origin);
        });
    }

    /// Takes over the runner's progress.
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

    /// Says who keeps the add-ons, and how they are.
    pub fn addons(&self, report: AddonsReport) {
        self.change(|status| {
            status.leader = Some(report.leader);
            status.addons = report.addons;
        });
    }

    /// Says what is wrong with etcd and only a person can fix.
    pub fn troubles(&self, troubles: Vec<String>) {
        self.change(|status| status.troubles = troubles);
    }

    /// Says how etcd's members and their databases are; `None` if etcd does not answer here.
    pub fn etcd(&self, report: Option<EtcdReport>) {
        self.change(|status| status.etcd = report);
    }

    /// Says what the cluster's name stands for; none on those that do not keep it.
    pub fn dns(&self, report: Option<DnsReport>) {
        self.change(|status| status.dns = report);
    }

    /// Says how backups fare; none on a control plane that does not lead.
    pub fn snapshots(&self, report: Option<SnapshotReport>) {
        self.change(|status| status.snapshots = report);
    }

    /// Says when the node's certificates end, and what a person must know of them.
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

    fn change(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}
