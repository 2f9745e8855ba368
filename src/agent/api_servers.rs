//! Which API servers a node may use, and how it knows them before EC2 answers.

use std::{net::SocketAddr, path::Path};

use crate::{
    error::{Context, Result},
    identity::Identity,
    journal::Journal,
    kubernetes::{API_PORT, LOCAL_ENDPOINT, paths},
    observe::Observation,
    ports::{Host, InstanceState, Role},
};

/// Keeps the API servers that were seen last.
const FILE: &str = "/var/lib/k8s-bootstrap/api-servers.json";

/// The API servers that a node knows before EC2 answers: its own on a control plane, and those seen
/// before a restart. So a node that boots while EC2 does not answer still reaches its API;
/// meanwhile EC2 launches no other control plane either.
pub async fn known(me: &Identity, host: &dyn Host) -> Result<Vec<SocketAddr>> {
    let mut servers = own(me);
    let seen = remembered(host).await?;
    servers.extend(seen.into_iter().filter(|s| !own(me).contains(s)));
    Ok(servers)
}

/// The API servers that a node reaches through the agent's balancer. `None` if this machine is not
/// a node, if it uses another endpoint, or if `instance` is known and the disk is a copy of another
/// instance's.
pub async fn in_use(host: &dyn Host, instance: Option<&str>) -> Result<Option<Vec<SocketAddr>>> {
    let balancer = format!("https://{LOCAL_ENDPOINT}");
    let mut by_balancer = false;
    // The kubelet of a control plane asks its own API server.
    for kubeconfig in [paths::KUBELET_CONF, paths::ADMIN_CONF] {
        let content = host.read(Path::new(kubeconfig)).await?.unwrap_or_default();
        by_balancer |= String::from_utf8_lossy(&content).contains(&balancer);
    }
    if !by_balancer {
        return Ok(None);
    }
    if let (Some(instance), Some(writer)) = (instance, Journal::writer(host).await?)
        && writer != instance
    {
        return Ok(None);
    }
    let servers = remembered(host).await?;
    Ok((!servers.is_empty()).then_some(servers))
}

/// On a control plane its own first, then the others that EC2 lists.
pub fn seen(me: &Identity, seen: &Observation) -> Vec<SocketAddr> {
    let peers = seen
        .instances
        .iter()
        .filter(|i| i.role == Some(Role::ControlPlane) && i.state == InstanceState::Running)
        .filter_map(|i| i.private_ip)
        .map(|address| SocketAddr::from((address, API_PORT)));
    let mut servers = own(me);
    for peer in peers {
        if !servers.contains(&peer) {
            servers.push(peer);
        }
    }
    servers
}

/// Keeps them across restarts.
pub async fn remember(host: &dyn Host, servers: &[SocketAddr]) -> Result<()> {
    let list = serde_json::to_vec(servers)
        .attempting(|| "cannot serialize the list of API servers".to_owned())?;
    host.write(Path::new(FILE), &list, 0o600).await
}

async fn remembered(host: &dyn Host) -> Result<Vec<SocketAddr>> {
    let list = host.read(Path::new(FILE)).await?.unwrap_or_default();
    // Treat a damaged file as absent: the next observation writes it again.
    Ok(serde_json::from_slice(&list).unwrap_or_default())
}

fn own(me: &Identity) -> Vec<SocketAddr> {
    let own = (me.role == Role::ControlPlane).then_some(me.private_ip);
    own.into_iter()
        .map(|address| SocketAddr::from((address, API_PORT)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        journal,
        testing::{FakeWorld, agent, control_plane, running, worker},
    };

    fn servers(addresses: &[&str]) -> Vec<SocketAddr> {
        let addresses = addresses.iter();
        addresses.map(|address| address.parse().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_balancer_gets_the_control_planes_and_keeps_them_when_ec2_lists_none() {
        let fake = FakeWorld::new();
        let me = worker("i-1");
        let peer = control_plane("i-2");
        fake.ec2.list([running(&me, 10), running(&peer, 11)]);
        let agent = agent(&fake, me).await;
        agent.observe().await.unwrap();
        let known = servers(&["10.42.0.11:6443"]);
        assert_eq!(*agent.api_servers.borrow(), known);
        fake.ec2.list([]);
        agent.observe().await.unwrap();
        assert_eq!(*agent.api_servers.borrow(), known);
    }

    #[tokio::test(start_paused = true)]
    async fn before_ec2_answers_the_servers_are_this_node_and_the_remembered_ones() {
        let fake = FakeWorld::new();
        let known = async |me: &Identity| known(me, fake.host.as_ref()).await.unwrap();
        let (me, worker) = (control_plane("i-1"), worker("i-3"));
        assert_eq!(known(&me).await, servers(&["10.42.0.10:6443"]));
        assert_eq!(known(&worker).await, servers(&[]));
        let peer = control_plane("i-2");
        fake.ec2.list([running(&me, 10), running(&peer, 11)]);
        agent(&fake, me.clone()).await.observe().await.unwrap();
        assert_eq!(
            known(&me).await,
            servers(&["10.42.0.10:6443", "10.42.0.11:6443"])
        );
        assert_eq!(known(&worker).await.len(), 2);
        fake.files.put(FILE, "[\"10.42.");
        assert_eq!(known(&me).await, servers(&["10.42.0.10:6443"]));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_node_of_this_instance_that_uses_the_balancer_is_in_use() {
        let fake = FakeWorld::new();
        let host = fake.host.as_ref();
        let in_use = async |instance| in_use(host, instance).await.unwrap();
        let seen = servers(&["10.42.0.10:6443"]);
        remember(host, &seen).await.unwrap();
        Journal::new("i-1").save(host).await.unwrap();
        assert_eq!(in_use(Some("i-1")).await, None, "no kubelet");
        let by = |server: &str| format!("clusters:\n- cluster:\n    server: https://{server}\n");
        fake.files.put(paths::KUBELET_CONF, by("10.42.0.10:6443"));
        assert_eq!(in_use(Some("i-1")).await, None, "another endpoint");
        fake.files.put(paths::ADMIN_CONF, by("127.0.0.1:7443"));
        assert_eq!(in_use(Some("i-1")).await, Some(seen.clone()));
        assert_eq!(in_use(Some("i-2")).await, None, "a copied disk");
        assert_eq!(in_use(None).await, Some(seen.clone()));
        fake.files.put(journal::FILE, "{\"version\": 1, \"insta");
        assert_eq!(in_use(Some("i-1")).await, Some(seen.clone()), "damaged");
        fake.files.delete(paths::ADMIN_CONF);
        fake.files.put(paths::KUBELET_CONF, by("127.0.0.1:7443"));
        assert_eq!(in_use(None).await, Some(seen));
        fake.files.delete(FILE);
        assert_eq!(in_use(None).await, None, "no server was seen yet");
    }
}
