//! Wrong code: each variant must be caught within a few thousand seeds.

use std::time::Duration;

use super::{broken, *};
use crate::{
    decide::{decide, judge},
    observe::Evidence,
    ports::{InstanceState, Role},
};

type Judged = fn(&Identity, &Observation, &mut Agreement) -> Decision;

/// Wrong code must be caught within this many seeds.
const SEEDS: u64 = 8_000;

fn caught(code: Code, laws: &[Law]) {
    caught_among((3, 2), code, laws);
}

fn caught_among(size: (usize, usize), code: Code, laws: &[Law]) {
    let simulation = Simulation {
        code,
        ..simulation(size.0, size.1)
    };
    let (played, counts, broken) = simulation.play_all(0..SEEDS);
    let broken = broken.unwrap_or_else(|| panic!("{played} seeds survived: {counts:?}"));
    let law = broken.violation.as_ref().unwrap().law;
    assert!(laws.contains(&law), "{}", broken.report(30));
    let last = broken.trace.last().unwrap();
    assert!(last.contains("VIOLATION"), "{last}");
}

fn judged(judge: Judged, laws: &[Law]) {
    let code = Code {
        judge,
        ..Code::default()
    };
    caught(code, laws);
}

fn ported(ports: fn(World) -> World, laws: &[Law]) {
    let code = Code {
        ports,
        ..Code::default()
    };
    caught(code, laws);
}

/// As if EC2 reported these states as `terminated`.
fn taken_for_terminated(seen: &Observation, states: &[InstanceState]) -> Observation {
    let mut seen = seen.clone();
    for instance in &mut seen.instances {
        if states.contains(&instance.state) {
            instance.state = InstanceState::Terminated;
        }
    }
    seen
}

/// As if every claim that `which` selects were older `by` this much.
fn aged(seen: &Observation, by: Duration, which: impl Fn(&str) -> bool) -> Observation {
    let mut seen = seen.clone();
    for claim in &mut seen.record.claims {
        if which(&claim.instance) {
            claim.time -= by;
        }
    }
    seen
}

#[test]
fn a_founder_by_the_lowest_id_is_caught() {
    judged(
        |me, seen, agreement| {
            let candidates = seen.instances.iter();
            let lowest = candidates
                .filter(|i| i.role == Some(Role::ControlPlane) && !i.state.is_gone())
                .map(|i| i.id.as_str())
                .min();
            let free = seen.record.cluster().is_none() && seen.membership.is_none();
            if free && lowest == Some(me.instance_id.as_str()) {
                return Decision::Found {
                    cluster_uid: format!("of {}", me.instance_id),
                };
            }
            judge(me, seen, agreement)
        },
        &[Law::OneFounder],
    );
}

#[test]
fn a_takeover_from_a_stopped_holder_is_caught() {
    use InstanceState::{Stopped, Stopping};
    judged(
        |me, seen, agreement| {
            judge(
                me,
                &taken_for_terminated(seen, &[Stopped, Stopping]),
                agreement,
            )
        },
        &[Law::ClaimsInTurn],
    );
}

#[test]
fn a_takeover_from_a_dying_holder_is_caught() {
    judged(
        |me, seen, agreement| {
            let seen = taken_for_terminated(seen, &[InstanceState::ShuttingDown]);
            judge(me, &seen, agreement)
        },
        &[Law::ClaimsInTurn],
    );
}

#[test]
fn a_takeover_from_a_holder_that_ec2_does_not_list_yet_is_caught() {
    judged(
        |me, seen, agreement| match decide(me, &aged(seen, Duration::from_hours(1), |_| true)) {
            claim @ Decision::Claim { .. } => claim,
            _ => judge(me, seen, agreement),
        },
        &[Law::ClaimsInTurn],
    );
}

/// As if nothing showed that the cluster is settled: not the store, not this node's journal, not
/// the control planes themselves.
fn unsettled(seen: &Observation) -> Observation {
    let mut seen = seen.clone();
    seen.record.settled = None;
    seen.settled = None;
    seen.evidence = Evidence::default();
    seen
}

/// The store keeps the next number blocked; an instance that tries the number after it does harm.
#[test]
fn a_takeover_from_the_founder_of_a_settled_cluster_is_caught() {
    judged(
        |me, seen, agreement| {
            if seen.record.settled.is_none() || seen.membership.is_some() {
                return judge(me, seen, agreement);
            }
            match judge(me, &unsettled(seen), agreement) {
                Decision::Claim {
                    number,
                    why,
                    grounds,
                } => Decision::Claim {
                    number: number + 1,
                    why,
                    grounds,
                },
                decision => decision,
            }
        },
        &[Law::NothingLost],
    );
}

#[test]
fn starting_over_although_the_cluster_is_settled_is_caught() {
    judged(
        |me, seen, agreement| judge(me, &unsettled(seen), agreement),
        &[Law::NothingLost, Law::Convergence],
    );
}

/// The store may not show yet that the cluster was settled.
#[test]
fn starting_over_after_one_observation_is_caught() {
    judged(
        |me, seen, agreement| match decide(me, seen) {
            over @ Decision::StartOver { .. } => over,
            _ => judge(me, seen, agreement),
        },
        &[Law::NothingLost],
    );
}

