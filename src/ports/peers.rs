//! Other control planes, as seen on the network.

use std::net::SocketAddr;

use async_trait::async_trait;

/// The machines that EC2 lists as control planes, contacted without credentials.
#[async_trait]
pub trait Peers: Send + Sync {
    /// Whether the server at this address shows the certificate of a cluster's API server within a
    /// few seconds; false if it does not answer.
    async fn shows_a_cluster(&self, server: SocketAddr) -> bool;
}

/// The API servers as this node's balancer sees them.
pub trait ApiHealth: Send + Sync {
    /// How many of the servers have definitely failed.
    fn dead(&self) -> usize;
    /// Whether servers are known and definitely none of them is ready.
    fn all_dead(&self) -> bool;
}

/// A machine without a balancer, of which nothing is known.
pub struct NoBalancer;

impl ApiHealth for NoBalancer {
    fn dead(&self) -> usize {
        0
    }

    fn all_dead(&self) -> bool {
        false
    }
}
