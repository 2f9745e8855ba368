#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::{
    leader::lead,
    ports::{Alarm, Clock, Role, World},
    testing::{FakeWorld, control_plane, running},
};

const NOON: &str = "2026-11-24T12:00:00Z";

fn noon() -> Timestamp {
    NOON.parse().unwrap()
}

/// `i-1` is at 10.0.0.1, runs the member and the Node `n1`, and so on.
fn member(number: u8, healthy: bool) -> Seen {
    Seen {
        member: Member {
            id: number.into(),
            name: format!("n{number}"),
            address: [10, 0, 0, number].into(),
            learner: false,
        },
        healthy,
    }
}

/// A member that was added and has not started.
fn learner(number: u8) -> Seen {
    let mut seen = member(number, false);
    seen.member.name.clear();
    seen.member.learner = true;
    seen
}

fn node(number: u8, ready: bool) -> Node {
    Node::of(&json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("n{number}"), "uid": format!("u{number}")},
        "spec": {"providerID": format!("aws:///eu-central-1a/i-{number}")},
        "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "Unknown" }}]},
    }))
}

fn instance(number: u8, state: InstanceState) -> Instance {
    // EC2 forgets the address of a terminated instance.
    let there = state != InstanceState::Terminated;
    Instance {
        state,
        private_ip: there.then(|| [10, 0, 0, number].into()),
        launched: noon(),
        ..running(&control_plane(&format!("i-{number}")), number)
    }
}

/// Three control planes; the third is the one that varies.
fn three(third: Seen, node3: Node, state: InstanceState) -> Survey {
    Survey {
        members: vec![member(1, true), member(2, true), third],
        nodes: vec![node(1, true), node(2, true), node3],
        instances: vec![
            instance(1, InstanceState::Running),
            instance(2, InstanceState::Running),
            instance(3, state),
        ],
    }
}

fn healed(survey: &Survey) -> (Vec<String>, Vec<String>) {
    healed_after(survey, &Absences::default(), Duration::ZERO)
}

fn healed_after(survey: &Survey, absences: &Absences, now: Duration) -> (Vec<String>, Vec<String>) {
    let findings = heal("i-1", survey, absences, now);
    let acts = findings.acts.into_iter().map(|act| match act {
        Act::RemoveMember { id, .. } => format!("member {id}"),
        Act::DeleteNode { name, .. } => format!("node {name}"),
    });
    (acts.collect(), findings.troubles)
}

/// EC2 has not listed this one since the start.
fn missing(id: &str) -> Absences {
    Absences {
        missing: [(id.to_owned(), Duration::ZERO)].into(),
        ..Absences::default()
    }
}

#[test]
fn a_terminated_control_plane_loses_its_member_first_and_then_its_node() {
    let mut survey = three(member(3, false), node(3, false), InstanceState::Terminated);
    assert_eq!(healed(&survey).0, ["member 3"]);
    survey.members.pop();
    assert_eq!(healed(&survey).0, ["node n3"]);
}

#[test]
fn an_instance_that_may_come_back_keeps_its_member_and_node() {
    use InstanceState::{Pending, Running, ShuttingDown, Stopped, Stopping};
    for state in [Pending, Running, ShuttingDown, Stopped, Stopping] {
        let survey = three(member(3, false), node(3, false), state);
        assert_eq!(healed(&survey), (vec![], vec![]), "{state:?}");
    }
}

#[test]
fn a_majority_of_healthy_voters_must_remain() {
    // Two of three are dead: nothing can be removed, and a person is notified.
    let mut survey = three(member(3, false), node(3, false), InstanceState::Terminated);
    survey.members[1].healthy = false;
    survey.instances[1].state = InstanceState::Terminated;
    let (acts, troubles) = healed(&survey);
    assert!(acts.is_empty(), "{acts:?}");
    assert_eq!(troubles.len(), 2);
    assert!(
        troubles[0].contains("only 1 of 3 voters answer"),
        "{troubles:?}"
    );
    // One dead, one away for a while: without the dead one, only one of two would be healthy.
    survey.instances[1].state = InstanceState::Running;
    let (acts, troubles) = healed(&survey);
    assert!(acts.is_empty(), "{acts:?}");
    assert_eq!(troubles.len(), 1);
    // Five, one dead and one away: three of the remaining four are a majority.
    for number in 4..=5 {
        survey.members.push(member(number, true));
        survey
            .instances
            .push(instance(number, InstanceState::Running));
    }
    assert_eq!(healed(&survey).0, ["member 3"]);
}

