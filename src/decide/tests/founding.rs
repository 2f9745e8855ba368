//! Who claims and founds, and who waits for a founder.

use super::*;

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
