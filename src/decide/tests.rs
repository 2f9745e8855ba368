//! Decisions as tables: what is seen, what follows.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::{
    observe::Record,
    ports::Instance,
    testing::{control_plane, worker},
};

const ME: &str = "i-0000000000000000a";
const OTHER: &str = "i-0000000000000000b";
const NOW: &str = "2026-11-23T12:00:00Z";

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn instance(id: &str, role: Role, state: InstanceState) -> Instance {
    Instance {
        id: id.to_owned(),
        state,
        role: Some(role),
        private_ip: None,
        public_ip: None,
        private_dns_name: None,
        launched: at("2026-11-23T11:00:00Z"),
        zone: "eu-central-1a".to_owned(),
        instance_type: "c7i-flex.large".to_owned(),
        tags: BTreeMap::new(),
    }
}

fn claim(number: u32, instance: &str) -> Claim {
    Claim {
        number,
        instance: instance.to_owned(),
        cluster_uid: format!("uid-{number}"),
        time: at("2026-11-23T11:59:00Z"),
    }
}

/// A world of this instance as a control plane and another one, both running.
fn world() -> Observation {
    Observation {
        now: at(NOW),
        instances: vec![
            instance(ME, Role::ControlPlane, InstanceState::Running),
            instance(OTHER, Role::ControlPlane, InstanceState::Running),
        ],
        record: Record::default(),
        membership: None,
    }
}

impl Observation {
    fn claimed_by(mut self, instance: &str) -> Self {
        let number = u32::try_from(self.record.claims.len()).unwrap() + 1;
        self.record.claims.push(claim(number, instance));
        self
    }

    fn initialized_by(mut self, founder: &str, uid: &str) -> Self {
        self.record.initialized = Some(Initialized {
            cluster_uid: uid.to_owned(),
            ca_hash: "sha256:aa".to_owned(),
            founder: founder.to_owned(),
            time: at(NOW),
        });
        self
    }

    fn remembering(mut self, course: Course, uid: &str) -> Self {
        self.membership = Some(Membership {
            cluster_uid: uid.to_owned(),
            course,
        });
        self
    }

    fn later(mut self, by: Duration) -> Self {
        self.now += by;
        self
    }

    fn where_other_is(mut self, state: InstanceState) -> Self {
        self.instances[1].state = state;
        self
    }

    fn without_other(mut self) -> Self {
        self.instances.truncate(1);
        self
    }
}

/// A decision in one word and what matters of it.
fn verdict(decision: &Decision) -> String {
    match decision {
        Decision::Claim { number, .. } => format!("claim {number}"),
        Decision::Found { cluster_uid } => format!("found {cluster_uid}"),
        Decision::Join { cluster_uid, .. } => format!("join {cluster_uid}"),
        Decision::Wait { .. } => "wait".to_owned(),
        Decision::Refuse { .. } => "refuse".to_owned(),
    }
}

