//! Who leaves a cluster that it joined, and why.

use super::*;

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
