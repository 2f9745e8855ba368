//! The balancer of the Kubernetes API, beside everything else that the agent does.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::{
    adapters::balancer::{self, Health, ReadyzProbe},
    boot::api_servers,
    error::Result,
    kubernetes::paths,
    ports::Host,
};

/// The node's way to the API, as long as the agent runs.
pub struct Way {
    /// What it is balanced over.
    pub servers: watch::Sender<Vec<SocketAddr>>,
    /// Which of them are ready.
    pub health: Arc<Health>,
    /// Whether this node goes by it.
    pub wanted: watch::Sender<bool>,
}

impl Way {
    /// Open at once where a node is in use, whatever else is known and goes right.
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