#[test]
fn a_control_plane_decides() {
    use InstanceState::{Pending, ShuttingDown, Stopped, Terminated};
    let me = control_plane(ME);
    for (case, seen, expected) in [
        ("nobody claimed", world(), "claim 1"),
        ("I hold the claim", world().claimed_by(ME), "found uid-1"),
        (
            "I hold it and was interrupted",
            world().claimed_by(ME).remembering(Course::Found, "uid-1"),
            "found uid-1",
        ),
        ("another holds it", world().claimed_by(OTHER), "wait"),
        (
            "its holder is only pending",
            world().claimed_by(OTHER).where_other_is(Pending),
            "wait",
        ),
        (
            "its holder is stopped: it may come back",
            world().claimed_by(OTHER).where_other_is(Stopped),
            "wait",
        ),
        (
            "its holder is dying: it may still write",
            world().claimed_by(OTHER).where_other_is(ShuttingDown),
            "wait",
        ),
        (
            "its holder is terminated",
            world().claimed_by(OTHER).where_other_is(Terminated),
            "claim 2",
        ),
        (
            "its holder is not listed yet",
            world().claimed_by(OTHER).without_other(),
            "wait",
        ),
        (
            "I took over just now: the one before may have founded with its last breath",
            world()
                .claimed_by(OTHER)
                .where_other_is(Terminated)
                .claimed_by(ME),
            "wait",
        ),
        (
            "I took over a while ago",
            world()
                .claimed_by(OTHER)
                .where_other_is(Terminated)
                .claimed_by(ME)
                .later(LAST_WORD),
            "found uid-2",
        ),
        (
            "I took over and the one before had founded",
            world()
                .claimed_by(OTHER)
                .where_other_is(Terminated)
                .claimed_by(ME)
                .initialized_by(OTHER, "uid-1")
                .later(LAST_WORD),
            "refuse",
        ),
        (
            "I took over, began to found and was interrupted",
            world()
                .claimed_by(OTHER)
                .where_other_is(Terminated)
                .claimed_by(ME)
                .remembering(Course::Found, "uid-2"),
            "found uid-2",
        ),
        (
            "I was taken over from",
            world()
                .claimed_by(ME)
                .claimed_by(OTHER)
                .remembering(Course::Found, "uid-1"),
            "refuse",
        ),
        (
            "my disk and my claim differ",
            world().claimed_by(ME).remembering(Course::Found, "uid-9"),
            "refuse",
        ),
        (
            "I began to found but no claim is left",
            world().remembering(Course::Found, "uid-1"),
            "refuse",
        ),
        (
            "a cluster exists",
            world().claimed_by(OTHER).initialized_by(OTHER, "uid-1"),
            "join uid-1",
        ),
        (
            "a cluster exists, but none of its control planes",
            world()
                .claimed_by(OTHER)
                .where_other_is(Terminated)
                .initialized_by(OTHER, "uid-1"),
            "refuse",
        ),
        (
            "I founded it",
            world()
                .claimed_by(ME)
                .initialized_by(ME, "uid-1")
                .remembering(Course::Found, "uid-1"),
            "found uid-1",
        ),
        (
            "I joined it",
            world()
                .claimed_by(OTHER)
                .initialized_by(OTHER, "uid-1")
                .remembering(Course::Join, "uid-1"),
            "join uid-1",
        ),
        (
            "I belong to another cluster",
            world()
                .initialized_by(OTHER, "uid-1")
                .remembering(Course::Join, "uid-9"),
            "refuse",
        ),
        (
            "I joined but the record is lost: never found",
            world().remembering(Course::Join, "uid-1"),
            "refuse",
        ),
        (
            "I founded, lost my disk, others live",
            world().claimed_by(ME).initialized_by(ME, "uid-1"),
            "join uid-1",
        ),
        (
            "I founded, lost my disk, am alone",
            world()
                .claimed_by(ME)
                .initialized_by(ME, "uid-1")
                .without_other(),
            "refuse",
        ),
    ] {
        assert_eq!(verdict(&decide(&me, &seen)), expected, "{case}");
    }
}

#[test]
fn a_control_plane_that_is_none_by_its_tags_would_not_be_found_by_anyone() {
    let mut seen = world();
    seen.instances[0].role = None;
    assert_eq!(verdict(&decide(&control_plane(ME), &seen)), "refuse");
    assert_eq!(verdict(&decide(&worker(ME), &seen)), "wait");
}

#[test]
fn a_worker_never_claims() {
    let me = worker(ME);
    for (case, seen, expected) in [
        ("nobody claimed", world(), "wait"),
        ("somebody claimed", world().claimed_by(OTHER), "wait"),
        (
            "a cluster exists",
            world().initialized_by(OTHER, "uid-1"),
            "join uid-1",
        ),
        (
            "I joined it",
            world()
                .initialized_by(OTHER, "uid-1")
                .remembering(Course::Join, "uid-1"),
            "join uid-1",
        ),
    ] {
        assert_eq!(verdict(&decide(&me, &seen)), expected, "{case}");
    }
}

#[test]
fn nothing_is_decided_before_ec2_lists_this_instance() {
    let mut seen = world();
    seen.instances.remove(0);
    assert_eq!(verdict(&decide(&control_plane(ME), &seen)), "wait");
}

#[test]
fn a_claim_whose_holder_ec2_has_forgotten_long_ago_is_free() {
    let mut seen = world().claimed_by(OTHER).without_other();
    seen.record.claims[0].time = at("2026-11-23T11:00:00Z");
    assert_eq!(verdict(&decide(&control_plane(ME), &seen)), "claim 2");
}

#[test]
fn waiting_for_a_stopped_founder_says_what_a_person_can_do() {
    let seen = world()
        .claimed_by(OTHER)
        .where_other_is(InstanceState::Stopped);
    let Decision::Wait { why } = decide(&control_plane(ME), &seen) else {
        panic!("not waiting");
    };
    assert_eq!(
        why,
        format!("{OTHER} claimed to found the cluster and is stopped: start or terminate it")
    );
}
