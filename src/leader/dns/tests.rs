#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::testing::{FakeWorld, running, settings, worker};

fn wish() -> Wish {
    Wish {
        enabled: true,
        zone: "Z1".to_owned(),
        name: "www.example.com".to_owned(),
        ..settings().dns
    }
}

fn ip(last: u8) -> Ipv4Addr {
    [10, 42, 0, last].into()
}

/// The Node of a Ready worker at 10.42.0.`last`, on instance `i-LAST`.
fn node(last: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("w{last}")},
        "spec": {"providerID": format!("aws:///eu-central-1a/i-{last}")},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [
                {"type": "Hostname", "address": format!("w{last}")},
                {"type": "InternalIP", "address": format!("10.42.0.{last}")},
            ],
        },
    })
}

fn with(mut node: Value, path: &str, value: Value) -> Value {
    if let Some((parent, key)) = path.rsplit_once('/') {
        node.pointer_mut(parent).unwrap()[key] = value;
    }
    node
}

fn instance(last: u8) -> Instance {
    running(&worker(&format!("i-{last}")), last)
}

fn ending(last: u8, state: InstanceState) -> Instance {
    Instance {
        state,
        ..instance(last)
    }
}

fn record(lasts: &[u8]) -> RecordSet {
    RecordSet {
        addresses: lasts.iter().map(|last| ip(*last)).collect(),
        ttl: 30,
    }
}

#[test]
fn a_worker_is_in_the_record_unless_the_api_or_ec2_excludes_it() {
    use InstanceState::{Pending, ShuttingDown, Stopped, Stopping, Terminated};
    let both = || vec![instance(1), instance(2)];
    let but = |state| vec![instance(1), ending(2, state)];
    let unready = with(node(2), "/status/conditions/0/status", json!("Unknown"));
    for (case, second, instances, expected) in [
        ("both run", node(2), both(), record(&[1, 2])),
        ("its kubelet is silent", unready, both(), record(&[1])),
        (
            "cordoned",
            with(node(2), "/spec/unschedulable", json!(true)),
            both(),
            record(&[1]),
        ),
        (
            "being deleted",
            with(
                node(2),
                "/metadata/deletionTimestamp",
                json!("2026-11-23T12:00:00Z"),
            ),
            both(),
            record(&[1]),
        ),
        (
            "without an address",
            with(node(2), "/status/addresses", json!([])),
            both(),
            record(&[1]),
        ),
        ("shutting down", node(2), but(ShuttingDown), record(&[1])),
        ("terminated", node(2), but(Terminated), record(&[1])),
        ("stopping", node(2), but(Stopping), record(&[1])),
        ("stopped", node(2), but(Stopped), record(&[1])),
        (
            "still pending in EC2's list",
            node(2),
            but(Pending),
            record(&[1, 2]),
        ),
        (
            "not listed yet",
            node(2),
            vec![instance(1)],
            record(&[1, 2]),
        ),
    ] {
        let workers = [Worker::of(&node(1)).unwrap(), Worker::of(&second).unwrap()];
        let verdict = decide(&workers, Some(&instances), None, &wish());
        assert_eq!(verdict, Verdict::Write(expected), "{case}");
    }
}

#[test]
fn the_last_addresses_stay_and_an_unchanged_record_is_not_written() {
    let workers = [1, 2].map(|last| Worker::of(&node(last)).unwrap());
    let leaves =
        |workers: &[Worker], instances: &[Instance], record: Option<&RecordSet>| match decide(
            workers,
            Some(instances),
            record,
            &wish(),
        ) {
            Verdict::Leave(why) => why.to_owned(),
            Verdict::Write(record) => format!("writes {record:?}"),
        };
    let same = leaves(&workers, &[], Some(&record(&[1, 2])));
    assert_eq!(same, "it is up to date");
    for record in [None, Some(&record(&[1]))] {
        assert!(leaves(&[], &[], record).contains("last known addresses stay"));
        let gone = [1, 2].map(|last| ending(last, InstanceState::Terminated));
        assert!(leaves(&workers, &gone, record).contains("last known addresses stay"));
    }
    let old = RecordSet {
        ttl: 300,
        ..record(&[1, 2])
    };
    assert!(leaves(&workers, &[], Some(&old)).starts_with("writes"));
}

#[test]
fn without_an_answer_from_ec2_workers_are_only_removed() {
    let workers = [1, 2, 3].map(|last| Worker::of(&node(last)).unwrap());
    let there = record(&[1, 2, 9]);
    let verdict = decide(&workers, None, Some(&there), &wish());
    assert_eq!(verdict, Verdict::Write(record(&[1, 2])));
    let verdict = decide(&workers[2..], None, Some(&there), &wish());
    assert!(matches!(verdict, Verdict::Leave(_)), "{verdict:?}");
}

