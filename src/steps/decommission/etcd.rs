//! Removes this control plane's member from etcd.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    ports::{Alarm, InstanceState, Member, Role, World},
    steps::{State, Step},
    wait::Notes,
};

/// This node's member is removed from etcd, and another one leads. The member stays if the
/// remaining healthy voters would not be a majority, or if it is the only member: then the data
/// would be lost with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaveEtcd {
    /// The cluster's name, used to find the other control planes in EC2.
    pub cluster: String,
    /// The id of this instance.
    pub instance: String,
    /// The node's name, which is also its member's.
    pub node: String,
}

/// The healthy voter that can lead in this member's place; `None` for a learner, an error if the
/// others cannot do without this member.
fn judge(own: &Member, others: &[(Member, bool)]) -> Result<Option<u64>, String> {
    // A learner has no vote to lose.
    if own.learner {
        return Ok(None);
    }
    let voters: Vec<_> = others.iter().filter(|(other, _)| !other.learner).collect();
    let healthy: Vec<u64> = voters
        .iter()
        .filter(|(_, healthy)| *healthy)
        .map(|(other, _)| other.id)
        .collect();
    if healthy.len() * 2 > voters.len() {
        return Ok(healthy.first().copied());
    }
    Err(match voters.len() {
        0 => "it is the only voter".to_owned(),
        all => format!(
            "only {} of the {all} other voters are healthy",
            healthy.len()
        ),
    })
}

impl LeaveEtcd {
    /// For this instance, on the node of this name.
    pub fn new(cluster: &str, instance: &str, node: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            instance: instance.to_owned(),
            node: node.to_owned(),
        }
    }

    /// This node's member, if it has a vote. Fails if no member of etcd can list the members.
    pub async fn vote(&self, world: &World) -> Result<Option<Member>> {
        let (own, _) = self.own(world).await?;
        Ok(own.filter(|own| !own.learner))
    }

    async fn own(&self, world: &World) -> Result<(Option<Member>, Vec<Member>)> {
        let members = match world.etcd.members().await {
            Ok(members) => members,
            Err(silent) => self.members_by_others(world, silent).await?,
        };
        let (own, others) = members.into_iter().partition(|m| m.name == self.node);
        let own: Vec<Member> = own;
        Ok((own.into_iter().next(), others))
    }

    /// A removed member stops at once, so only the others can confirm that it was removed.
    async fn members_by_others(&self, world: &World, silent: Error) -> Result<Vec<Member>> {
        for peer in world.ec2.instances(&self.cluster).await? {
            let is_other = peer.role == Some(Role::ControlPlane)
                && peer.state == InstanceState::Running
                && peer.id != self.instance;
            let Some(address) = peer.private_ip.filter(|_| is_other) else {
                continue;
            };
            if let Ok(members) = world.etcd.members_by(address).await {
                return Ok(members);
            }
        }
        Err(silent)
    }
}

#[async_trait]
impl Step for LeaveEtcd {
    async fn check(&self, world: &World) -> Result<State> {
        let (own, _) = self.own(world).await?;
        Ok(own.map_or(State::AsWanted, |own| {
            State::Differs(format!("etcd member {} is on {}", own.hex(), self.node))
        }))
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let (Some(own), others) = self.own(world).await? else {
            return Ok(());
        };
        let mut seen = Vec::new();
        for other in others {
            // A member with differing data may not be part of the remaining cluster.
            let healthy =
                world.etcd.status(&other).await.is_ok_and(|status| {
                    status.in_step && !status.is_alarmed(other.id, Alarm::Corrupt)
                });
            seen.push((other, healthy));
        }
        let heir = judge(&own, &seen).map_err(|why| {
            Error::refused(format!("etcd member {} cannot leave: {why}", own.hex()))
        })?;
        if let Some(heir) = heir
            && world.etcd.leader().await? == Some(own.id)
        {
            world.etcd.transfer_leadership(heir).await?;
        }
        world.etcd.remove(own.id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, learner: bool) -> Member {
        Member {
            id,
            name: format!("cp{id}"),
            address: [10, 42, 0, 10].into(),
            learner,
        }
    }

    #[test]
    fn a_member_leaves_only_if_a_healthy_majority_remains() {
        let voter = |id, healthy| (member(id, false), healthy);
        let learner = (member(9, true), true);
        for (case, others, expected) in [
            ("the only one", vec![], Err("it is the only voter")),
            (
                "next to a learner",
                vec![learner],
                Err("it is the only voter"),
            ),
            ("of two", vec![voter(2, true)], Ok(Some(2))),
            (
                "of two, the other unhealthy",
                vec![voter(2, false)],
                Err("only 0 of the 1 other voters are healthy"),
            ),
            (
                "of three",
                vec![voter(2, true), voter(3, true)],
                Ok(Some(2)),
            ),
            (
                "of three, one unhealthy",
                vec![voter(2, false), voter(3, true)],
                Err("only 1 of the 2 other voters are healthy"),
            ),
            (
                "of four, one unhealthy",
                vec![voter(2, false), voter(3, true), voter(4, true)],
                Ok(Some(3)),
            ),
        ] {
            let expected = expected.map_err(str::to_owned);
            assert_eq!(judge(&member(1, false), &others), expected, "{case}");
        }
        assert_eq!(judge(&member(1, true), &[]), Ok(None), "a learner");
    }
}
