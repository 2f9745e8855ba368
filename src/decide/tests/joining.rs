//! Who joins a cluster that is recorded.

use super::*;

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