#[test]
fn half_of_the_remaining_voters_are_no_majority() {
    // EC2 reports the third as terminated, but it still answers; one of the two others does not.
    let mut survey = three(member(3, true), node(3, true), InstanceState::Terminated);
    survey.members[1].healthy = false;
    let (acts, troubles) = healed(&survey);
    assert_eq!(acts, [""; 0]);
    assert!(troubles[0].contains("cannot be removed"), "{troubles:?}");
    survey.members[1].healthy = true;
    assert_eq!(healed(&survey).0, ["member 3"]);
}

#[test]
fn of_two_voters_the_dead_one_cannot_be_removed() {
    let survey = Survey {
        members: vec![member(1, true), member(2, false)],
        nodes: vec![node(1, true), node(2, false)],
        instances: vec![
            instance(1, InstanceState::Running),
            instance(2, InstanceState::Terminated),
        ],
    };
    let (acts, troubles) = healed(&survey);
    assert!(acts.is_empty(), "{acts:?}");
    assert!(
        troubles[0].contains("only 1 of 2 voters answer"),
        "{troubles:?}"
    );
}

#[test]
fn members_are_removed_one_at_a_time() {
    let mut survey = three(member(3, false), node(3, false), InstanceState::Terminated);
    for number in 4..=5 {
        survey.members.push(member(number, number == 4));
        survey.nodes.push(node(number, number == 4));
        let state = if number == 4 {
            InstanceState::Running
        } else {
            InstanceState::Terminated
        };
        survey.instances.push(instance(number, state));
    }
    assert_eq!(healed(&survey).0, ["member 3"]);
}

#[test]
fn a_dead_workers_node_is_deleted_and_foreign_nodes_stay() {
    let mut survey = three(member(3, true), node(3, true), InstanceState::Running);
    survey.nodes.push(node(7, true));
    survey
        .instances
        .push(instance(7, InstanceState::Terminated));
    let mut foreign = node(8, false);
    foreign.instance = None;
    survey.nodes.push(foreign);
    assert_eq!(healed(&survey).0, ["node n7"]);
}

#[test]
fn an_instance_that_ec2_does_not_list_is_dead_only_after_a_while_and_if_silent() {
    let mut survey = three(member(3, false), node(3, false), InstanceState::Running);
    survey.instances.pop();
    let missing = missing("i-3");
    assert_eq!(healed_after(&survey, &missing, FORGOTTEN / 2).0, [""; 0]);
    assert_eq!(healed_after(&survey, &missing, FORGOTTEN).0, ["member 3"]);
    // Perhaps its tag was removed: what works is left alone.
    survey.members[2].healthy = true;
    survey.nodes[2].ready = true;
    assert_eq!(healed_after(&survey, &missing, FORGOTTEN).0, [""; 0]);
}

#[test]
fn the_node_of_a_worker_that_ec2_does_not_list_is_deleted_after_a_while_and_if_silent() {
    let mut survey = three(member(3, true), node(3, true), InstanceState::Running);
    survey.nodes.push(node(7, false));
    let missing = missing("i-7");
    assert_eq!(healed_after(&survey, &missing, FORGOTTEN / 2).0, [""; 0]);
    assert_eq!(healed_after(&survey, &missing, FORGOTTEN).0, ["node n7"]);
    survey.nodes[3].ready = true;
    assert_eq!(healed_after(&survey, &missing, FORGOTTEN).0, [""; 0]);
}

#[test]
fn the_reason_says_for_how_many_minutes_an_instance_was_away() {
    let mut survey = three(member(3, false), node(3, false), InstanceState::Stopped);
    let stopped = Absences {
        stopped: [("i-3".to_owned(), Duration::ZERO)].into(),
        ..Absences::default()
    };
    let away = survey.fate("i-3", &stopped, STOPPED_LEARNER, true);
    let why = "i-3 has been stopped for 10 minutes and has no vote".to_owned();
    assert_eq!(away, Fate::Away(why));
    survey.instances.pop();
    let away = survey.fate("i-3", &missing("i-3"), FORGOTTEN, false);
    let why = "EC2 has not listed i-3 for 15 minutes".to_owned();
    assert_eq!(away, Fate::Away(why));
}

#[test]
fn a_learner_whose_instance_died_before_it_started_is_removed_soon() {
    let mut survey = three(learner(3), node(3, false), InstanceState::Terminated);
    // Its Node was created first and identifies the instance, though the member has no name.
    survey.nodes.pop();
    let address = "10.0.0.3".to_owned();
    assert!(survey.missing_now().eq([address.clone()]));
    let missing = missing(&address);
    assert_eq!(healed_after(&survey, &missing, Duration::ZERO).0, [""; 0]);
    let soon = FORGOTTEN_LEARNER;
    assert_eq!(healed_after(&survey, &missing, soon).0, ["member 3"]);
    // A learner that is joining right now has an instance at its address.
    survey.instances[2] = instance(3, InstanceState::Running);
    assert!(survey.missing_now().next().is_none());
    assert!(healed(&survey).0.is_empty());
}

