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
            "its holder is shutting down: it may still write",
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
            "I took over, although my predecessor recorded a cluster before it ended",
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
            "another instance took over my claim",
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
            "I restored it from a backup",
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
fn a_control_plane_joins_a_cluster_that_is_settled_or_has_its_founder() {
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
            "its founder is stopped, and it is not settled",
            world().initialized().where_other_is(Stopped),
            "wait",
        ),
        (
            "its founder is stopped, and it is settled",
            world().settled().where_other_is(Stopped),
            "join uid-1",
        ),
        (
            "its founder is shutting down: it may still be settled",
            world().initialized().where_other_is(ShuttingDown),
            "wait",
        ),
        (
            "its founder is terminated, and it is not settled",
            world().initialized().where_other_is(Terminated),
            "claim 2",
        ),
        (
            "its founder is not listed yet",
            world().initialized().without_other(),
            "wait",
        ),
        (
            "EC2 no longer lists its founder",
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
            "another instance took over",
            {
                let mut seen = world().initialized().claimed_by("i-3");
                seen.instances
                    .push(instance("i-3", Role::ControlPlane, InstanceState::Running));
                seen
            },
            "wait",
        ),
        (
            "the settled cluster's `initialized` record is missing",
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
            "I founded the settled cluster and lost my disk; others run",
            world().claimed_by(ME).settled(),
            "join uid-1",
        ),
        (
            "I founded the settled cluster, lost my disk and am alone",
            world().claimed_by(ME).settled().without_other(),
            "refuse",
        ),
    ] {
        assert_eq!(verdict(&decide(&me, &seen)), expected, "{case}");
    }
}

#[test]
fn a_joined_node_starts_over_only_if_nothing_is_lost() {
    use InstanceState::{ShuttingDown, Stopped, Terminated};
    let joined = |seen: Observation| seen.remembering(Origin::Joined, "uid-1");
    for (case, seen, expected) in [
        (
            "its founder runs",
            joined(world().initialized()),
            "join uid-1",
        ),
        (
            "its founder is stopped",
            joined(world().initialized().where_other_is(Stopped)),
            "join uid-1",
        ),
        (
            "its founder is shutting down",
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
            "another instance took over",
            joined(world().initialized().claimed_by("i-3")),
            "start over",
        ),
        (
            "another instance took over, and its cluster is settled",
            joined(world().initialized().claimed_by("i-3").settled()),
            "start over",
        ),
        (
            "the store records another cluster",
            world().settled().remembering(Origin::Joined, "uid-9"),
            "refuse",
        ),
        ("the record is lost", joined(world()), "refuse"),
        (
            "half of the record is lost",
            joined(world().claimed_by(OTHER)),
            "refuse",
        ),
        (
            "I founded it: only I have its data",
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
fn the_reason_for_abandoning_is_the_same_before_and_after_a_takeover() {
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
        format!("cluster uid-1 lost its founder {OTHER} before it was settled")
    );
    assert_eq!(decide(&me, &joined.claimed_by("i-3")), before);
}

#[test]
fn a_control_plane_without_the_role_tag_is_refused() {
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
fn a_claim_is_free_once_ec2_has_long_stopped_listing_its_holder() {
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
fn a_worker_reports_that_it_waits_for_a_new_founder() {
    let seen = world()
        .initialized()
        .where_other_is(InstanceState::Terminated);
    let Decision::Wait { why } = decide(&worker(ME), &seen) else {
        panic!("not waiting");
    };
    assert_eq!(
        why,
        format!(
            "{OTHER}, which claimed to found the cluster, is terminated: \
             another control plane has to found the cluster"
        )
    );
}

#[test]
fn a_wait_for_a_stopped_founder_names_what_a_person_can_do() {
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
fn a_step_of_the_wall_clock_makes_no_observations_agree() {
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
