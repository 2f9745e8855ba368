#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::*;
use crate::{
    kubernetes::node::Node,
    ports::Hook,
    testing::{FakeWorld, control_plane, running},
};

const NODE: &str = "w1";

fn node(unschedulable: bool) -> Value {
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    if unschedulable {
        node["spec"]["unschedulable"] = true.into();
    }
    node
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "visits"},
        "spec": {"nodeName": NODE}, "status": {"phase": "Running"},
    })
}

fn cordon() -> Cordon {
    Cordon {
        node: NODE.to_owned(),
    }
}

fn uncordon() -> Uncordon {
    Uncordon {
        node: NODE.to_owned(),
    }
}

async fn now(fake: &FakeWorld) -> Value {
    get(&fake.ports(), NODE).await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_its_agent_cordoned_is_uncordoned_when_it_comes_back() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(false));
    fake.holds(&uncordon()).await;
    fake.carry_out(&cordon()).await;
    assert_eq!(now(&fake).await["spec"]["unschedulable"], true);
    let since = Node(&now(&fake).await)
        .annotation(LEAVING)
        .map(str::to_owned);
    assert_eq!(since.as_deref(), Some("2026-11-23T12:00:00Z"));
    fake.carry_out(&uncordon()).await;
    assert_eq!(now(&fake).await["spec"].get("unschedulable"), None);
    fake.differs(&cordon()).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_a_person_cordoned_stays_cordoned() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(true));
    fake.holds(&cordon()).await;
    fake.holds(&uncordon()).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_node_there_is_nothing_to_do() {
    let fake = FakeWorld::new();
    let node = || NODE.to_owned();
    fake.holds(&cordon()).await;
    fake.holds(&uncordon()).await;
    fake.holds(&Unready { node: node() }).await;
    fake.holds(&WaitForDns {
        node: node(),
        seconds: 9,
    })
    .await;
    fake.holds(&MarkLeft {
        node: node(),
        instance: "i-1".to_owned(),
    })
    .await;
    fake.holds(&Evict {
        node: node(),
        seconds: 9,
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_is_set_not_ready_before_its_kubelet_stops() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(false));
    fake.carry_out(&Unready {
        node: NODE.to_owned(),
    })
    .await;
    let condition = now(&fake).await["status"]["conditions"][0].clone();
    assert_eq!(condition["reason"], "Leaving");
    assert_eq!(condition["lastTransitionTime"], "2026-11-23T12:00:00Z");
}

#[test]
fn daemonset_pods_static_pods_and_finished_pods_are_not_evicted() {
    let with = |path: &str, value: Value| {
        let mut pod = pod("a");
        let (parent, key) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value;
        pod
    };
    let owned = |kind: &str, controller: bool| {
        let owner = json!([{"kind": kind, "controller": controller}]);
        with("/metadata/ownerReferences", owner)
    };
    let mirror = json!({"kubernetes.io/config.mirror": "x"});
    for (case, pod, goes) in [
        ("of a Deployment", owned("ReplicaSet", true), true),
        ("of a StatefulSet", owned("StatefulSet", true), true),
        ("without an owner", pod("a"), true),
        ("pending", with("/status/phase", json!("Pending")), true),
        ("of a DaemonSet", owned("DaemonSet", true), false),
        (
            "mirror of a static pod",
            with("/metadata/annotations", mirror),
            false,
        ),
        (
            "succeeded",
            with("/status/phase", json!("Succeeded")),
            false,
        ),
        ("failed", with("/status/phase", json!("Failed")), false),
    ] {
        assert_eq!(evict::is_to_go(&pod), goes, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_other_pods_are_evicted_and_a_disruption_budget_is_respected_until_the_deadline() {
    let fake = FakeWorld::new();
    let evict = Evict {
        node: NODE.to_owned(),
        seconds: 30,
    };
    for name in ["a", "b"] {
        fake.cluster.put(pod(name));
    }
    fake.cluster.budget(Some("needs 1 healthy pod"));
    let error = fake.apply(&evict).await.unwrap_err();
    assert!(fake.clock.since_noon() >= Duration::from_secs(30));
    assert!(
        error.one_line().contains("visits/b: needs 1 healthy pod"),
        "{error}"
    );
    assert_eq!(fake.cluster.objects().len(), 2);
    fake.cluster.budget(None);
    fake.carry_out(&evict).await;
}

#[tokio::test(start_paused = true)]
async fn a_terminating_pod_is_waited_for_and_not_evicted_again() {
    let fake = FakeWorld::new();
    let mut ending = pod("a");
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z".into();
    fake.cluster.put(ending);
    let evict = Evict {
        node: NODE.to_owned(),
        seconds: 5,
    };
    let error = fake.apply(&evict).await.unwrap_err();
    assert!(
        error.one_line().contains("visits/a is terminating"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_are_served_for_the_configured_time_after_the_cordon() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(false));
    fake.carry_out(&cordon()).await;
    sleep(Duration::from_secs(10)).await;
    let wait = WaitForDns {
        node: NODE.to_owned(),
        seconds: 35,
    };
    assert_eq!(
        fake.differs(&wait).await,
        "DNS answers may name w1 for 25 s more"
    );
    fake.apply(&wait).await.unwrap();
    assert_eq!(fake.clock.since_noon(), Duration::from_secs(35));
    fake.holds(&wait).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_is_marked_as_left_by_its_instance() {
    let fake = FakeWorld::new();
    fake.cluster.put(node(false));
    let left = MarkLeft {
        node: NODE.to_owned(),
        instance: "i-1".to_owned(),
    };
    fake.carry_out(&left).await;
    assert_eq!(Node(&now(&fake).await).annotation(LEFT), Some("i-1"));
}

#[tokio::test(start_paused = true)]
async fn every_waiting_hook_is_completed() {
    let fake = FakeWorld::new();
    let hook = |name: &str| Hook {
        group: "workers".to_owned(),
        name: name.to_owned(),
        timeout: 300,
    };
    fake.scaling.wait([hook("a"), hook("b")]);
    let complete = CompleteHooks {
        instance: "i-1".to_owned(),
    };
    fake.carry_out(&complete).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_transfers_leadership_before_it_leaves_etcd_and_the_only_voter_stays() {
    let fake = FakeWorld::new();
    let own = fake.etcd.voter("cp1", 10);
    fake.etcd.local(10);
    let leave = LeaveEtcd::new("prod", "i-0", "cp1");
    let error = fake.apply(&leave).await.unwrap_err();
    assert!(error.one_line().contains("it is the only voter"), "{error}");
    for (name, last) in [("cp2", 11), ("cp3", 12)] {
        fake.etcd.voter(name, last);
    }
    let world = fake.ports();
    assert_eq!(world.etcd.leader().await.unwrap(), Some(own.id));
    // A removed member stops at once, so only the others can confirm the removal.
    fake.ec2.list(
        [(0, 10), (1, 11)].map(|(id, last)| running(&control_plane(&format!("i-{id}")), last)),
    );
    fake.carry_out(&leave).await;
    assert!(world.etcd.leader().await.unwrap().is_some());
    assert!(world.etcd.members().await.is_err());
    let others = world.etcd.members_by([10, 42, 0, 11].into()).await;
    assert_eq!(others.unwrap().len(), 2);
}
