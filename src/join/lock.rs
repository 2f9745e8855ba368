//! One control plane joins at a time: etcd takes one learner, and kubeadm gives up after waiting
//! two minutes to add its own.

use super::{judge::NodeIs, node};
use crate::{
    error::Result,
    kubernetes::lease::{Holder, JOIN_LOCK},
    ports::{Instance, InstanceState, Member, World},
};

/// Describes the member that etcd still has at the joiner's address or name, if it blocks the join.
/// EC2 reuses addresses, and with them names. An empty etcd that starts with the id of a member
/// that had data breaks the promises which that member made to the others.
pub async fn predecessor(world: &World, joiner: &Instance, node: NodeIs) -> Result<Option<String>> {
    let name = node::name(joiner);
    let members = world.etcd.members().await?;
    let found = members.iter().find_map(|member| {
        let why = is_taken(member, joiner, &name, node)?;
        let (hex, address) = (member.hex(), member.address);
        Some(format!("etcd has the member {hex} at {address}: {why}"))
    });
    Ok(found)
}

/// Why this member keeps the joiner from starting etcd; `None` if it does not.
fn is_taken(member: &Member, joiner: &Instance, name: &str, node: NodeIs) -> Option<&'static str> {
    let is_there = Some(member.address) == joiner.private_ip;
    let has_name = !member.name.is_empty() && member.name == name;
    // A member that never started has no data to lose.
    if !has_name && (!is_there || member.name.is_empty()) {
        return None;
    }
    if !has_name || node != NodeIs::Its {
        return Some(
            "it belongs to an instance that had this address before, and must be removed first: \
             the leader does that once EC2 lists the instance as terminated, or once the \
             member has not answered for 15 minutes and has no Node",
        );
    }
    // The joiner is not a member yet, or it would not ask. A learner is left over from an
    // interrupted join: the joiner removes it before it starts again.
    (!member.learner).then_some(
        "it belongs to this instance and has a vote; \
         terminate the instance if it has lost its data",
    )
}

