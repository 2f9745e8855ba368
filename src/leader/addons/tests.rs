#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::{
    config::{Fragment, load},
    testing::{FakeWorld, StoppedClock},
};

fn upkeep(me: &str, toml: &str) -> Upkeep {
    // Only what the test names.
    let none = "addons.storage.enabled = false\naddons.ingress-nginx.enabled = false\n";
    let settings = load(&[Fragment::parse("test", &format!("{none}{toml}")).unwrap()]).unwrap();
    Upkeep::new(&settings, me)
}

const ONE: &str = "addons.one = { enabled = true, sources = [{ url = 'file:///one' }] }\n";
const TWO: &str = "addons.two = { enabled = true, sources = [{ url = 'file:///two' }] }\n";

fn manifest(kind: &str, name: &str) -> String {
    format!("---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: x}}\n")
}

fn config_maps(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| manifest("ConfigMap", name))
        .collect()
}

/// The cluster's objects except the Lease and the records.
fn there(fake: &FakeWorld) -> Vec<String> {
    let names = fake.cluster.objects().into_keys();
    names
        .filter(|name| !name.contains("kube-system/"))
        .collect()
}

fn applied(fake: &FakeWorld) -> usize {
    fake.cluster.applied().len()
}

async fn pass(fake: &FakeWorld, seconds: u64) {
    fake.ports().clock.sleep(Duration::from_secs(seconds)).await;
}

