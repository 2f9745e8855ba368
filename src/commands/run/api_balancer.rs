//! The node's API balancer, which runs from before the agent knows its identity until the end.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::{
    adapters::balancer::{self, Health, ReadyzProbe},
    agent::api_servers,
    error::Result,
    kubernetes::paths,
    ports::Host,
};

/// The API balancer's servers, and whether it is used.
pub struct ApiBalancer {
    /// The API servers to balance over.
    pub servers: watch::Sender<Vec<SocketAddr>>,
    /// Which of them are ready.
    pub health: Arc<Health>,
    /// Whether this node uses it.
    pub wanted: watch::Sender<bool>,
}

impl ApiBalancer {
    /// On a node in use it serves at once, even if nothing else is known yet or all else fails.
    pub async fn of_this_node(host: &dyn Host) -> Self {
        // If this file cannot be read, the next step reports it.
        let in_use = api_servers::in_use(host, None).await.unwrap_or_default();
        Self {
            wanted: watch::Sender::new(in_use.is_some()),
            servers: watch::Sender::new(in_use.unwrap_or_default()),
            health: Arc::default(),
        }
    }

    /// Serves once the balancer is wanted.
    pub async fn serve(&self) -> Result<()> {
        // The sender is ours, so this cannot fail.
        let _ = self.wanted.subscribe().wait_for(|wanted| *wanted).await;
        let listener = balancer::listen().await?;
        let probe = ReadyzProbe::new(paths::CA);
        tokio::select! {
            outcome = balancer::serve(listener, self.servers.subscribe(), self.health.clone()) => outcome,
            () = self.health.watch_over(self.servers.subscribe(), &probe) => Ok(()),
        }
    }
}
