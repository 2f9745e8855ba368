//! One observation of EC2, the store and the other control planes, and what is recorded from it.

use tracing::warn;

use super::{Agent, api_servers};
use crate::{
    decide::rests_on_absence,
    error::Result,
    identity::Identity,
    observe::{self, Memory, Observation, Settled, evidence, record},
    ports::{Role, World},
};

/// Observes EC2 and the store, and the control planes themselves if the decision depends on there
/// being no cluster.
pub async fn observe_with_evidence(
    world: &World,
    me: &Identity,
    memory: Memory,
    join_port: u16,
) -> Result<Observation> {
    let mut seen = observe::observe(world, me, memory).await?;
    if rests_on_absence(me, &seen) {
        seen.evidence = evidence::gather(world, me, &seen, join_port).await;
    }
    Ok(seen)
}

impl Agent {
    /// Observes, and passes the control planes that it saw to the API balancer.
    pub async fn observe(&self) -> Result<Observation> {
        let memory = self.runner.memory().await;
        let seen =
            observe_with_evidence(&self.world, &self.me, memory, self.settings.join.port).await?;
        if let Some(membership) = &seen.membership
            && seen.settled.is_none()
            && let Some(settled) = seen.record.settled_record(&membership.cluster_uid)
        {
            self.runner.remember(settled).await?;
        }
        let servers = api_servers::seen(&self.me, &seen);
        let news = self.api_servers.send_if_modified(|known| {
            // Better a stale list than none: EC2's answers can be incomplete for a moment.
            let news = !servers.is_empty() && *known != servers;
            if news {
                known.clone_from(&servers);
            }
            news
        });
        if news {
            api_servers::remember(self.world.host.as_ref(), &servers).await?;
        }
        Ok(seen)
    }

    /// Completes the store's record of this control plane's cluster: writes lost keys of a settled
    /// cluster again, and settles a cluster that works without its founder.
    pub async fn repair_record(&self, seen: &Observation) -> Result<()> {
        let Some(membership) = &seen.membership else {
            return Ok(());
        };
        if self.me.role != Role::ControlPlane {
            return Ok(());
        }
        let store = self.world.store.as_ref();
        let Some(settled) = seen.settled.as_ref() else {
            if seen.evidence.api {
                let settled = Settled {
                    cluster_uid: membership.cluster_uid.clone(),
                    instance: self.me.instance_id.clone(),
                    time: self.world.clock.now(),
                };
                record::settle(store, &settled).await?;
            }
            return Ok(());
        };
        let written = record::write_again(store, &seen.record, settled).await?;
        if written > 0 {
            warn!(
                "wrote {written} keys of cluster {} again that the store had lost",
                settled.cluster_uid()
            );
        }
        Ok(())
    }
}
