#![allow(clippy::unwrap_used)]

use super::*;
use crate::{config::DEFAULTS, error::Kind};

fn settings(cluster: &str, role: Option<Role>) -> Settings {
    let mut settings: Settings = toml::from_str(DEFAULTS).unwrap();
    settings.cluster.name = cluster.into();
    settings.node.role = role;
    settings
}

fn facts() -> InstanceFacts {
    InstanceFacts {
        instance_id: "i-0123456789abcdef0".into(),
        instance_type: "c7i-flex.large".into(),
        region: "eu-central-1".into(),
        zone: "eu-central-1a".into(),
        account: "123456789012".into(),
        private_ip: [10, 0, 0, 1].into(),
        local_hostname: "ip-10-0-0-1.eu-central-1.compute.internal".into(),
    }
}

fn machine() -> MachineFacts {
    MachineFacts {
        cpus: 2,
        memory_bytes: 4 << 30,
        arch: "amd64".into(),
        cgroup_version: 2,
        disk_free_bytes: 20 << 30,
        root: true,
        kernel: "6.8.0-1030-aws".into(),
    }
}

fn resolve(settings: &Settings) -> Result<Identity> {
    Identity::resolve(settings, &facts(), &machine())
}

fn with_label(key: &str, value: &str) -> Result<Identity> {
    let mut settings = settings("prod", Some(Role::Worker));
    settings.node.labels.insert(key.into(), value.into());
    resolve(&settings)
}

fn with_taint(key: &str, value: &str) -> Result<Identity> {
    let mut settings = settings("prod", Some(Role::ControlPlane));
    settings.node.taints.insert(key.into(), value.into());
    resolve(&settings)
}

/// Asserts that it is refused with all these parts in the message; returns the remedy.
fn refused(result: Result<Identity>, parts: &[&str]) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    for part in parts {
        assert!(error.one_line().contains(part), "`{part}` in {error}");
    }
    error.remedy().unwrap().to_owned()
}

fn written(taints: &[Taint]) -> Vec<String> {
    taints
        .iter()
        .map(|t| format!("{}={}:{}", t.key, t.value, t.effect))
        .collect()
}

#[test]
fn a_workers_identity_comes_from_ec2() {
    let identity = resolve(&settings("prod", Some(Role::Worker))).unwrap();
    let labels = [
        ("node.kubernetes.io/instance-type", "c7i-flex.large"),
        ("topology.kubernetes.io/region", "eu-central-1"),
        ("topology.kubernetes.io/zone", "eu-central-1a"),
    ];
    let expected = Identity {
        cluster: "prod".into(),
        role: Role::Worker,
        node_name: "ip-10-0-0-1.eu-central-1.compute.internal".into(),
        instance_id: "i-0123456789abcdef0".into(),
        provider_id: "aws:///eu-central-1a/i-0123456789abcdef0".into(),
        region: "eu-central-1".into(),
        zone: "eu-central-1a".into(),
        private_ip: [10, 0, 0, 1].into(),
        arch: "amd64".into(),
        labels: labels.map(|(k, v)| (k.into(), v.into())).into(),
        taints: vec![],
    };
    assert_eq!(identity, expected);
}

#[test]
fn a_missing_cluster_or_role_is_refused_with_the_tag_to_add() {
    let remedy = refused(
        resolve(&settings("", Some(Role::Worker))),
        &["cluster.name"],
    );
    assert!(
        remedy.starts_with("add the tag k8s-bootstrap:cluster"),
        "{remedy}"
    );
    assert!(
        remedy.contains("--resources i-0123456789abcdef0"),
        "{remedy}"
    );
    let remedy = refused(
        resolve(&settings("prod", None)),
        &["node.role", "control-plane or worker"],
    );
    assert!(
        remedy.starts_with("add the tag k8s-bootstrap:role"),
        "{remedy}"
    );
}

#[test]
fn a_cluster_name_that_is_no_dns_label_is_refused() {
    for name in ["Prod", "a.b", "-a", "a b", &"a".repeat(64)] {
        let remedy = refused(resolve(&settings(name, Some(Role::Worker))), &[name]);
        assert!(remedy.contains("k8s-bootstrap:cluster"), "{remedy}");
    }
}

#[test]
fn the_node_name_is_the_first_private_dns_name_in_lower_case() {
    let worker = settings("prod", Some(Role::Worker));
    let named = |hostname: &str| {
        let facts = InstanceFacts {
            local_hostname: hostname.into(),
            ..facts()
        };
        Identity::resolve(&worker, &facts, &machine())
    };
    let name = named("IP-10-0-0-1.Corp.example ip-10-0-0-1.other.example");
    assert_eq!(name.unwrap().node_name, "ip-10-0-0-1.corp.example");
    for hostname in ["", "under_score.example", "a..b"] {
        let remedy = refused(named(hostname), &[hostname, "private DNS name"]);
        assert!(remedy.contains("DHCP"), "{remedy}");
    }
}

#[test]
fn labels_from_the_settings_are_added() {
    let identity = with_label("example.com/team", "blue").unwrap();
    assert_eq!(identity.labels["example.com/team"], "blue");
    assert_eq!(identity.labels.len(), 4);
}

#[test]
fn invalid_labels_are_refused_with_their_source() {
    for (key, value, problem) in [
        ("a b", "x", "letters"),
        ("team", "a/b", "neither empty nor"),
        ("node-role.kubernetes.io/worker", "", "may not give itself"),
        ("topology.kubernetes.io/zone", "mars", "eu-central-1a"),
    ] {
        let remedy = refused(with_label(key, value), &[key, value, problem]);
        assert!(
            remedy.contains(&format!("node.labels.\"{key}\"")),
            "{remedy}"
        );
        assert!(
            remedy.contains(&format!("k8s-bootstrap:label:{key}")),
            "{remedy}"
        );
    }
}

#[test]
fn a_control_plane_has_its_taint_once_next_to_others() {
    let own = "node-role.kubernetes.io/control-plane=:NoSchedule";
    let identity = with_taint("gpu", "a100:NoExecute").unwrap();
    assert_eq!(written(&identity.taints), ["gpu=a100:NoExecute", own]);
    let identity = with_taint("node-role.kubernetes.io/control-plane", "x:NoSchedule").unwrap();
    assert_eq!(written(&identity.taints), [own]);
}

#[test]
fn invalid_taints_are_refused_with_their_source() {
    for (key, value, problem) in [
        ("gpu", "NoSchedule", "VALUE:EFFECT"),
        (
            "gpu",
            "a:NoShedule",
            "NoSchedule, PreferNoSchedule, NoExecute",
        ),
        ("gpu", "a b:NoSchedule", "a b"),
        ("-gpu", ":NoSchedule", "letters"),
    ] {
        let remedy = refused(with_taint(key, value), &[key, value, problem]);
        assert!(
            remedy.contains(&format!("node.taints.\"{key}\"")),
            "{remedy}"
        );
    }
}