#[test]
fn public_addresses_come_from_ec2_and_a_worker_without_one_is_left_out() {
    let wish = Wish {
        addresses: Addresses::Public,
        ..wish()
    };
    let public = Instance {
        public_ip: Some([54, 1, 2, 3].into()),
        ..instance(1)
    };
    let workers = [1, 2, 3].map(|last| Worker::of(&node(last)).unwrap());
    let verdict = decide(&workers, Some(&[public, instance(2)]), None, &wish);
    let expected = RecordSet {
        addresses: [[54, 1, 2, 3].into()].into(),
        ttl: 30,
    };
    assert_eq!(verdict, Verdict::Write(expected));
}

#[test]
fn a_record_set_has_400_addresses_at_most() {
    let worker = |n: u16| Worker {
        instance: format!("i-{n}"),
        address: Some(Ipv4Addr::from(0x0a2a_0000 + u32::from(n))),
        serves: true,
    };
    let workers: Vec<Worker> = (1..=401).map(worker).collect();
    let Verdict::Write(record) = decide(&workers, Some(&[]), None, &wish()) else {
        unreachable!("there are workers")
    };
    assert_eq!(record.addresses.len(), 400);
}

async fn look(fake: &FakeWorld) -> Option<DnsReport> {
    look_again(fake, &mut None).await
}

async fn look_again(fake: &FakeWorld, written: &mut Option<RecordSet>) -> Option<DnsReport> {
    cycle(&fake.ports(), "i-cp", "demo", &wish(), written).await
}

#[tokio::test(start_paused = true)]
async fn a_second_writer_of_the_record_set_is_named() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(1));
    fake.ec2.list([instance(1)]);
    let written = &mut None;
    for _ in 0..2 {
        let report = look_again(&fake, written).await.unwrap();
        assert_eq!(report.trouble, None);
    }
    // Another cluster with the same name in its settings.
    let zone = &wish().zone;
    fake.ports()
        .dns
        .write(zone, &wish().name, &record(&[7]))
        .await
        .unwrap();
    let report = look_again(&fake, written).await.unwrap();
    let trouble = report.trouble.unwrap();
    assert!(
        trouble.contains("it has changed from 10.42.0.1 to 10.42.0.7"),
        "{trouble}"
    );
    assert_eq!(report.addresses, record(&[1]).addresses);
    let report = look_again(&fake, written).await.unwrap();
    assert_eq!(report.trouble, None);
    // An instance that has not led meanwhile does not know who wrote.
    crate::kubernetes::lease::LEADER
        .release(&fake.ports(), "i-cp")
        .await
        .unwrap();
    leader::lead(&fake.ports(), "i-other").await.unwrap();
    assert_eq!(look_again(&fake, written).await, None);
    assert_eq!(*written, None);
}

#[tokio::test(start_paused = true)]
async fn a_terminated_worker_stays_out_of_the_record_while_ec2_does_not_answer() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(1));
    fake.cluster.put(node(2));
    let control_plane = with(
        node(3),
        "/metadata/labels",
        json!({"node-role.kubernetes.io/control-plane": ""}),
    );
    fake.cluster.put(control_plane);
    fake.ec2.list([instance(1), instance(2)]);
    let report = look(&fake).await.unwrap();
    assert_eq!(report.addresses, record(&[1, 2]).addresses);
    look(&fake).await.unwrap();
    fake.ec2
        .list([instance(1), ending(2, InstanceState::ShuttingDown)]);
    look(&fake).await.unwrap();
    fake.ec2.fail_with(|| Error::failed("throttled"));
    let report = look(&fake).await.unwrap();
    assert_eq!(report.trouble.as_deref(), Some("throttled"));
    assert_eq!(report.addresses, record(&[1]).addresses);
    assert_eq!(fake.dns.writes(), [record(&[1, 2]), record(&[1])]);
}

#[tokio::test(start_paused = true)]
async fn a_follower_writes_and_reports_nothing() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(1));
    let other = leader::lead(&fake.ports(), "i-other").await.unwrap();
    assert_eq!(other, Leader::Me);
    assert_eq!(look(&fake).await, None);
    assert_eq!(fake.dns.writes(), []);
}

#[tokio::test(start_paused = true)]
async fn a_failure_to_maintain_the_record_set_is_reported_with_its_hint() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(1));
    fake.dns
        .fail_with(|| Error::failed("AWS answered 403").hint("allow the action"));
    let report = look(&fake).await.unwrap();
    assert_eq!(
        report.trouble.as_deref(),
        Some("AWS answered 403 (allow the action)")
    );
}