#[test]
fn a_successor_with_the_same_address_does_not_keep_a_dead_member() {
    let mut survey = three(member(3, false), node(3, false), InstanceState::Terminated);
    let mut successor = instance(4, InstanceState::Running);
    successor.private_ip = Some([10, 0, 0, 3].into());
    survey.instances.push(successor);
    assert_eq!(healed(&survey).0, ["member 3"]);
}

#[test]
fn a_dead_member_without_a_node_is_not_linked_to_the_new_owner_of_its_address() {
    // The Node was deleted by a person, or by the agent that left.
    let mut survey = three(member(3, false), node(3, false), InstanceState::Terminated);
    survey.nodes.pop();
    let mut successor = instance(4, InstanceState::Running);
    successor.private_ip = Some([10, 0, 0, 3].into());
    survey.instances.push(successor);
    let mut absences = Absences::default();
    absences.note(&survey, Duration::ZERO);
    assert_eq!(healed_after(&survey, &absences, FORGOTTEN / 2).0, [""; 0]);
    absences.note(&survey, FORGOTTEN);
    assert_eq!(healed_after(&survey, &absences, FORGOTTEN).0, ["member 3"]);
    // A member that answers belongs to the instance there; a stopped one comes back.
    survey.members[2].healthy = true;
    assert_eq!(healed_after(&survey, &absences, FORGOTTEN).0, [""; 0]);
    survey.members[2].healthy = false;
    survey.instances[3].state = InstanceState::Stopped;
    assert_eq!(healed_after(&survey, &absences, FORGOTTEN).0, [""; 0]);
    // A worker has no member, even if it has the address and the name.
    survey.instances[3] = Instance {
        role: Some(Role::Worker),
        ..instance(4, InstanceState::Running)
    };
    survey.instances[3].private_ip = Some([10, 0, 0, 3].into());
    let mut worker = node(4, true);
    worker.name = "n3".to_owned();
    survey.nodes.push(worker);
    assert_eq!(healed_after(&survey, &absences, FORGOTTEN).0, ["member 3"]);
}

#[test]
fn a_stopped_learner_is_removed_after_ten_minutes_and_a_voter_never() {
    let ten = Duration::from_mins(10);
    let started = || Seen {
        member: Member {
            name: "n3".to_owned(),
            ..learner(3).member
        },
        healthy: false,
    };
    for state in [InstanceState::Stopped, InstanceState::Stopping] {
        for (case, third, gone) in [
            ("never started", learner(3), vec!["member 3"]),
            ("started", started(), vec!["member 3"]),
            ("with a vote", member(3, false), vec![]),
        ] {
            let survey = three(third, node(3, false), state);
            let mut absences = Absences::default();
            absences.note(&survey, Duration::ZERO);
            absences.note(&survey, ten);
            let just_before = ten.saturating_sub(Duration::from_secs(1));
            assert_eq!(
                healed_after(&survey, &absences, just_before).0,
                [""; 0],
                "{case}"
            );
            assert_eq!(healed_after(&survey, &absences, ten).0, gone, "{case}");
        }
    }
    // If it comes back in between, the time starts again.
    let mut survey = three(learner(3), node(3, false), InstanceState::Stopped);
    let mut absences = Absences::default();
    absences.note(&survey, Duration::ZERO);
    survey.instances[2].state = InstanceState::Running;
    absences.note(&survey, ten / 2);
    survey.instances[2].state = InstanceState::Stopped;
    absences.note(&survey, ten);
    assert_eq!(healed_after(&survey, &absences, ten).0, [""; 0]);
}

#[test]
fn no_control_plane_removes_itself() {
    let mut survey = three(member(3, true), node(3, true), InstanceState::Running);
    survey.instances[0].state = InstanceState::Terminated;
    assert_eq!(healed(&survey), (vec![], vec![]));
}

#[test]
fn a_lost_majority_is_reported_with_the_names_of_silent_members() {
    let members = [
        member(1, true),
        member(2, false),
        member(3, false),
        learner(4),
    ];
    let message = lost_quorum(&members).unwrap();
    assert!(
        message.contains("2 of 3 members do not answer (n2, n3)"),
        "{message}"
    );
    assert_eq!(lost_quorum(&members[..2]).map(|_| ()), Some(()));
    assert_eq!(
        lost_quorum(&[member(1, true), member(2, true), member(3, false)]),
        None
    );
    assert_eq!(lost_quorum(&[]), None);
}

/// The same in a world of fakes: decisions are carried out.
struct Stage(FakeWorld);

