//! The status as data, and as the one line that `systemctl status` shows.

use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EtcdReport, IssuerReport, SnapshotReport};
use crate::{observe::Origin, ports::Role, runner::PhaseState};

/// The stage of the agent and its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Reading metadata and settings.
    Starting,
    /// Carrying out phases.
    Working,
    /// The node is Ready and everything is as wanted.
    Ready,
    /// The node was Ready, but something is not as wanted now.
    Degraded,
    /// The node is being drained and leaves the cluster.
    Leaving,
    /// Stopped by an error. The agent starts over, or checks again later if a person must act.
    Failed,
}

impl Stage {
    /// The stage's name in texts and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Working => "Working",
            Self::Ready => "Ready",
            Self::Degraded => "Degraded",
            Self::Leaving => "Leaving",
            Self::Failed => "Failed",
        }
    }
}

/// Who reconciles the add-ons, and their state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddonsReport {
    /// The leader's instance id.
    pub leader: String,
    /// Every add-on that it reconciles; empty on other control planes.
    pub addons: Vec<AddonReport>,
}

/// Everything that the agent reports, as `/status` and `status --json` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version, such as `0.1.0`.
    pub version: String,
    /// What the agent is doing now.
    pub stage: Stage,
    /// When this stage began.
    pub since: Timestamp,
    /// Why it is in this stage, or what it waits for; may be empty.
    pub message: String,
    /// The cluster's name. Like the node, the instance, the role and the version of Kubernetes
    /// below, it is `None` until metadata and settings are read.
    pub cluster: Option<String>,
    /// The cluster's uid, once it is chosen.
    pub cluster_uid: Option<String>,
    /// Whether this instance founds the cluster or joins it.
    pub origin: Option<Origin>,
    /// The Kubernetes node name.
    pub node: Option<String>,
    /// The EC2 instance id.
    pub instance_id: Option<String>,
    /// What the node is for.
    pub role: Option<Role>,
    /// The Kubernetes version that the settings want, such as `1.36.3`.
    pub kubernetes: Option<String>,
    /// Every phase, in the order of the plan.
    pub phases: Vec<PhaseReport>,
    /// On a control plane: the instance id of the leader, which reconciles the add-ons.
    #[serde(default)]
    pub leader: Option<String>,
    /// On the leader: the add-ons.
    #[serde(default)]
    pub addons: Vec<AddonReport>,
    /// On a control plane: the problems with etcd that only a person can fix.
    #[serde(default)]
    pub troubles: Vec<String>,
    /// On a control plane: the state of etcd's members; `None` if etcd does not answer there.
    #[serde(default)]
    pub etcd: Option<EtcdReport>,
    /// On the leader: the record set of the workers, if there is one.
    #[serde(default)]
    pub dns: Option<DnsReport>,
    /// On the leader: the issuer of service account tokens, if its keys are published.
    #[serde(default)]
    pub issuer: Option<IssuerReport>,
    /// On the leader: the state of backups; `None` if none are configured.
    #[serde(default)]
    pub snapshots: Option<SnapshotReport>,
    /// The certificates of this node and when they expire.
    #[serde(default)]
    pub certificates: Vec<CertificateReport>,
    /// What a person must know about them.
    #[serde(default)]
    pub certificate_troubles: Vec<String>,
    /// Why only a person can decide which cluster this node belongs to, and what to do.
    #[serde(default)]
    pub conflict: Option<String>,
}

/// One certificate of [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// As `k8s-bootstrap certificates` names it.
    pub name: String,
    /// When it expires.
    pub not_after: Timestamp,
}

/// The record set of the workers in [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsReport {
    /// The record set's name, from `dns.name`.
    pub name: String,
    /// Its addresses, as far as is known.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Why it may not be up to date.
    pub trouble: Option<String>,
}

/// One add-on of [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddonReport {
    /// Its name in the settings.
    pub name: String,
    /// Whether it is applied and runs.
    pub state: AddonState,
    /// What is missing or went wrong; empty if nothing is.
    pub message: String,
}

/// The state of an add-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddonState {
    /// Its objects are as the settings say, and its workloads run.
    Applied,
    /// Its objects are as wanted, but its workloads do not all run yet.
    RollingOut,
    /// The last attempt to apply or remove it failed; the agent will retry.
    Failed,
}

impl AddonState {
    /// The state's name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::RollingOut => "rolling-out",
            Self::Failed => "failed",
        }
    }
}

/// One phase of [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// As `k8s-bootstrap plan` names it; unique among all phases.
    pub name: String,
    /// How far the run is with it.
    #[serde(flatten)]
    pub state: PhaseState,
}

impl AddonReport {
    /// What a person must know about a failing add-on.
    fn trouble(&self) -> Option<String> {
        (self.state == AddonState::Failed)
            .then(|| format!("add-on {} failed: {}", self.name, self.message))
    }
}

impl DnsReport {
    fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.as_ref()?;
        Some(format!("DNS name {}: {trouble}", self.name))
    }
}

