#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::{
    agent::End,
    observe::{Membership, Origin},
    ports::{Instance, InstanceState},
    steps::decommission::{LEAVING, LEFT},
    testing::{FakeWorld, agent, output, running, settings, worker},
};

#[test]
fn each_interruption_is_a_notice_with_its_deadline() {
    let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let spot = |action: &str| Notices {
        interruption: Some(Interruption {
            action: action.to_owned(),
            time: "2026-11-23T12:02:00Z".parse().unwrap(),
        }),
        ..Notices::default()
    };
    let group = Notices {
        terminated_by_group: true,
        ..Notices::default()
    };
    let warned = Notices {
        rebalance: true,
        ..Notices::default()
    };
    let hook = |timeout| Hook {
        group: "workers".to_owned(),
        name: "drain".to_owned(),
        timeout,
    };
    let of = |why, seconds| Some(Notice { why, seconds });
    for (case, notices, hooks, expected) in [
        ("nothing", Notices::default(), vec![], None),
        ("a warning only", warned, vec![], None),
        ("interrupted", spot("terminate"), vec![], of(Why::Spot, 105)),
        (
            "hibernated",
            spot("hibernate"),
            vec![],
            of(Why::SpotStop, 105),
        ),
        (
            "a group that waits",
            group.clone(),
            vec![hook(300), hook(120)],
            of(Why::Group, 105),
        ),
        (
            "a group that does not wait",
            group,
            vec![],
            of(Why::Group, 90),
        ),
    ] {
        assert_eq!(
            heard(&notices, &hooks, now, &settings()),
            expected,
            "{case}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_shutdown_leaves_the_cluster_and_ec2_shows_if_it_is_a_termination() {
    let me = worker("i-1");
    let in_state = |state| Instance {
        state,
        ..running(&me, 10)
    };
    for (systemd, state, expected) in [
        ("running", InstanceState::ShuttingDown, None),
        ("degraded", InstanceState::Running, None),
        (
            "stopping",
            InstanceState::ShuttingDown,
            Some(Why::Termination),
        ),
        (
            "stopping",
            InstanceState::Terminated,
            Some(Why::Termination),
        ),
        ("stopping", InstanceState::Stopping, Some(Why::Pause)),
        ("stopping", InstanceState::Running, Some(Why::Pause)),
    ] {
        let fake = FakeWorld::new();
        fake.on("systemctl is-system-running", move |_, _| {
            output(1, &format!("{systemd}\n"), "")
        });
        fake.ec2.list([in_state(state)]);
        let why = at_shutdown(&fake.ports(), &me).await;
        assert_eq!(why, expected, "{systemd} {state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_from_ec2_the_machine_may_come_back() {
    let fake = FakeWorld::new();
    fake.on("systemctl is-system-running", |_, _| {
        output(1, "stopping\n", "")
    });
    fake.ec2
        .fail_with(|| crate::error::Error::failed("throttled"));
    let why = at_shutdown(&fake.ports(), &worker("i-1")).await;
    assert_eq!(why, Some(Why::Pause));
}

/// A Ready node with one pod of an application.
fn populated(fake: &FakeWorld, me: &Identity) {
    fake.cluster.put(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": me.node_name}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }));
    fake.cluster.put(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "x"},
        "spec": {"nodeName": me.node_name},
    }));
}

async fn member(fake: &FakeWorld, me: Identity) -> Agent {
    populated(fake, &me);
    let agent = agent(fake, me).await;
    let membership = Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Joined,
    };
    agent.runner.commit_to(membership).await.unwrap();
    agent
}

fn node(fake: &FakeWorld, agent: &Agent) -> Value {
    fake.cluster.objects()[&format!("Node {}", agent.me.node_name)].clone()
}

#[tokio::test(start_paused = true)]
async fn a_terminated_worker_drains_itself_and_marks_its_node_as_left() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    fake.on("systemctl is-system-running", |_, _| {
        output(1, "stopping\n", "")
    });
    fake.ec2.list([Instance {
        state: InstanceState::ShuttingDown,
        ..running(&agent.me, 10)
    }]);
    agent.leave_at_shutdown().await;
    let objects = fake.cluster.objects();
    assert!(!objects.contains_key("Pod x/a"));
    let node = node(&fake, &agent);
    assert_eq!(node["spec"]["unschedulable"], true);
    assert_eq!(node["metadata"]["annotations"][LEFT], "i-1");
    assert_eq!(agent.reporter.subscribe().borrow().stage, Stage::Leaving);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_marks_the_node_not_ready_and_evicts_no_pod() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    fake.on("systemctl is-system-running", |_, _| {
        output(1, "stopping\n", "")
    });
    fake.ec2.list([running(&agent.me, 10)]);
    agent.leave_at_shutdown().await;
    assert!(fake.cluster.objects().contains_key("Pod x/a"));
    let node = node(&fake, &agent);
    assert!(node["metadata"]["annotations"].get(LEAVING).is_some());
    assert!(node["metadata"]["annotations"].get(LEFT).is_none());
    assert_eq!(node["status"]["conditions"][0]["status"], "False");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_does_not_leave() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    fake.on("systemctl is-system-running", |_, _| {
        output(0, "running\n", "")
    });
    agent.leave_at_shutdown().await;
    assert_eq!(node(&fake, &agent)["spec"], json!({}));
}

#[tokio::test(start_paused = true)]
async fn a_blocking_disruption_budget_delays_nothing_else() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    fake.cluster.budget(Some("no"));
    let notice = Notice {
        why: Why::Spot,
        seconds: 60,
    };
    agent.leave(&notice).await;
    assert_eq!(node(&fake, &agent)["metadata"]["annotations"][LEFT], "i-1");
    let took = fake.clock.since_noon().as_secs();
    assert!((60..=80).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_does_not_answer_does_not_delay_the_shutdown() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    fake.cluster.down(true);
    let notice = Notice {
        why: Why::Termination,
        seconds: 60,
    };
    agent.leave(&notice).await;
    let took = fake.clock.since_noon().as_secs();
    assert!(took <= 100, "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_notice_ends_the_steady_state() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    let keep = agent.stay();
    let hear = async {
        tokio::time::sleep(NOTICES).await;
        fake.metadata.notice(Notices {
            terminated_by_group: true,
            ..Notices::default()
        });
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        end = keep => end,
        () = hear => unreachable!("the task never ends"),
    };
    assert!(
        matches!(&end, End::Notice(notice) if notice.why == Why::Group),
        "{end:?}"
    );
}
