//! The life of a node's agent: boot, steady state, and the end.
//!
//! ```text
//! learns      who this instance is, from EC2                              who
//! boots       prepares the host, founds or joins, settles the cluster     boot, settling
//! stays       keeps the node and, as leader, the cluster                  steady, renewal
//! leaves      when the machine is about to end                            decommission
//! starts over when its cluster was abandoned                              abandoned
//! ```
//!
//! Throughout, [`api_servers`] tracks which API servers there are.

mod abandoned;
pub mod api_servers;
mod boot;
mod decommission;
mod observing;
pub mod renewal;
mod settling;
mod steady;
mod who;

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;
use tracing::info;

use crate::{
    config::Settings,
    decide::Judge,
    error::Result,
    identity::Identity,
    plan,
    ports::{ApiHealth, MachineFacts, World},
    report::Reporter,
    runner::Runner,
};

pub use observing::observe_with_evidence;
pub use steady::End;
pub use who::{remember_name, who_am_i};

/// One node's agent: its settings, its identity, and what it works with.
#[derive(Clone)]
pub struct Agent {
    /// The user's settings, merged over the defaults.
    pub settings: Arc<Settings>,
    /// This instance's identity.
    pub me: Arc<Identity>,
    /// The machine it runs on.
    pub machine: Arc<MachineFacts>,
    /// The ports through which it acts.
    pub world: World,
    /// How it decides whether to found or to join.
    pub judge: Judge,
    /// Carries out its plans.
    pub runner: Arc<Runner>,
    /// Reports to people and programs.
    pub reporter: Arc<Reporter>,
    /// The control planes' addresses, for the node's API balancer.
    pub api_servers: watch::Sender<Vec<SocketAddr>>,
    /// Which API servers are ready, as far as the balancer knows.
    pub api_health: Arc<dyn ApiHealth>,
}

impl Agent {
    /// Runs until the machine ends or the node has lost its cluster.
    pub async fn live(&self) -> Result<()> {
        let begun = self.world.clock.now();
        let summary = self.boot().await?;
        if summary.done == 0 {
            info!("nothing to do: all {} phases hold", summary.held);
        } else {
            let took = self.world.clock.now().duration_since(begun);
            info!(
                DURATION_MS = u64::try_from(took.as_millis()).unwrap_or(0),
                "the node is Ready: {} phases carried out, {} held already, in {} s",
                summary.done,
                summary.held,
                took.as_secs()
            );
        }
        match self.stay().await {
            End::Notice(notice) => self.leave(&notice).await,
            End::Abandoned(why) => {
                return Err(self.start_over(&why, &plan::removal::start_over()).await);
            }
        }
        // No more repairs: the machine is about to end.
        std::future::pending().await
    }
}
