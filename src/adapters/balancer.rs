//! The node's own way to the API: 127.0.0.1:7443, balanced over the control planes.
//!
//! Kubelet, kube-proxy, kubeadm and the agent itself all speak to this address, so
//! the loss of a control plane is seen by nobody but this module. Connections are
//! passed through as they are: TLS ends at the API server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tracing::{debug, warn};

use crate::error::{Context, Result};

/// The balancer's address, as kubeadm's controlPlaneEndpoint names it.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);

/// The API server's port on a control plane.
pub const API_PORT: u16 = 6443;

/// A live host in the same VPC accepts or refuses within milliseconds; a dead one
/// does neither, and the next should be tried soon.
const CONNECT: Duration = Duration::from_secs(2);

/// Starts to listen.
pub async fn listen() -> Result<TcpListener> {
    TcpListener::bind(ADDRESS)
        .await
        .attempting(|| format!("cannot listen on {ADDRESS} for the Kubernetes API"))
        .map_err(|error| {
            error.hint("another program has the port: stop it, or set cluster.endpoint")
        })
}

/// Serves until the process ends. `servers` is tried in its order, so that a
/// control plane's own API server comes first.
pub async fn serve(listener: TcpListener, servers: watch::Receiver<Vec<SocketAddr>>) -> Result<()> {
    let last_good = Arc::new(watch::Sender::new(None));
    loop {
        let (client, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: existing connections must go on.
                warn!(
                    error = error.to_string(),
                    "cannot accept a connection to the API"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let candidates = order(&servers.borrow(), *last_good.borrow());
        let last_good = last_good.clone();
        tokio::spawn(async move { pass_on(client, candidates, &last_good).await });
    }
}

/// The server that worked last comes first, then the others as listed.
fn order(servers: &[SocketAddr], last_good: Option<SocketAddr>) -> Vec<SocketAddr> {
    let preferred = last_good.filter(|server| servers.contains(server));
    preferred
        .into_iter()
        .chain(servers.iter().copied().filter(|s| Some(*s) != preferred))
        .collect()
}

/// Connects to the first server that accepts; with none, the client's connection just closes
/// and the client tries again as it would with any API server that restarts.
async fn pass_on(
    mut client: TcpStream,
    candidates: Vec<SocketAddr>,
    last_good: &watch::Sender<Option<SocketAddr>>,
) {
    for address in &candidates {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(mut server)) => {
                last_good.send_replace(Some(*address));
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                if let Err(error) = copy_bidirectional(&mut client, &mut server).await {
                    debug!(%address, %error, "a connection to the API broke");
                }
                return;
            }
            Ok(Err(error)) => debug!(%address, %error, "no API server"),
            Err(_) => debug!(%address, "no answer from the API server"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server that greets with its name.
    async fn server(name: &'static str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                client.write_all(name.as_bytes()).await.unwrap();
            }
        });
        (address, task)
    }

    async fn greeting(address: SocketAddr) -> String {
        let mut text = String::new();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_next_connection_goes_to_a_server_that_lives() {
        let (first, first_task) = server("first").await;
        let (second, _task) = server("second").await;
        let (servers, seen) = watch::channel(vec![first, second]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, seen));
        assert_eq!(greeting(address).await, "first");
        first_task.abort();
        let _ = first_task.await;
        assert_eq!(greeting(address).await, "second");
        servers.send_replace(Vec::new());
        assert_eq!(greeting(address).await, "");
        servers.send_replace(vec![second]);
        assert_eq!(greeting(address).await, "second");
    }

    #[test]
    fn the_last_good_server_comes_first_only_while_it_is_listed() {
        let a = "10.0.0.1:6443".parse().unwrap();
        let b = "10.0.0.2:6443".parse().unwrap();
        assert_eq!(order(&[a, b], Some(b)), [b, a]);
        assert_eq!(order(&[a], Some(b)), [a]);
    }
}