#[test]
fn starting_over_while_the_founder_is_stopped_is_caught() {
    use InstanceState::{Stopped, Stopping};
    judged(
        |me, seen, agreement| {
            if seen.membership.is_none() {
                return judge(me, seen, agreement);
            }
            let seen = taken_for_terminated(seen, &[Stopped, Stopping]);
            judge(me, &seen, agreement)
        },
        &[Law::NothingLost],
    );
}

/// A member of etcd may be the last one with data that somebody wrote.
#[test]
fn starting_over_although_the_cluster_lives_is_caught() {
    let code = Code {
        judge: |me, seen, agreement| {
            let mut seen = seen.clone();
            if seen.membership.is_some() {
                seen.evidence = Evidence::default();
            }
            judge(me, &seen, agreement)
        },
        ..Code::default()
    };
    caught_among((2, 0), code, &[Law::NothingLost, Law::MajorityKept]);
}

#[test]
fn a_node_that_forgets_its_cluster_before_its_removal_is_caught() {
    ported(broken::forgets_first, &[Law::MembershipKept]);
}

#[test]
fn a_node_that_never_starts_over_is_caught() {
    judged(
        |me, seen, agreement| match judge(me, seen, agreement) {
            Decision::StartOver { why } => Decision::Wait { why },
            decision => decision,
        },
        &[Law::Convergence, Law::BoundedWaits],
    );
}

#[test]
fn a_worker_that_claims_is_caught() {
    judged(
        |me, seen, agreement| {
            let (mut me, mut seen) = (me.clone(), seen.clone());
            me.role = Role::ControlPlane;
            for instance in &mut seen.instances {
                instance.role = Some(Role::ControlPlane);
            }
            judge(&me, &seen, agreement)
        },
        &[Law::JoinersNeverFound],
    );
}

#[test]
fn a_refusal_after_one_observation_is_caught() {
    judged(
        |me, seen, agreement| match decide(me, seen) {
            refusal @ Decision::Refuse { .. } => refusal,
            _ => judge(me, seen, agreement),
        },
        &[Law::TrueRefusals],
    );
}

/// A stopped founder may come back and found as well.
#[test]
fn following_a_stopped_holder_after_one_observation_is_caught() {
    judged(
        |me, seen, agreement| match decide(me, seen) {
            claim @ Decision::Claim { .. } => claim,
            _ => judge(me, seen, agreement),
        },
        &[Law::ClaimsInTurn],
    );
}

#[test]
fn a_membership_that_is_written_down_too_late_is_caught() {
    ported(broken::journals_late, &[Law::MembershipFirst]);
}

#[test]
fn a_joiner_that_forgets_and_founds_is_caught() {
    ported(
        broken::forgets,
        &[
            Law::MembershipKept,
            Law::JoinersNeverFound,
            Law::ClaimsInTurn,
        ],
    );
}

#[test]
fn trusting_the_error_of_a_claim_whose_answer_was_lost_is_caught() {
    ported(broken::trusts_errors, &[Law::ClaimsInTurn]);
}

#[test]
fn a_wait_without_an_end_is_caught() {
    ported(broken::waits_for_ever, &[Law::BoundedWaits]);
}

#[test]
fn healing_that_takes_the_stopped_for_dead_is_caught() {
    let code = Code {
        duties: broken::takes_the_stopped_for_dead,
        ..Code::default()
    };
    caught(code, &[Law::LivingStay]);
}

/// EC2 reuses an address: etcd would start without the data of the member that had it.
#[test]
fn admitting_an_instance_in_place_of_a_dead_member_is_caught() {
    let code = Code {
        service: broken::sees_no_dead_members,
        ..Code::default()
    };
    caught(code, &[Law::DataKept]);
}

#[test]
fn a_reset_that_does_not_ask_whether_etcd_needs_the_data_is_caught() {
    // If the others have the majority, nobody admits the voter without data again.
    ported(
        broken::looks_for_no_data,
        &[Law::MajorityKept, Law::DataKept, Law::Convergence],
    );
}

#[test]
fn a_cluster_that_is_not_remembered_as_settled_is_caught() {
    ported(
        broken::forgets_that_it_is_settled,
        &[
            Law::NothingLost,
            Law::OneCluster,
            Law::TrueRefusals,
            Law::BoundedWaits,
            Law::Convergence,
        ],
    );
}

#[test]
fn renewing_without_waiting_for_the_lease_is_caught() {
    let code = Code {
        duties: broken::waits_for_no_lease,
        ..Code::default()
    };
    caught(code, &[Law::RenewedInTurn]);
}

#[test]
fn founding_next_to_a_cluster_that_the_store_does_not_record_is_caught() {
    let laws = [Law::OneCluster, Law::NothingLost];
    ported(broken::sees_no_clusters, &laws);
}

/// After a clock step, one wrong observation seems to have lasted.
#[test]
fn observations_that_agree_by_the_wall_clock_are_caught() {
    let code = Code {
        judge: |me, seen, agreement| {
            let seconds = seen.now.as_second().try_into().unwrap();
            let mut seen = seen.clone();
            seen.elapsed = Duration::from_secs(seconds);
            judge(me, &seen, agreement)
        },
        ..Code::default()
    };
    let laws = [Law::TrueRefusals, Law::NothingLost, Law::ClaimsInTurn];
    caught_among((2, 0), code, &laws);
}
