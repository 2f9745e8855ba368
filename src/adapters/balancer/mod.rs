//! The node's API balancer: 127.0.0.1:7443, balanced over the control planes.
//!
//! Kubelet, kube-proxy, kubeadm and the agent itself all connect to this address, so only this
//! module notices the loss of a control plane. Connections are passed through unchanged: TLS ends
//! at the API server.

mod health;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    error::{Context, Result},
    kubernetes::LOCAL_ENDPOINT,
    wait::schedules::ACCEPT,
};

pub use health::{Answer, Health, Probe, ReadyzProbe};

/// A live host in the same VPC accepts or refuses within milliseconds. A dead one does neither, and
/// the next server should be tried soon.
const CONNECT: Duration = Duration::from_secs(2);

/// Starts listening.
pub async fn listen() -> Result<TcpListener> {
    TcpListener::bind(LOCAL_ENDPOINT)
        .await
        .attempting(|| format!("cannot listen on {LOCAL_ENDPOINT} for the Kubernetes API"))
        .map_err(|error| {
            error.hint("another program uses the port: stop it, or set cluster.endpoint")
        })
}

/// Serves until the process ends. `servers` are tried in the given order, so that a control plane's
/// own API server comes first; those that are not ready come last.
pub async fn serve(
    listener: TcpListener,
    servers: watch::Receiver<Vec<SocketAddr>>,
    health: Arc<Health>,
) -> Result<()> {
    loop {
        let (client, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually out of file descriptors: existing connections must continue.
                warn!(
                    error = error.to_string(),
                    "cannot accept a connection to the API"
                );
                tokio::time::sleep(ACCEPT).await;
                continue;
            }
        };
        let candidates = health.order(&servers.borrow());
        let health = health.clone();
        tokio::spawn(async move { pass_on(client, candidates, &health).await });
    }
}

/// Connects to the first server that accepts. If none does, the client's connection is closed and
/// the client retries, as with any API server that restarts.
async fn pass_on(mut client: TcpStream, candidates: Vec<SocketAddr>, health: &Health) {
    for address in &candidates {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(mut server)) => {
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                tokio::select! {
                    ended = copy_bidirectional(&mut client, &mut server) => {
                        if let Err(error) = ended {
                            debug!(%address, %error, "a connection to the API was interrupted");
                        }
                    }
                    // Closed, so that the client reconnects to a server that works.
                    () = health.replaceable(*address) => {}
                }
                return;
            }
            Ok(Err(error)) => debug!(%address, %error, "no API server"),
            Err(_) => debug!(%address, "no answer from the API server"),
        }
        health.missed(*address);
    }
}

#[cfg(test)]
mod tests;
