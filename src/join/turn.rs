//! One control plane joins at a time: etcd takes one learner, and kubeadm gives up after two
//! minutes of waiting for the place.

use crate::{
    error::Result,
    lease::{Holder, Lease},
    ports::{Instance, InstanceState, World},
};

/// Held by the instance that joins; longer than a join may take.
pub const TURN: Lease = Lease {
    name: "k8s-bootstrap-join",
    seconds: 600,
};

/// Gives the turn to this instance; otherwise says whom it waits for.
pub async fn take(
    world: &World,
    joiner: &Instance,
    instances: &[Instance],
) -> Result<Option<String>> {
    if let Holder::Other(holder) = TURN.take(world, &joiner.id).await? {
        let is_terminated = |i: &Instance| i.id == holder && i.state == InstanceState::Terminated;
        if !instances.iter().any(is_terminated) {
            return Ok(Some(format!("the control plane {holder} is joining")));
        }
        TURN.release(world, &holder).await?;
        return Ok(Some(format!(
            "the turn of the terminated {holder} just ended"
        )));
    }
    // One that died on its way is taken out by the leader; one that lives gets its vote soon.
    let members = world.etcd.members().await?;
    let other = members
        .iter()
        .find(|member| member.learner && Some(member.address) != joiner.private_ip);
    Ok(other.map(|member| format!("the etcd member at {} has no vote yet", member.address)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{FakeWorld, control_plane, running};

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
    async fn the_second_waits_until_the_first_gives_its_turn_back() {
        let fake = founded();
        let world = fake.ports();
        let (one, two) = (instance("i-1", 11), instance("i-2", 12));
        let all = [one.clone(), two.clone()];
        assert_eq!(take(&world, &one, &all).await.unwrap(), None);
        let waits = take(&world, &two, &all).await.unwrap().unwrap();
        assert!(waits.contains("i-1 is joining"), "{waits}");
        // Asking again, as after a lost answer, keeps the turn.
        assert_eq!(take(&world, &one, &all).await.unwrap(), None);
        TURN.release(&world, "i-1").await.unwrap();
        assert_eq!(take(&world, &two, &all).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminated_joiner_loses_its_turn_and_a_stopped_one_does_not() {
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
    async fn a_learner_of_another_is_waited_for_and_the_joiners_own_is_not() {
        let fake = founded();
        let learner = fake.etcd.learner("", 11);
        let (one, two) = (instance("i-1", 11), instance("i-2", 12));
        let waits = take(&fake.ports(), &two, &[]).await.unwrap().unwrap();
        assert!(waits.contains("10.42.0.11 has no vote yet"), "{waits}");
        TURN.release(&fake.ports(), "i-2").await.unwrap();
        assert_eq!(take(&fake.ports(), &one, &[]).await.unwrap(), None);
        fake.etcd.start(learner.id);
        fake.ports().etcd.promote(learner.id).await.unwrap();
        TURN.release(&fake.ports(), "i-1").await.unwrap();
        assert_eq!(take(&fake.ports(), &two, &[]).await.unwrap(), None);
    }
}
