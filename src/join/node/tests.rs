#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::{
    config::Settings,
    identity::Identity,
    ports::Role,
    testing::{FakeWorld, machine, running, settings, worker},
};

const NAME: &str = "ip-10-42-0-11.eu-central-1.compute.internal";

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter().copied();
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn instance(tags: &[(&str, &str)]) -> Instance {
    let mut instance = running(&worker("i-w"), 11);
    instance.private_dns_name = Some(NAME.to_uppercase());
    instance.tags = map(tags);
    instance.tags.extend(map(&[
        ("k8s-bootstrap:cluster", "demo"),
        ("k8s-bootstrap:role", "worker"),
        ("Name", "somebody's"),
    ]));
    instance
}

fn applicant(labels: &[(&str, &str)], taints: &[(&str, &str)]) -> Applicant {
    Applicant {
        cluster: "demo".to_owned(),
        role: Role::Worker,
        node: NAME.to_owned(),
        instance: "i-w".to_owned(),
        labels: map(labels),
        taints: map(taints),
    }
}

#[test]
fn the_node_equals_what_the_joiners_agent_derives_from_the_same_facts() {
    let tags = [
        ("k8s-bootstrap:label:team", "blue"),
        ("k8s-bootstrap:taint:gpu", "yes:NoSchedule"),
    ];
    let wishes = applicant(&[("example.com/disk", "ssd")], &[("slow", ":NoExecute")]);
    let node = node(&wishes, &instance(&tags), "eu-central-1").unwrap();

    let mut theirs: Settings = settings();
    theirs.cluster.name = "demo".to_owned();
    theirs.node.role = Some(Role::Worker);
    theirs.node.labels = map(&[("team", "blue"), ("example.com/disk", "ssd")]);
    theirs.node.taints = map(&[("gpu", "yes:NoSchedule"), ("slow", ":NoExecute")]);
    let facts = InstanceFacts {
        instance_id: "i-w".to_owned(),
        instance_type: "c7i-flex.large".to_owned(),
        region: "eu-central-1".to_owned(),
        zone: "eu-central-1a".to_owned(),
        account: String::new(),
        private_ip: [10, 42, 0, 11].into(),
        local_hostname: NAME.to_owned(),
    };
    let own = Identity::resolve(&theirs, &facts, &machine()).unwrap();
    assert_eq!(node["metadata"]["name"], own.node_name);
    assert_eq!(node["spec"]["providerID"], own.provider_id);
    assert_eq!(node["spec"]["taints"], json!(own.taints));
    assert_eq!(node["metadata"]["labels"], json!(own.labels));
}

#[test]
fn tags_in_ec2_override_the_applicants_labels() {
    let tags = [("k8s-bootstrap:label:team", "blue")];
    let liar = applicant(&[("team", "red"), ("x", "y")], &[]);
    let node = node(&liar, &instance(&tags), "eu-central-1").unwrap();
    assert_eq!(node["metadata"]["labels"]["team"], "blue");
    assert_eq!(node["metadata"]["labels"]["x"], "y");
}

#[test]
fn labels_that_a_kubelet_may_not_set_are_refused() {
    for (key, value) in [
        ("node-restriction.kubernetes.io/secure", "yes"),
        ("node-role.kubernetes.io/control-plane", ""),
        ("topology.kubernetes.io/zone", "eu-central-1b"),
        ("a b", "c"),
    ] {
        let refused = node(
            &applicant(&[(key, value)], &[]),
            &instance(&[]),
            "eu-central-1",
        );
        let refusal = refused.unwrap_err();
        assert_eq!(refusal.status, 403, "{key}");
        assert!(refusal.reason.contains(key), "{}", refusal.reason);
    }
}

#[tokio::test]
async fn a_gone_instances_node_is_replaced_and_the_joiners_own_is_kept() {
    let fake = FakeWorld::new();
    let world = fake.ports();
    let wanted = node(&applicant(&[], &[]), &instance(&[]), "eu-central-1").unwrap();
    put(&world, &wanted, NodeIs::Missing).await.unwrap();
    let error = put(&world, &wanted, NodeIs::Missing).await.unwrap_err();
    assert!(error.one_line().contains("another client"), "{error}");

    let mut own = wanted.clone();
    own["spec"]["unschedulable"] = true.into();
    fake.cluster.put(own);
    put(&world, &wanted, NodeIs::Its).await.unwrap();
    let key = format!("Node {NAME}");
    assert_eq!(fake.cluster.objects()[&key]["spec"]["unschedulable"], true);

    // No matter who created it.
    fake.cluster.put(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NAME}, "spec": {"providerID": "aws:///eu-central-1a/i-old"},
    }));
    put(&world, &wanted, NodeIs::Stale).await.unwrap();
    assert_eq!(
        fake.cluster.objects()[&key]["spec"]["providerID"],
        "aws:///eu-central-1a/i-w"
    );
}