impl Stage {
    fn new() -> Self {
        let fake = FakeWorld::new();
        for number in 1..=3 {
            fake.etcd.voter(&format!("n{number}"), number);
            fake.cluster.put(node(number, number < 3).object);
        }
        let stage = Self(fake);
        stage.third_is(InstanceState::Running);
        stage
    }

    fn third_is(&self, state: InstanceState) {
        let running = InstanceState::Running;
        let states = [(1, running), (2, running), (3, state)];
        self.0
            .ec2
            .list(states.map(|(number, state)| instance(number, state)));
    }

    async fn cycle(&self, healing: &mut Healing) -> Vec<String> {
        healing
            .cycle(&self.0.ports(), &control_plane("i-1"))
            .await
            .unwrap()
    }

    async fn left(&self) -> (usize, usize) {
        let World { etcd, cluster, .. } = self.0.ports();
        let nodes = cluster.list("v1", "Node", None).await.unwrap();
        (etcd.members().await.unwrap().len(), nodes.len())
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_control_plane_is_removed_after_two_cycles() {
    let stage = Stage::new();
    let mut healing = Healing::default();
    stage.0.etcd.stop(3);
    assert!(stage.cycle(&mut healing).await.is_empty());
    assert_eq!(stage.left().await, (3, 3));
    stage.third_is(InstanceState::Terminated);
    stage.cycle(&mut healing).await;
    assert_eq!(stage.left().await, (2, 3));
    stage.cycle(&mut healing).await;
    assert_eq!(stage.left().await, (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_terminated_control_plane_without_tags_is_removed_as_soon() {
    let stage = Stage::new();
    let mut healing = Healing::default();
    stage.0.etcd.stop(3);
    let running = InstanceState::Running;
    stage
        .0
        .ec2
        .list([instance(1, running), instance(2, running)]);
    stage.0.ec2.untagged([instance(3, running)]);
    stage.cycle(&mut healing).await;
    assert_eq!(stage.left().await, (3, 3), "only its tags may be missing");
    stage
        .0
        .ec2
        .untagged([instance(3, InstanceState::Terminated)]);
    stage.cycle(&mut healing).await;
    stage.cycle(&mut healing).await;
    assert_eq!(stage.left().await, (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_follower_removes_nobody() {
    let stage = Stage::new();
    lead(&stage.0.ports(), "i-2").await.unwrap();
    stage.0.etcd.stop(3);
    stage.third_is(InstanceState::Terminated);
    stage.cycle(&mut Healing::default()).await;
    assert_eq!(stage.left().await, (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_lost_majority_is_reported_even_if_the_api_is_down() {
    let stage = Stage::new();
    stage.0.etcd.stop(2);
    stage.0.etcd.stop(3);
    stage.0.cluster.down(true);
    let troubles = stage.cycle(&mut Healing::default()).await;
    assert!(troubles[0].contains("lost its majority"), "{troubles:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_is_removed_without_the_api_only_if_an_alarm_keeps_it_from_serving() {
    for (alarmed, left) in [(false, 3), (true, 2)] {
        let stage = Stage::new();
        let mut healing = Healing::default();
        stage.0.etcd.stop(3);
        stage.third_is(InstanceState::Terminated);
        stage.0.cluster.refuse("Node", "etcd has no space");
        if alarmed {
            stage.0.etcd.alarm(1, Alarm::NoSpace);
        }
        let next_to_the_leader = Identity {
            private_ip: [10, 42, 0, 1].into(),
            ..control_plane("i-1")
        };
        for _ in 0..2 {
            let outcome = healing.cycle(&stage.0.ports(), &next_to_the_leader).await;
            assert_eq!(outcome.is_ok(), alarmed, "{outcome:?}");
            stage.0.clock.sleep(FORGOTTEN).await;
        }
        assert_eq!(stage.0.etcd.count(), left);
    }
}

#[tokio::test(start_paused = true)]
async fn an_absence_is_measured_by_the_monotonic_clock() {
    let stage = Stage::new();
    let mut healing = Healing::default();
    stage.0.etcd.stop(3);
    let states = [1, 2].map(|number| instance(number, InstanceState::Running));
    stage.0.ec2.list(states);
    stage.cycle(&mut healing).await;
    stage.0.clock.step(jiff::SignedDuration::from_hours(1));
    stage.cycle(&mut healing).await;
    assert_eq!(stage.left().await, (3, 3));
    stage.0.clock.step(jiff::SignedDuration::from_hours(-2));
    stage.0.clock.sleep(FORGOTTEN).await;
    stage.cycle(&mut healing).await;
    assert_eq!(stage.left().await, (2, 3));
}
