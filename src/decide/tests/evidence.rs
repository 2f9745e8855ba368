//! Decisions when the store, a node's memory and the machines themselves disagree.

use super::*;

/// What each claim rests on.
#[test]
fn a_claim_on_weaker_grounds_needs_longer_agreement() {
    use InstanceState::{Stopped, Terminated};
    let forgotten = |mut seen: Observation| {
        seen.record.claims[0].time = at("2026-11-23T11:00:00Z");
        seen
    };
    for (case, seen, expected) in [
        ("nobody claimed", world(), Grounds::Fact),
        (
            "I am older",
            {
                let mut seen = world();
                seen.instances[0].launched = at("2026-11-23T10:00:00Z");
                seen
            },
            Grounds::Fact,
        ),
        (
            "its holder is terminated",
            world().claimed_by(OTHER).where_other_is(Terminated),
            Grounds::Fact,
        ),
        (
            "others may have joined what it recorded",
            world().initialized().where_other_is(Terminated),
            Grounds::Absence,
        ),
        (
            "its holder is not listed",
            forgotten(world().claimed_by(OTHER).without_other()),
            Grounds::Absence,
        ),
        (
            "an older control plane may have lost the record",
            world().where_other_is_older(),
            Grounds::Absence,
        ),
        (
            "its holder is stopped",
            world().claimed_by(OTHER).where_other_is(Stopped),
            Grounds::Stopped,
        ),
    ] {
        let decision = decide(&control_plane(ME), &seen);
        let Decision::Claim { grounds, .. } = decision else {
            panic!("{case}: {decision:?}");
        };
        assert_eq!(grounds, expected, "{case}");
    }
}

#[test]
fn nobody_founds_while_a_control_plane_shows_a_cluster() {
    use InstanceState::{Stopped, Stopping, Terminated};
    let me = control_plane(ME);
    for (case, seen, expected) in [
        (
            "the record is lost, or in another store",
            world().where_other_shows_a_cluster(),
            "refuse",
        ),
        (
            "I claimed before it showed",
            world().claimed_by(ME).where_other_shows_a_cluster(),
            "wait",
        ),
        (
            "the claim's holder is gone, and the other one has not started over",
            world().claimed_by("i-3").where_other_shows_a_cluster(),
            "wait",
        ),
        (
            "the same, recorded",
            {
                let mut seen = world().claimed_by("i-3").initialized();
                let gone = instance("i-3", Role::ControlPlane, Terminated);
                seen.instances.push(gone);
                seen.where_other_shows_a_cluster()
            },
            "wait",
        ),
        (
            "an older one is stopped and may have a cluster",
            world().where_other_is_older().where_other_is(Stopped),
            "wait",
        ),
        (
            "the same while it stops",
            world().where_other_is_older().where_other_is(Stopping),
            "wait",
        ),
        (
            "another one is stopped and may have joined the recorded cluster",
            {
                let mut seen = world().claimed_by("i-3").initialized();
                let gone = instance("i-3", Role::ControlPlane, Terminated);
                seen.instances.push(gone);
                seen.where_other_is(Stopped)
            },
            "wait",
        ),
        (
            "an older one is terminated",
            world().where_other_is_older().where_other_is(Terminated),
            "claim 1",
        ),
        (
            "the cluster is recorded: it is joined",
            world().settled().where_other_shows_a_cluster(),
            "join uid-1",
        ),
    ] {
        assert_eq!(verdict(&decide(&me, &seen)), expected, "{case}");
    }
    let Decision::Refuse { why, .. } = decide(&me, &world().where_other_shows_a_cluster()) else {
        panic!("no refusal");
    };
    assert_eq!(
        why,
        format!("the store records no cluster, but the control plane {OTHER} has one")
    );
}

#[test]
fn a_node_that_remembers_its_settled_cluster_goes_on_whatever_the_store_lists() {
    use InstanceState::Terminated;
    for (case, seen) in [
        ("the record is lost", world()),
        ("the founder is terminated and the settled entry is lost", {
            world().initialized().where_other_is(Terminated)
        }),
        (
            "another instance took over with the key of the lost entry",
            world().initialized().claimed_by("i-3"),
        ),
        (
            "and has founded and settled another cluster",
            world().initialized().claimed_by("i-3").settled(),
        ),
        ("the claim alone is lost", {
            let mut seen = world().settled();
            seen.record.claims.clear();
            seen
        }),
    ] {
        for (me, origin, expected) in [
            (control_plane(ME), Origin::Joined, "join uid-1"),
            (worker(ME), Origin::Joined, "join uid-1"),
            (control_plane(ME), Origin::Founded, "found uid-1"),
        ] {
            let seen = seen.clone().remembering_settled(origin);
            assert_eq!(verdict(&decide(&me, &seen)), expected, "{case}");
        }
    }
}

#[test]
fn nobody_starts_over_while_the_cluster_exists() {
    let joined = || {
        world()
            .initialized()
            .where_other_is(InstanceState::Terminated)
            .remembering(Origin::Joined, "uid-1")
    };
    let after_a_takeover = || {
        world()
            .initialized()
            .claimed_by("i-3")
            .remembering(Origin::Joined, "uid-1")
    };
    let nothing = Evidence::default;
    let (join, over) = ("join uid-1", "start over");
    for (case, evidence, before, after) in [
        ("no trace of the cluster", nothing(), over, over),
        (
            "its API answers",
            Evidence {
                api: true,
                ..nothing()
            },
            join,
            join,
        ),
        (
            "a voter has its data",
            Evidence {
                voter: true,
                ..nothing()
            },
            join,
            "refuse",
        ),
        (
            "other control planes show a cluster, which may not work any more",
            Evidence {
                control_planes: vec!["i-3".to_owned()],
                ..nothing()
            },
            over,
            over,
        ),
    ] {
        for (mut seen, expected) in [(joined(), before), (after_a_takeover(), after)] {
            seen.evidence = evidence.clone();
            assert_eq!(verdict(&decide(&worker(ME), &seen)), expected, "{case}");
        }
    }
}

#[test]
fn machines_are_probed_only_before_decisions_that_rest_on_absence() {
    use InstanceState::Terminated;
    let me = control_plane(ME);
    for (case, seen, expected) in [
        ("before a claim", world(), true),
        ("before founding", world().claimed_by(ME), true),
        (
            "founding goes on",
            world().claimed_by(ME).remembering(Origin::Founded, "uid-1"),
            false,
        ),
        (
            "before starting over",
            world()
                .initialized()
                .where_other_is(Terminated)
                .remembering(Origin::Joined, "uid-1"),
            true,
        ),
        ("before joining", world().settled(), false),
        ("while waiting", world().claimed_by(OTHER), false),
    ] {
        assert_eq!(rests_on_absence(&me, &seen), expected, "{case}");
    }
}
