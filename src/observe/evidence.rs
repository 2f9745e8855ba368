//! What the machines themselves show of a cluster, whatever the store says.

use std::net::SocketAddr;

use futures::future::join_all;
use serde::Serialize;

use super::Observation;
use crate::{
    identity::Identity,
    kubernetes::{API_PORT, paths},
    observe::Origin,
    ports::{Role, World},
};

/// What was found on the machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// IDs of other control planes that show the certificate of a cluster's API server.
    pub control_planes: Vec<String>,
    /// Whether an API server of the cluster that this node joined is ready, which means that etcd
    /// has its majority.
    pub api: bool,
    /// Whether this node has a voting member of that cluster's etcd, and with it the data.
    pub voter: bool,
}

/// Looks for a cluster on the API and join ports of the control planes that EC2 lists, and for the
/// cluster that this node joined.
pub async fn gather(world: &World, me: &Identity, seen: &Observation, join_port: u16) -> Evidence {
    let joined = seen.membership.as_ref();
    let joined = joined.is_some_and(|membership| membership.origin == Origin::Joined);
    let others = seen.instances.iter().filter(|i| {
        i.role == Some(Role::ControlPlane) && i.id != me.instance_id && !i.state.is_gone()
    });
    let looks = others.filter_map(|other| Some((&other.id, other.private_ip?)));
    let looks = looks.map(async |(id, address)| {
        for port in [API_PORT, join_port] {
            let server = SocketAddr::from((address, port));
            if world.peers.shows_a_cluster(server).await {
                return Some(id.clone());
            }
        }
        None
    });
    Evidence {
        control_planes: join_all(looks).await.into_iter().flatten().collect(),
        api: joined && world.cluster.ready().await.unwrap_or_default(),
        voter: joined && me.role == Role::ControlPlane && is_voter(world, me).await,
    }
}

/// A control plane whose join is complete is a voter. Before that, etcd says whether it is.
async fn is_voter(world: &World, me: &Identity) -> bool {
    if world
        .host
        .exists(paths::JOINED.as_ref())
        .await
        .unwrap_or(true)
    {
        return true;
    }
    let members = world.etcd.members().await.unwrap_or_default();
    let mut voters = members.iter().filter(|member| !member.learner);
    voters.any(|voter| voter.address == me.private_ip)
}
