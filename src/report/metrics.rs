//! The status as Prometheus metrics.
//!
//! Rendered from the status at each scrape, so nothing has to be kept in sync.

mod etcd;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use super::{
    AddonReport, AddonState, CertificateReport, Counts, DnsReport, IssuerReport, PhaseReport,
    SnapshotReport, Stage, Status,
};
use crate::{
    error::{Context, Result},
    ports::Role,
    runner::PhaseState,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AddonLabel {
    addon: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabel {
    certificate: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProgramLabel {
    program: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabel {
    service: String,
}

/// The metrics in the `OpenMetrics` text format.
pub fn text(status: &Status, counts: &Counts) -> Result<String> {
    let mut registry = Registry::with_prefix("k8s_bootstrap");
    agent(&mut registry, status);
    stage(&mut registry, status);
    work(&mut registry, counts);
    phases(&mut registry, &status.phases);
    addons(&mut registry, &status.addons);
    dns(&mut registry, status.dns.as_ref());
    if let Some(report) = &status.issuer {
        issuer(&mut registry, report);
    }
    if let Some(report) = &status.snapshots {
        snapshots(&mut registry, report);
    }
    if let Some(report) = &status.etcd {
        etcd::register(&mut registry, report);
    }
    certificates(&mut registry, &status.certificates);
    let mut text = String::new();
    encode(&mut text, &registry).attempting(|| "cannot encode the metrics".to_owned())?;
    Ok(text)
}

fn agent(registry: &mut Registry, status: &Status) {
    let text_of = |value: &Option<String>| value.clone().unwrap_or_default();
    registry.register(
        "agent",
        "The agent and its node",
        Info::new(vec![
            ("version", status.version.clone()),
            ("cluster", text_of(&status.cluster)),
            ("cluster_uid", text_of(&status.cluster_uid)),
            ("node", text_of(&status.node)),
            ("instance_id", text_of(&status.instance_id)),
            ("role", status.role.map_or("", Role::as_str).to_owned()),
            ("kubernetes", text_of(&status.kubernetes)),
        ]),
    );
}

fn stage(registry: &mut Registry, status: &Status) {
    let stages = Family::<StageLabel, Gauge>::default();
    for stage in [
        Stage::Starting,
        Stage::Working,
        Stage::Ready,
        Stage::Degraded,
        Stage::Leaving,
        Stage::Failed,
    ] {
        let label = StageLabel {
            stage: stage.as_str(),
        };
        stages
            .get_or_create(&label)
            .set(i64::from(stage == status.stage));
    }
    registry.register("stage", "1 for the stage that the agent is in", stages);
    let since = Gauge::<i64>::default();
    since.set(status.since.as_second());
    registry.register_with_unit(
        "stage_since",
        "When that stage began, as Unix time",
        Unit::Seconds,
        since,
    );
}

fn work(registry: &mut Registry, counts: &Counts) {
    let programs = Family::<ProgramLabel, Counter>::default();
    for (program, count) in &counts.programs {
        let label = ProgramLabel {
            program: program.clone(),
        };
        programs.get_or_create(&label).inc_by(*count);
    }
    registry.register("programs", "Programs that the agent has started", programs);
    let requests = Family::<ServiceLabel, Counter>::default();
    for (service, count) in &counts.aws_requests {
        let label = ServiceLabel {
            service: service.clone(),
        };
        requests.get_or_create(&label).inc_by(*count);
    }
    registry.register(
        "aws_requests",
        "Requests that the agent has sent to AWS, with those that it repeated",
        requests,
    );
    let bytes = Counter::<u64>::default();
    bytes.inc_by(counts.downloaded_bytes);
    registry.register_with_unit(
        "downloaded",
        "What the agent has received of programs, archives and manifests",
        Unit::Bytes,
        bytes,
    );
}

fn phases(registry: &mut Registry, phases: &[PhaseReport]) {
    let states = Family::<StateLabel, Gauge>::default();
    for state in ["pending", "running", "held", "done", "failed"] {
        let count = phases.iter().filter(|p| name_of(&p.state) == state).count();
        states
            .get_or_create(&StateLabel { state })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("phases", "Phases of the plan by state", states);
    let durations = Family::<PhaseLabel, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    for phase in phases {
        if let PhaseState::Done { duration_ms } = phase.state {
            let label = PhaseLabel {
                phase: phase.name.clone(),
            };
            let seconds = std::time::Duration::from_millis(duration_ms).as_secs_f64();
            durations.get_or_create(&label).set(seconds);
        }
    }
    registry.register_with_unit(
        "phase_duration",
        "Time that a phase took in this boot",
        Unit::Seconds,
        durations,
    );
}

fn addons(registry: &mut Registry, addons: &[AddonReport]) {
    let ready = Family::<AddonLabel, Gauge>::default();
    for addon in addons {
        let label = AddonLabel {
            addon: addon.name.clone(),
        };
        ready
            .get_or_create(&label)
            .set(i64::from(addon.state == AddonState::Applied));
    }
    registry.register(
        "addon_ready",
        "On the leader: 1 for an add-on that is applied and runs",
        ready,
    );
}

fn dns(registry: &mut Registry, dns: Option<&DnsReport>) {
    let records = Family::<NameLabel, Gauge>::default();
    if let Some(dns) = dns {
        let label = NameLabel {
            name: dns.name.clone(),
        };
        let count = i64::try_from(dns.addresses.len()).unwrap_or(i64::MAX);
        records.get_or_create(&label).set(count);
    }
    registry.register(
        "dns_addresses",
        "On the leader: addresses of workers in the DNS record set",
        records,
    );
}

fn issuer(registry: &mut Registry, report: &IssuerReport) {
    let published = Gauge::<i64>::default();
    published.set(i64::from(report.published));
    registry.register(
        "issuer_published",
        "On the leader: 1 if the published keys of the issuer are the API server's",
        published,
    );
}

fn snapshots(registry: &mut Registry, report: &SnapshotReport) {
    let (last, bytes, failures) = <(Gauge, Gauge, Gauge)>::default();
    last.set(report.last_good.map_or(0, jiff::Timestamp::as_second));
    bytes.set(i64::try_from(report.bytes).unwrap_or(i64::MAX));
    failures.set(i64::try_from(report.failures).unwrap_or(i64::MAX));
    registry.register_with_unit(
        "snapshot_last_good",
        "On the leader: when the last good backup was taken, as Unix time; 0 for never",
        Unit::Seconds,
        last,
    );
    registry.register_with_unit(
        "snapshot_size",
        "On the leader: size of the last snapshot of etcd that this agent took",
        Unit::Bytes,
        bytes,
    );
    registry.register(
        "snapshot_failures",
        "On the leader: backups that failed since this agent started",
        failures,
    );
}

fn certificates(registry: &mut Registry, certificates: &[CertificateReport]) {
    let ends = Family::<CertificateLabel, Gauge>::default();
    for certificate in certificates {
        let label = CertificateLabel {
            certificate: certificate.name.clone(),
        };
        ends.get_or_create(&label)
            .set(certificate.not_after.as_second());
    }
    registry.register_with_unit(
        "certificate_expiry",
        "When a certificate of this node expires, as Unix time",
        Unit::Seconds,
        ends,
    );
}

fn name_of(state: &PhaseState) -> &'static str {
    match state {
        PhaseState::Pending => "pending",
        PhaseState::Running { .. } => "running",
        PhaseState::Held => "held",
        PhaseState::Done { .. } => "done",
        PhaseState::Failed { .. } => "failed",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        ports::{Alarm, Database},
        report::{EtcdReport, MemberReport, MemberState, Work},
    };

    #[test]
    fn stage_phases_and_durations_are_shown() {
        let mut status = Status::starting("2026-11-23T12:00:00Z".parse().unwrap());
        status.stage = Stage::Ready;
        status.phases = vec![PhaseReport {
            name: "images".to_owned(),
            state: PhaseState::Done { duration_ms: 1500 },
        }];
        let addon = |name: &str, state| AddonReport {
            name: name.to_owned(),
            state,
            message: String::new(),
        };
        status.addons = vec![
            addon("storage", AddonState::Applied),
            addon("visits", AddonState::RollingOut),
        ];
        status.dns = Some(DnsReport {
            name: "www.example.com".to_owned(),
            addresses: [[10, 0, 0, 4].into()].into(),
            trouble: None,
        });
        status.issuer = Some(IssuerReport {
            issuer: "https://id.example.com".to_owned(),
            published: true,
            trouble: None,
        });
        status.snapshots = Some(SnapshotReport {
            last_good: Some("2026-11-23T12:00:00Z".parse().unwrap()),
            bytes: 4128,
            failures: 1,
            ..SnapshotReport::default()
        });
        status.etcd = Some(EtcdReport {
            members: vec![MemberReport {
                name: "n1".to_owned(),
                state: MemberState::Healthy,
                leader: true,
                learner: false,
                alarms: vec![Alarm::NoSpace],
                database: Some(Database {
                    bytes: 64,
                    in_use: 12,
                    quota: 65,
                }),
            }],
            defragmentations: 3,
            ..EtcdReport::default()
        });
        status.certificates = vec![CertificateReport {
            name: "apiserver".to_owned(),
            not_after: "2026-11-23T12:00:00Z".parse().unwrap(),
        }];
        let work = Work::default();
        work.program("/usr/local/bin/ctr");
        work.program("ctr");
        work.aws_request("ec2");
        work.downloaded(4096);
        let text = text(&status, &work.counts()).unwrap();
        for line in [
            "k8s_bootstrap_etcd_member_state{member=\"n1\",state=\"healthy\"} 1",
            "k8s_bootstrap_etcd_member_state{member=\"n1\",state=\"silent\"} 0",
            "k8s_bootstrap_etcd_alarm{member=\"n1\",alarm=\"NOSPACE\"} 1",
            "k8s_bootstrap_etcd_alarm{member=\"n1\",alarm=\"CORRUPT\"} 0",
            "k8s_bootstrap_etcd_leader{member=\"n1\"} 1",
            "k8s_bootstrap_etcd_database_size_bytes{member=\"n1\"} 64",
            "k8s_bootstrap_etcd_database_in_use_bytes{member=\"n1\"} 12",
            "k8s_bootstrap_etcd_database_quota_bytes{member=\"n1\"} 65",
            "k8s_bootstrap_etcd_defragmentations 3",
            "k8s_bootstrap_etcd_alarms_ended 0",
            "k8s_bootstrap_snapshot_last_good_seconds 1795435200",
            "k8s_bootstrap_snapshot_size_bytes 4128",
            "k8s_bootstrap_snapshot_failures 1",
            "k8s_bootstrap_certificate_expiry_seconds{certificate=\"apiserver\"} 1795435200",
            "k8s_bootstrap_stage{stage=\"Ready\"} 1",
            "k8s_bootstrap_stage{stage=\"Working\"} 0",
            "k8s_bootstrap_phases{state=\"done\"} 1",
            "k8s_bootstrap_phase_duration_seconds{phase=\"images\"} 1.5",
            "k8s_bootstrap_addon_ready{addon=\"storage\"} 1",
            "k8s_bootstrap_addon_ready{addon=\"visits\"} 0",
            "k8s_bootstrap_dns_addresses{name=\"www.example.com\"} 1",
            "k8s_bootstrap_issuer_published 1",
            "k8s_bootstrap_stage_since_seconds 1795435200",
            "k8s_bootstrap_programs_total{program=\"ctr\"} 2",
            "k8s_bootstrap_aws_requests_total{service=\"ec2\"} 1",
            "k8s_bootstrap_downloaded_bytes_total 4096",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }
}