impl Status {
    /// The status of an agent that is starting.
    pub fn starting(now: Timestamp) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stage: Stage::Starting,
            since: now,
            message: "reading instance metadata and settings".to_owned(),
            cluster: None,
            cluster_uid: None,
            origin: None,
            node: None,
            instance_id: None,
            role: None,
            kubernetes: None,
            phases: Vec::new(),
            leader: None,
            addons: Vec::new(),
            troubles: Vec::new(),
            etcd: None,
            dns: None,
            issuer: None,
            snapshots: None,
            certificates: Vec::new(),
            certificate_troubles: Vec::new(),
            conflict: None,
        }
    }

    /// Whether the stage is `Ready`.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// The line for `STATUS=`: stage, phases i/n, the current wait and its start, failing add-ons.
    pub fn line(&self) -> String {
        let mut line = self.stage.as_str().to_owned();
        let total = self.phases.len();
        if self.stage == Stage::Working && total > 0 {
            let hold = self.phases.iter().filter(|p| p.state.holds()).count();
            let _ = write!(line, " {hold}/{total}");
        }
        let running: Vec<String> = self
            .phases
            .iter()
            .filter_map(|phase| match &phase.state {
                PhaseState::Running { since, waiting_for } => {
                    let clock = since.strftime("%H:%M:%S");
                    Some(match waiting_for {
                        Some(what) => {
                            format!("{} waits for {what} (since {clock} UTC)", phase.name)
                        }
                        None => format!("{} (since {clock} UTC)", phase.name),
                    })
                }
                _ => None,
            })
            .collect();
        let parts = (!self.message.is_empty())
            .then(|| self.message.clone())
            .into_iter()
            .chain(running)
            .chain(self.conflict.clone())
            .chain(self.troubles.iter().cloned())
            .chain(self.etcd.iter().flat_map(|etcd| etcd.troubles.clone()))
            .chain(self.addons.iter().filter_map(AddonReport::trouble))
            .chain(self.dns.iter().filter_map(DnsReport::trouble))
            .chain(self.issuer.iter().filter_map(IssuerReport::trouble))
            .chain(self.backup_trouble())
            .chain(self.certificate_troubles.iter().cloned());
        for (index, part) in parts.enumerate() {
            let _ = write!(line, "{}{part}", if index == 0 { ": " } else { "; " });
        }
        line
    }

    fn backup_trouble(&self) -> Option<String> {
        let trouble = &self.snapshots.as_ref()?.trouble;
        (!trouble.is_empty()).then(|| format!("no backup was taken: {trouble}"))
    }

    /// The status as text for a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.line());
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let _ = writeln!(
            text,
            "cluster {} (uid {}), node {}, instance {}, role {}, Kubernetes {}, agent {}\n",
            or_dash(&self.cluster),
            or_dash(&self.cluster_uid),
            or_dash(&self.node),
            or_dash(&self.instance_id),
            self.role.map_or("-", Role::as_str),
            or_dash(&self.kubernetes),
            self.version,
        );
        for phase in &self.phases {
            let state = match &phase.state {
                PhaseState::Pending => "pending".to_owned(),
                PhaseState::Held => "held already".to_owned(),
                PhaseState::Done { duration_ms } => format!("done in {duration_ms} ms"),
                PhaseState::Running {
                    waiting_for: Some(what),
                    ..
                } => format!("waits for {what}"),
                PhaseState::Running { .. } => "running".to_owned(),
                PhaseState::Failed { error } => format!("FAILED: {error}"),
            };
            let _ = writeln!(text, "  {:<28} {state}", phase.name);
        }
        for addon in &self.addons {
            let name = format!("addon-{}", addon.name);
            let state = addon.state.as_str();
            let _ = writeln!(
                text,
                "  {name:<28} {}",
                format!("{state} {}", addon.message).trim()
            );
        }
        for member in self.etcd.iter().flat_map(|etcd| &etcd.members) {
            let _ = writeln!(
                text,
                "  {:<28} {}",
                format!("etcd {}", member.name),
                member.line()
            );
        }
        if let Some(dns) = &self.dns {
            let addresses: Vec<String> = dns.addresses.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "  {:<28} {}", dns.name, addresses.join(" "));
        }
        if let Some(issuer) = &self.issuer {
            let _ = writeln!(text, "  {:<28} {}", "issuer", issuer.state());
        }
        if let Some(snapshots) = &self.snapshots {
            let last = snapshots
                .last_good
                .map_or("none yet".to_owned(), |time| format!("last at {time:.0}"));
            let _ = writeln!(text, "  {:<28} {last}, to {}", "backups", snapshots.to);
        }
        if let Some(next) = self.certificates.iter().min_by_key(|c| c.not_after) {
            let _ = writeln!(
                text,
                "  {:<28} {} expires first, at {}",
                "certificates", next.name, next.not_after
            );
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn status(stage: Stage, phases: Vec<(&str, PhaseState)>) -> Status {
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        Status {
            stage,
            message: String::new(),
            phases: phases
                .into_iter()
                .map(|(name, state)| PhaseReport {
                    name: name.to_owned(),
                    state,
                })
                .collect(),
            ..Status::starting(now)
        }
    }

    #[test]
    fn the_line_shows_the_phase_count_and_what_is_waited_for() {
        let since = "2026-11-23T11:59:30Z".parse().unwrap();
        let status = status(
            Stage::Working,
            vec![
                ("kernel", PhaseState::Held),
                ("sysctl", PhaseState::Done { duration_ms: 3 }),
                (
                    "images",
                    PhaseState::Running {
                        since,
                        waiting_for: Some("etcd (2 of 7)".to_owned()),
                    },
                ),
                ("node-ready", PhaseState::Pending),
            ],
        );
        assert_eq!(
            status.line(),
            "Working 2/4: images waits for etcd (2 of 7) (since 11:59:30 UTC)"
        );
    }

    #[test]
    fn a_ready_node_shows_its_message() {
        let mut status = status(Stage::Ready, vec![("kernel", PhaseState::Held)]);
        status.message = "node w1 is Ready".to_owned();
        assert_eq!(status.line(), "Ready: node w1 is Ready");
    }

    #[test]
    fn a_failed_addon_is_reported_and_the_node_stays_ready() {
        let mut status = status(Stage::Ready, vec![]);
        status.message = "node c1 is Ready".to_owned();
        let report = |name: &str, state, message: &str| AddonReport {
            name: name.to_owned(),
            state,
            message: message.to_owned(),
        };
        status.addons = vec![
            report("storage", AddonState::RollingOut, "Deployment s/p 0/1"),
            report("mine", AddonState::Failed, "/m/a.yaml: apply Pod p: no"),
        ];
        assert!(status.is_ready());
        assert_eq!(
            status.line(),
            "Ready: node c1 is Ready; add-on mine failed: /m/a.yaml: apply Pod p: no"
        );
        let text = status.text();
        assert!(
            text.contains("addon-storage                rolling-out Deployment s/p 0/1\n"),
            "{text}"
        );
    }

    #[test]
    fn what_only_a_person_can_fix_is_in_the_line() {
        let mut status = status(Stage::Ready, vec![]);
        status.message = "node c1 is Ready".to_owned();
        status.troubles = vec!["etcd has lost its majority".to_owned()];
        assert_eq!(
            status.line(),
            "Ready: node c1 is Ready; etcd has lost its majority"
        );
    }

    #[test]
    fn the_addresses_of_the_dns_name_and_its_trouble_are_shown() {
        let mut status = status(Stage::Ready, vec![]);
        status.message = "node c1 is Ready".to_owned();
        status.dns = Some(DnsReport {
            name: "www.example.com".to_owned(),
            addresses: [[10, 0, 0, 4].into(), [10, 0, 0, 5].into()].into(),
            trouble: Some("EC2 does not answer".to_owned()),
        });
        assert_eq!(
            status.line(),
            "Ready: node c1 is Ready; DNS name www.example.com: EC2 does not answer"
        );
        let text = status.text();
        let line = "  www.example.com              10.0.0.4 10.0.0.5\n";
        assert!(text.ends_with(line), "{text}");
    }

    #[test]
    fn the_issuer_and_its_trouble_are_shown() {
        let mut status = status(Stage::Ready, vec![]);
        status.message = "node c1 is Ready".to_owned();
        status.issuer = Some(IssuerReport {
            issuer: "https://id.example.com".to_owned(),
            published: false,
            trouble: Some("the bucket is gone".to_owned()),
        });
        assert_eq!(
            status.line(),
            "Ready: node c1 is Ready; issuer https://id.example.com: the bucket is gone"
        );
        let line = "  issuer                       its keys are not published\n";
        assert!(status.text().ends_with(line), "{}", status.text());
    }

    #[test]
    fn the_certificate_that_expires_first_and_an_expiring_ca_are_shown() {
        let mut status = status(Stage::Ready, vec![]);
        status.message = "node c1 is Ready".to_owned();
        status.certificates = [("ca", 36), ("kubelet-client", 27), ("apiserver", 28)]
            .map(|(name, year)| CertificateReport {
                name: name.to_owned(),
                not_after: format!("20{year}-01-01T00:00:00Z").parse().unwrap(),
            })
            .into();
        status.certificate_troubles = vec!["the certificate authority ca expires".to_owned()];
        assert_eq!(
            status.line(),
            "Ready: node c1 is Ready; the certificate authority ca expires"
        );
        let text = status.text();
        let line = "  certificates                 kubelet-client expires first, at 2027-01-01T00:00:00Z\n";
        assert!(text.ends_with(line), "{text}");
    }

    #[test]
    fn the_json_form_is_read_back_unchanged() {
        let status = status(
            Stage::Working,
            vec![("kernel", PhaseState::Done { duration_ms: 3 })],
        );
        let json = serde_json::to_string(&status).unwrap();
        assert!(
            json.contains(r#"{"name":"kernel","state":"done","duration_ms":3}"#),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
