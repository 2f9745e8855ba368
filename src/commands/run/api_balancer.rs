//! The node's balancer of the Kubernetes API, from before the agent knows who it is to its end.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::{
    adapters::balancer::{self, Health, ReadyzProbe},
    agent::api_servers,
    error::Result,
    kubernetes::paths,
    ports::Host,
};

/// What the balancer serves, and whether.
pub struct ApiBalancer {
    /// The API servers that it balances over.
    pub servers: watch::Sender<Vec<SocketAddr>>,
    /// Which of them are ready.
    pub health: Arc<Health>,
    /// Whether this node uses it.
    pub wanted: watch::Sender<bool>,
}

impl ApiBalancer {
    /// Serves at once where a node is in use, whatever else is known and goes right.
    pub async fn of_this_node(host: &dyn Host) -> Self {
        // Who may not read that is told so by what comes next.
        let in_use = api_servers::in_use(host, None).await.unwrap_or_default();
        Self {
            wanted: watch::Sender::new(in_use.is_some()),
            servers: watch::Sender::new(in_use.unwrap_or_default()),
            health: Arc::default(),
        }
    }

    /// Serves it from the moment when it is wanted.
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