/// Gives the lock to this instance; otherwise returns what it waits for.
pub async fn take(
    world: &World,
    joiner: &Instance,
    instances: &[Instance],
) -> Result<Option<String>> {
    if let Holder::Other(holder) = JOIN_LOCK.take(world, &joiner.id).await? {
        let is_terminated = |i: &Instance| i.id == holder && i.state == InstanceState::Terminated;
        if !instances.iter().any(is_terminated) {
            return Ok(Some(format!("the control plane {holder} is joining")));
        }
        JOIN_LOCK.release(world, &holder).await?;
        return Ok(Some(format!(
            "the join lock of {holder}, which is terminated, was just released"
        )));
    }
    // The leader removes a learner that died while joining; a live one gets its vote soon.
    let members = world.etcd.members().await?;
    let other = members
        .iter()
        .find(|member| member.learner && Some(member.address) != joiner.private_ip);
    let Some(member) = other else {
        return Ok(None);
    };
    // The learner's instance may have to be admitted again, and needs the lock for that.
    JOIN_LOCK.release(world, &joiner.id).await?;
    let address = member.address;
    Ok(Some(format!(
        "the etcd member at {address} has no vote yet"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::{
        ports::Clock,
        testing::{FakeWorld, control_plane, running},
    };

    fn instance(id: &str, last: u8) -> Instance {
        running(&control_plane(id), last)
    }

    /// A cluster of one control plane.
    fn founded() -> FakeWorld {
        let fake = FakeWorld::new();
        fake.etcd.voter("n0", 10);
        fake
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_waits_until_the_first_releases_the_lock() {
        let fake = founded();
        let world = fake.ports();
        let (one, two) = (instance("i-1", 11), instance("i-2", 12));
        let all = [one.clone(), two.clone()];
        assert_eq!(take(&world, &one, &all).await.unwrap(), None);
        let waits = take(&world, &two, &all).await.unwrap().unwrap();
        assert!(waits.contains("i-1 is joining"), "{waits}");
        // Asking again, as after a lost answer, keeps the lock.
        assert_eq!(take(&world, &one, &all).await.unwrap(), None);
        JOIN_LOCK.release(&world, "i-1").await.unwrap();
        assert_eq!(take(&world, &two, &all).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminated_joiner_loses_the_lock_and_a_stopped_one_does_not() {
        let fake = founded();
        let world = fake.ports();
        let (mut one, two) = (instance("i-1", 11), instance("i-2", 12));
        take(&world, &one, &[]).await.unwrap();
        one.state = InstanceState::Stopped;
        let stopped = [one.clone(), two.clone()];
        assert!(take(&world, &two, &stopped).await.unwrap().is_some());
        assert!(take(&world, &two, &stopped).await.unwrap().is_some());
        one.state = InstanceState::Terminated;
        let terminated = [one, two.clone()];
        assert!(take(&world, &two, &terminated).await.unwrap().is_some());
        assert_eq!(take(&world, &two, &terminated).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_joiner_waits_for_anothers_learner_but_not_for_its_own() {
        let fake = founded();
        let learner = fake.etcd.learner("", 11);
        let (one, two) = (instance("i-1", 11), instance("i-2", 12));
        let waits = take(&fake.ports(), &two, &[]).await.unwrap().unwrap();
        assert!(waits.contains("10.42.0.11 has no vote yet"), "{waits}");
        // A joiner that waits for a learner leaves the lock to the learner's instance.
        assert_eq!(take(&fake.ports(), &one, &[]).await.unwrap(), None);
        fake.etcd.start(learner.id);
        fake.ports().etcd.promote(learner.id).await.unwrap();
        JOIN_LOCK.release(&fake.ports(), "i-1").await.unwrap();
        assert_eq!(take(&fake.ports(), &two, &[]).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_joiner_that_stops_delays_the_others_by_ten_minutes_at_most() {
        for hours in [-9, 0, 9] {
            let fake = founded();
            let world = fake.ports();
            let (mut one, two) = (instance("i-1", 11), instance("i-2", 12));
            take(&world, &one, &[]).await.unwrap();
            one.state = InstanceState::Stopped;
            let all = [one, two.clone()];
            fake.clock.sleep(Duration::from_secs(5)).await;
            fake.clock.step(jiff::SignedDuration::from_hours(hours));
            while let Some(why) = take(&world, &two, &all).await.unwrap() {
                assert!(why.contains("i-1 is joining"), "{why}");
                fake.clock.sleep(Duration::from_secs(5)).await;
            }
            let waited = fake.clock.since_noon();
            assert_eq!(waited, Duration::from_mins(10), "{hours} h");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_joiner_starts_etcd_in_place_of_a_member_that_had_data() {
        use NodeIs::{Its, Missing, Stale};
        let joiner = Instance {
            private_dns_name: Some("IP-10-42-0-11".to_owned()),
            ..instance("i-2", 11)
        };
        // At the joiner's address or not; with its name or not; with a vote or not.
        for (case, name, last, voter, node, taken) in [
            ("a dead voter", "ip-10-42-0-11", 11, true, Stale, true),
            ("its Node is gone", "ip-10-42-0-11", 11, true, Missing, true),
            ("its own vote", "ip-10-42-0-11", 11, true, Its, true),
            ("a dead learner", "ip-10-42-0-11", 11, false, Stale, true),
            ("its own learner", "ip-10-42-0-11", 11, false, Its, false),
            ("another name", "cp1", 11, false, Its, true),
            ("never started", "", 11, false, Its, false),
            ("never started by another", "", 11, false, Missing, false),
            ("the name alone", "ip-10-42-0-11", 12, true, Stale, true),
            ("somebody else", "cp1", 12, true, Missing, false),
            ("somebody else's learner", "", 12, false, Missing, false),
        ] {
            let fake = founded();
            let member = if voter {
                fake.etcd.voter(name, last)
            } else {
                fake.etcd.learner(name, last)
            };
            let world = fake.ports();
            let busy = predecessor(&world, &joiner, node).await.unwrap();
            assert_eq!(busy.is_some(), taken, "{case}: {busy:?}");
            world.etcd.remove(member.id).await.unwrap();
            let busy = predecessor(&world, &joiner, node).await.unwrap();
            assert_eq!(busy, None, "{case}");
        }
    }
}
