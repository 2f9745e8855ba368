//! How a node gets from an abandoned cluster to the next one.
//!
//! A cluster that is not settled depends on its founder. If the founder is lost, the other nodes
//! remove the cluster from their machines and decide as if they had never joined. They forget the
//! membership last, so that after any interruption the next start comes to the same result.

use serde::Serialize;
use tracing::{info, warn};

use super::Agent;
use crate::{
    decide::{Agreement, Decision},
    error::Error,
    journal::Journal,
    observe::Origin,
    plan::Phase,
    steps::Step,
    wait::schedules::UNSETTLED,
};

impl Agent {
    /// Returns why this node's cluster was abandoned, once several observations agree that it was;
    /// `None` once the node remembers that its cluster is settled. Reports a conflict that only a
    /// person can resolve.
    pub async fn until_abandoned(&self) -> Option<String> {
        let mut agreement = Agreement::default();
        loop {
            let memory = self.runner.memory().await;
            if memory.settled.is_some() {
                self.report_conflict(None);
                return None;
            }
            let origin = memory.membership?.origin;
            // Other loops report what is wrong with EC2 or the store.
            if let Ok(seen) = self.observe().await {
                let _ = self.repair_record(&seen).await;
                // A founder only waits to see that its cluster is settled.
                if origin == Origin::Joined {
                    match (self.judge)(&self.me, &seen, &mut agreement) {
                        Decision::StartOver { why } => return Some(why),
                        Decision::Refuse { why, remedy } => {
                            self.report_conflict(Some(Error::refused(why).hint(remedy)));
                        }
                        _ => self.report_conflict(None),
                    }
                }
            }
            if self.runner.memory().await.settled.is_none() {
                self.world.clock.sleep(UNSETTLED).await;
            }
        }
    }

    /// The agent keeps running meanwhile: without it the node would lose its API balancer.
    fn report_conflict(&self, conflict: Option<Error>) {
        let told = conflict.as_ref().map(|error| {
            let remedy = error.remedy().unwrap_or_default();
            format!("{}: {remedy}", error.one_line())
        });
        if let Some(error) = conflict
            && self.reporter.subscribe().borrow().conflict != told
        {
            warn!(HINT = error.remedy(), "{}", error.one_line());
        }
        self.reporter.conflict(told);
    }

    /// Removes the cluster from this machine, then forgets it. The returned error ends the agent;
    /// its next start decides again.
    pub async fn start_over<A>(&self, why: &str, removal: &[Phase<A>]) -> Error
    where
        A: Step + Serialize,
    {
        warn!("{why}: this node starts over");
        self.reporter.message(format!("starting over: {why}"));
        for phase in removal {
            if let Err(error) = self.runner.run(std::slice::from_ref(phase)).await {
                return error.during("cannot start over");
            }
        }
        match Journal::forget(self.world.host.as_ref()).await {
            Ok(()) => {
                info!("all data of that cluster is removed from this node");
                Error::failed(format!(
                    "{why}: its data is removed from this node; the agent decides again at its next start"
                ))
            }
            Err(error) => error.during("cannot start over"),
        }
    }
}

#[cfg(test)]
mod tests;
