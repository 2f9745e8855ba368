//! Decisions as tables: what is seen, what follows.
#![allow(clippy::unwrap_used, clippy::panic)]

mod evidence;

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::{
    observe::{Record, Settled},
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

/// A world with two running control planes, this instance and OTHER.
fn world() -> Observation {
    Observation {
        now: at(NOW),
        elapsed: Duration::ZERO,
        instances: vec![
            instance(ME, Role::ControlPlane, InstanceState::Running),
            instance(OTHER, Role::ControlPlane, InstanceState::Running),
        ],
        record: Record::default(),
        membership: None,
        settled: None,
        evidence: Evidence::default(),
    }
}

impl Observation {
    fn claimed_by(mut self, instance: &str) -> Self {
        let number = u32::try_from(self.record.claims.len()).unwrap() + 1;
        self.record.claims.push(claim(number, instance));
        self
    }

    /// Records the last claim's cluster; without a claim, OTHER claims first.
    fn initialized(mut self) -> Self {
        if self.record.claims.is_empty() {
            self = self.claimed_by(OTHER);
        }
        let last = self.record.claims.last().unwrap();
        let initialized = Initialized {
            cluster_uid: last.cluster_uid.clone(),
            ca_hash: "sha256:aa".to_owned(),
            founder: last.instance.clone(),
            time: at(NOW),
        };
        self.record.initialized.insert(last.number, initialized);
        self
    }

    /// Same, and settled.
    fn settled(self) -> Self {
        let mut this = self.initialized();
        let last = this.record.claims.last().unwrap();
        this.record.settled = Some(Settled {
            cluster_uid: last.cluster_uid.clone(),
            instance: last.instance.clone(),
            time: at(NOW),
        });
        this
    }

    fn remembering(mut self, origin: Origin, uid: &str) -> Self {
        self.membership = Some(Membership {
            cluster_uid: uid.to_owned(),
            origin,
        });
        self
    }

    /// This instance remembers that cluster uid-1, founded by OTHER, is settled.
    fn remembering_settled(mut self, origin: Origin) -> Self {
        let whole = world().settled();
        self.settled = whole.record.settled_record("uid-1");
        self.remembering(origin, "uid-1")
    }

    /// OTHER shows the certificate of a cluster.
    fn where_other_shows_a_cluster(mut self) -> Self {
        self.evidence.control_planes = vec![OTHER.to_owned()];
        self
    }

    /// OTHER was launched an hour before this instance.
    fn where_other_is_older(mut self) -> Self {
        self.instances[1].launched = at("2026-11-23T10:00:00Z");
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

/// A decision in short: its kind and what matters about it.
fn verdict(decision: &Decision) -> String {
    match decision {
        Decision::Claim { number, .. } => format!("claim {number}"),
        Decision::Found { cluster_uid } => format!("found {cluster_uid}"),
        Decision::Join { cluster_uid, .. } => format!("join {cluster_uid}"),
        Decision::StartOver { .. } => "start over".to_owned(),
        Decision::Wait { .. } => "wait".to_owned(),
        Decision::Refuse { .. } => "refuse".to_owned(),
    }
}

#[test]
fn a_control_plane_decides() {
    use InstanceState::{Pending, ShuttingDown, Stopped, Stopping, Terminated};
    let me = control_plane(ME);
    for (case, seen, expected) in [
        ("nobody claimed", world(), "claim 1"),
        ("I hold the claim", world().claimed_by(ME), "found uid-1"),
        (
            "I hold it and was interrupted",
            world().claimed_by(ME).remembering(Origin::Founded, "uid-1"),
            "found uid-1",
        ),
        ("another holds it", world().claimed_by(OTHER), "wait"),
        (
            "its holder is only pending",
            world().claimed_by(OTHER).where_other_is(Pending),
            "wait",
        ),
        (
            "its holder is stopped and has recorded nothing",
            world().claimed_by(OTHER).where_other_is(Stopped),
            "claim 2",
        ),
        (
            "its holder is stopping",
            world().claimed_by(OTHER).where_other_is(Stopping),
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
            "I took over",
            world()
                .claimed_by(OTHER)
                .where_other_is(Terminated)
                .claimed_by(ME),
            "found uid-2",
        ),
        (
            "I took over, whatever the one before founded with its last breath",
            world()
                .initialized()
                .where_other_is(Terminated)
                .claimed_by(ME),
            "found uid-2",
        ),
        (
            "I took over, began to found and was interrupted",
            world()
                .claimed_by(OTHER)
                .where_other_is(Terminated)
                .claimed_by(ME)
                .remembering(Origin::Founded, "uid-2"),
            "found uid-2",
        ),
        (
            "I was taken over from",
            world()
                .claimed_by(ME)
                .claimed_by(OTHER)
                .remembering(Origin::Founded, "uid-1"),
            "refuse",
        ),
        (
            "my disk and my claim differ",
            world().claimed_by(ME).remembering(Origin::Founded, "uid-9"),
            "refuse",
        ),
        (
            "I began to found but no claim is left",
            world().remembering(Origin::Founded, "uid-1"),
            "refuse",
        ),
        (
            "I founded it",
            world()
                .claimed_by(ME)
                .initialized()
                .remembering(Origin::Founded, "uid-1"),
            "found uid-1",
        ),
        (
            "I founded it and it is settled",
            world()
                .claimed_by(ME)
                .settled()
                .remembering(Origin::Founded, "uid-1"),
            "found uid-1",
        ),
        (
            "I brought it back from a backup",
            world()
                .settled()
                .where_other_is(Terminated)
                .remembering(Origin::Founded, "uid-1"),
            "found uid-1",
        ),
    ] {
        assert_eq!(verdict(&decide(&me, &seen)), expected, "{case}");
    }
}

#[test]
fn a_control_plane_joins_what_has_a_future() {
    use InstanceState::{Pending, ShuttingDown, Stopped, Terminated};
    let me = control_plane(ME);
    let long_ago = |mut seen: Observation| {
        seen.record.claims[0].time = at("2026-11-23T11:00:00Z");
        seen
    };
    for (case, seen, expected) in [
        ("a cluster exists", world().initialized(), "join uid-1"),
        ("a settled one exists", world().settled(), "join uid-1"),
        (
            "its founder reboots",
            world().initialized().where_other_is(Pending),
            "join uid-1",
        ),
        (
            "its founder is stopped, and it has nobody else",
            world().initialized().where_other_is(Stopped),
            "wait",
        ),
        (
            "its founder is stopped, and it is settled",
            world().settled().where_other_is(Stopped),
            "join uid-1",
        ),
        (
            "its founder is dying: it may still be settled",
            world().initialized().where_other_is(ShuttingDown),
            "wait",
        ),
        (
            "its founder is terminated and it had nothing to lose",
            world().initialized().where_other_is(Terminated),
            "claim 2",
        ),
        (
            "its founder is not listed yet",
            world().initialized().without_other(),
            "wait",
        ),
        (
            "its founder is long forgotten",
            long_ago(world().initialized().without_other()),
            "claim 2",
        ),
        (
            "a settled cluster lost all its control planes: a person restores it",
            world().settled().where_other_is(Terminated),
            "refuse",
        ),
        (
            "the same, long ago",
            long_ago(world().settled().without_other()),
            "refuse",
        ),
        (
            "somebody took over",
            {
                let mut seen = world().initialized().claimed_by("i-3");
                seen.instances
                    .push(instance("i-3", Role::ControlPlane, InstanceState::Running));
                seen
            },
            "wait",
        ),
        (
            "a list that lacks how to know the settled cluster",
            {
                let mut seen = world().settled();
                seen.record.initialized.clear();
                seen
            },
            "refuse",
        ),
        (
            "I founded and lost my disk",
            world().claimed_by(ME).initialized(),
            "refuse",
        ),
        (
            "I founded what is settled, lost my disk, others live",
            world().claimed_by(ME).settled(),
            "join uid-1",
        ),
        (
            "I founded what is settled, lost my disk, am alone",
            world().claimed_by(ME).settled().without_other(),
            "refuse",
        ),
    ] {
        assert_eq!(verdict(&decide(&me, &seen)), expected, "{case}");
    }
}

#[test]
fn who_joined_starts_over_only_where_nothing_is_lost() {
    use InstanceState::{ShuttingDown, Stopped, Terminated};
    let joined = |seen: Observation| seen.remembering(Origin::Joined, "uid-1");
    for (case, seen, expected) in [
        ("it lives", joined(world().initialized()), "join uid-1"),
        (
            "its founder is stopped",
            joined(world().initialized().where_other_is(Stopped)),
            "join uid-1",
        ),
        (
            "its founder is dying",
            joined(world().initialized().where_other_is(ShuttingDown)),
            "join uid-1",
        ),
        (
            "its founder is terminated",
            joined(world().initialized().where_other_is(Terminated)),
            "start over",
        ),
        (
            "its founder is terminated, but it is settled",
            joined(world().settled().where_other_is(Terminated)),
            "join uid-1",
        ),
        (
            "its founder is not listed, for now",
            joined(world().initialized().without_other()),
            "join uid-1",
        ),
        (
            "somebody took over",
            joined(world().initialized().claimed_by("i-3")),
            "start over",
        ),
        (
            "what somebody else founded is settled",
            joined(world().initialized().claimed_by("i-3").settled()),
            "start over",
        ),
        (
            "it is another one, of which nobody knows",
            world().settled().remembering(Origin::Joined, "uid-9"),
            "refuse",
        ),
        ("the record is lost: never found", joined(world()), "refuse"),
        (
            "half of the record is lost",
            joined(world().claimed_by(OTHER)),
            "refuse",
        ),
        (
            "I founded it: there is nothing of it but what I have",
            world()
                .claimed_by(ME)
                .initialized()
                .claimed_by(OTHER)
                .remembering(Origin::Founded, "uid-1"),
            "refuse",
        ),
    ] {
        for me in [control_plane(ME), worker(ME)] {
            assert_eq!(verdict(&decide(&me, &seen)), expected, "{case}");
        }
    }
}

#[test]
fn why_a_cluster_was_given_up_is_said_in_the_same_words_before_and_after_the_takeover() {
    let me = worker(ME);
    let joined = world()
        .initialized()
        .where_other_is(InstanceState::Terminated)
        .remembering(Origin::Joined, "uid-1");
    let before = decide(&me, &joined);
    let Decision::StartOver { why } = &before else {
        panic!("{before:?}");
    };
    assert_eq!(
        *why,
        format!("cluster uid-1 lost its founder {OTHER} before it had anything to lose")
    );
    assert_eq!(decide(&me, &joined.claimed_by("i-3")), before);
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
        ("a cluster exists", world().initialized(), "join uid-1"),
        (
            "I joined it",
            world().initialized().remembering(Origin::Joined, "uid-1"),
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
    // Half an hour old is not old enough.
    for (claimed, expected) in [
        ("2026-11-23T11:00:00Z", "claim 2"),
        ("2026-11-23T11:29:59Z", "claim 2"),
        ("2026-11-23T11:30:00Z", "wait"),
    ] {
        let mut seen = world().claimed_by(OTHER).without_other();
        seen.record.claims[0].time = at(claimed);
        let decision = decide(&control_plane(ME), &seen);
        assert_eq!(verdict(&decision), expected, "{claimed}");
    }
}

#[test]
fn a_worker_says_that_it_waits_for_a_new_founder() {
    let seen = world()
        .initialized()
        .where_other_is(InstanceState::Terminated);
    let Decision::Wait { why } = decide(&worker(ME), &seen) else {
        panic!("not waiting");
    };
    assert_eq!(
        why,
        format!(
            "{OTHER}, which claimed before, is terminated: another control plane has to found it"
        )
    );
}

#[test]
fn waiting_for_a_stopped_founder_of_a_recorded_cluster_says_what_a_person_can_do() {
    let seen = world().initialized().where_other_is(InstanceState::Stopped);
    let Decision::Wait { why } = decide(&control_plane(ME), &seen) else {
        panic!("not waiting");
    };
    assert_eq!(
        why,
        format!("{OTHER}, which claimed to found the cluster, is stopped: start or terminate it")
    );
}

#[test]
fn a_wall_clock_that_is_set_makes_no_looks_agree() {
    let me = control_plane(ME);
    let mut agreement = Agreement::default();
    let mut seen = world()
        .initialized()
        .remembering(Origin::Joined, "uid-1")
        .where_other_is(InstanceState::Terminated);
    let mut look = |seconds: u64, hours: u64| {
        seen.elapsed = Duration::from_secs(seconds);
        seen.now += Duration::from_hours(hours);
        verdict(&judge(&me, &seen, &mut agreement))
    };
    for second in 0..10 {
        assert_eq!(look(second, 1), "wait", "look {second}");
    }
    assert_eq!(look(181, 0), "start over");
}