fn states(upkept: &AddonsReport) -> Vec<(&str, &str)> {
    let reports = upkept.addons.iter();
    reports
        .map(|r| (r.name.as_str(), r.state.as_str()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_is_left_alone_until_it_changes() {
    let fake = FakeWorld::new();
    fake.files.put("/one", config_maps(&["a"]));
    let mut upkeep = upkeep("i-1", ONE);
    let first = upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(first.leader, "i-1");
    assert_eq!(states(&first), [("one", "applied")]);
    assert_eq!(there(&fake), ["ConfigMap x/a"]);

    let before = applied(&fake);
    upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(applied(&fake), before);

    fake.files.put("/one", config_maps(&["a", "b"]));
    upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(there(&fake), ["ConfigMap x/a", "ConfigMap x/b"]);
}

#[tokio::test(start_paused = true)]
async fn one_leads_until_its_lease_ends() {
    let fake = FakeWorld::new();
    fake.files.put("/one", config_maps(&["a"]));
    let (mut first, mut second) = (upkeep("i-1", ONE), upkeep("i-2", ONE));
    first.cycle(&fake.ports()).await.unwrap();
    pass(&fake, 59).await;
    let followed = second.cycle(&fake.ports()).await.unwrap();
    assert_eq!(
        followed,
        AddonsReport {
            leader: "i-1".to_owned(),
            addons: vec![]
        }
    );
    pass(&fake, 1).await;
    assert_eq!(second.cycle(&fake.ports()).await.unwrap().leader, "i-2");
    assert_eq!(first.cycle(&fake.ports()).await.unwrap().leader, "i-2");
}

#[tokio::test(start_paused = true)]
async fn objects_that_vanish_from_an_addon_are_removed_and_foreign_ones_stay() {
    let fake = FakeWorld::new();
    fake.files.put("/one", config_maps(&["a", "b", "c"]));
    let mut upkeep = upkeep("i-1", ONE);
    upkeep.cycle(&fake.ports()).await.unwrap();
    // Someone has taken over b.
    fake.cluster.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "b", "namespace": "x", "labels": {"k8s-bootstrap.io/owner": "theirs"}},
    }));
    fake.files.put("/one", config_maps(&["c"]));
    upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(there(&fake), ["ConfigMap x/b", "ConfigMap x/c"]);
    let record = Record::read(&fake.ports(), "one").await.unwrap().unwrap();
    assert!(record.stale.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_disabled_addon_is_removed_but_data_namespaces_and_crds_stay() {
    let fake = FakeWorld::new();
    let kept = KEPT.map(|kind| manifest(kind, "kept")).concat();
    fake.files.put("/one", config_maps(&["a"]) + &kept);
    upkeep("i-1", ONE).cycle(&fake.ports()).await.unwrap();
    let left = upkeep("i-1", "").cycle(&fake.ports()).await.unwrap();
    assert!(left.addons.is_empty());
    let expected: Vec<String> = KEPT.iter().map(|kind| format!("{kind} x/kept")).collect();
    assert_eq!(there(&fake), expected);
    assert_eq!(Record::read(&fake.ports(), "one").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_founder_applied_is_never_removed() {
    let fake = FakeWorld::new();
    let world = fake.ports();
    fake.cluster.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "x", "labels": {"k8s-bootstrap.io/owner": "calico"}},
    }));
    let record = Record {
        digest: "1".to_owned(),
        ..Record::default()
    };
    record.write(&world, "calico").await.unwrap();
    upkeep("i-1", "").cycle(&world).await.unwrap();
    assert!(Record::read(&world, "calico").await.unwrap().is_some());
    upkeep("i-1", "addons.calico.enabled = false")
        .cycle(&world)
        .await
        .unwrap();
    assert_eq!(there(&fake), ["ConfigMap x/a"]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_moves_to_another_addon_is_never_deleted() {
    let fake = FakeWorld::new();
    fake.files.put("/one", config_maps(&["a", "b"]));
    fake.files.put("/two", config_maps(&["c"]));
    let mut upkeep = upkeep("i-1", &format!("{ONE}{TWO}"));
    upkeep.cycle(&fake.ports()).await.unwrap();
    fake.files.put("/one", config_maps(&["a"]));
    fake.files.put("/two", config_maps(&["c", "b"]));
    // Even though its new add-on cannot be applied yet.
    fake.cluster.refuse("c", "no");
    let upkept = upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(states(&upkept), [("one", "applied"), ("two", "failed")]);
    assert_eq!(there(&fake).len(), 3);
    fake.cluster.accept();
    pass(&fake, 30).await;
    upkeep.cycle(&fake.ports()).await.unwrap();
    let b = fake.cluster.objects()["ConfigMap x/b"].clone();
    assert_eq!(b["metadata"]["labels"]["k8s-bootstrap.io/owner"], "two");
}

#[tokio::test(start_paused = true)]
async fn a_bad_manifest_is_named_and_blocks_neither_other_manifests_nor_other_addons() {
    let fake = FakeWorld::new();
    fake.files.put("/one/1-bad.yaml", config_maps(&["bad"]));
    fake.files.put("/one/2-good.yaml", config_maps(&["good"]));
    fake.files.put("/two", config_maps(&["other"]));
    fake.cluster.refuse("bad", "spec.mode: Unsupported value");
    let mut upkeep = upkeep("i-1", &format!("{ONE}{TWO}"));
    let upkept = upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(states(&upkept), [("one", "failed"), ("two", "applied")]);
    assert_eq!(
        upkept.addons[0].message,
        "add-on one: /one/1-bad.yaml: apply bad: spec.mode: Unsupported value"
    );
    assert_eq!(there(&fake), ["ConfigMap x/good", "ConfigMap x/other"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_addon_is_retried_after_a_pause_and_a_changed_one_at_once() {
    let fake = FakeWorld::new();
    fake.files.put("/one", "[");
    let mut upkeep = upkeep("i-1", ONE);
    let mut tries = Vec::new();
    for cycle in 0..16 {
        let before = upkeep.troubles.get("one").map(|t| t.next);
        let upkept = upkeep.cycle(&fake.ports()).await.unwrap();
        assert_eq!(states(&upkept), [("one", "failed")]);
        assert!(upkeep.troubles["one"].message.contains("/one"));
        if upkeep.troubles.get("one").map(|t| t.next) > before {
            tries.push(cycle * 30);
        }
        pass(&fake, 30).await;
    }
    assert_eq!(tries, [0, 30, 90, 210, 450]);
    fake.files.put("/one", config_maps(&["a"]));
    let upkept = upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(states(&upkept), [("one", "applied")]);
}

#[test]
fn pauses_double_up_to_ten_minutes() {
    let clock = StoppedClock::showing("2026-11-23T12:00:00Z");
    let mut pauses = ADDON.pauses();
    let pauses = [(); 7].map(|()| pauses.next(&*clock).as_secs());
    assert_eq!(pauses, [30, 60, 120, 240, 480, 600, 600]);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_attempt_has_recorded_all_that_it_applied() {
    let fake = FakeWorld::new();
    fake.files.put("/one/1.yaml", config_maps(&["a"]));
    fake.files.put("/one/2.yaml", config_maps(&["b"]));
    fake.cluster.refuse("b", "no");
    upkeep("i-1", ONE).cycle(&fake.ports()).await.unwrap();
    assert_eq!(there(&fake), ["ConfigMap x/a"]);
    // Another version without a, and an agent that remembers nothing.
    fake.files.delete("/one/1.yaml");
    fake.cluster.accept();
    upkeep("i-1", ONE).cycle(&fake.ports()).await.unwrap();
    assert_eq!(there(&fake), ["ConfigMap x/b"]);
}

#[tokio::test(start_paused = true)]
async fn missing_manifests_remove_nothing() {
    let fake = FakeWorld::new();
    fake.files.put("/one", config_maps(&["a"]));
    let mut upkeep = upkeep("i-1", ONE);
    upkeep.cycle(&fake.ports()).await.unwrap();
    fake.files.delete("/one");
    let upkept = upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(upkept.addons[0].message, "add-on one: /one does not exist");
    assert_eq!(there(&fake), ["ConfigMap x/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_reported_and_blocks_nothing() {
    let fake = FakeWorld::new();
    fake.files.put("/one", config_maps(&["a"]));
    let missing = vec!["Deployment x/a 0/1".to_owned()];
    fake.cluster.rollouts([missing]);
    let mut upkeep = upkeep("i-1", ONE);
    let upkept = upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(states(&upkept), [("one", "rolling-out")]);
    assert_eq!(upkept.addons[0].message, "Deployment x/a 0/1");
    let upkept = upkeep.cycle(&fake.ports()).await.unwrap();
    assert_eq!(states(&upkept), [("one", "applied")]);
}

#[tokio::test(start_paused = true)]
async fn an_api_that_does_not_answer_is_an_error_and_changes_nothing() {
    let fake = FakeWorld::new();
    fake.cluster.down(true);
    assert!(upkeep("i-1", ONE).cycle(&fake.ports()).await.is_err());
}
