//! From first boot to a Ready node: prepares the host, decides, founds or joins.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::try_join;
use tracing::{info, warn};

use super::Agent;
use crate::{
    decide::{Agreement, Decision},
    error::{Error, Result},
    observe::{Claim, Membership, Memory, Origin, record},
    plan::{self, Phase},
    ports::Created,
    report::Stage,
    runner::Summary,
    steps::Step,
    wait::{Backoff, Notes, Probe, relay, until},
};

/// What an instance does once it has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// Found or join this cluster.
    Belong(Membership),
    /// Remove an abandoned cluster from this machine, for this reason.
    StartOver(String),
}

impl Agent {
    /// Prepares the host while it decides which cluster to found or join, then does so.
    pub async fn boot(&self) -> Result<Summary> {
        let host = plan::host(&self.settings, &self.me)?;
        self.boot_by(&host, &plan::removal::start_over(), |memory| {
            plan::cluster(&self.settings, &self.me, &self.machine, memory)
        })
        .await
    }

    /// Same with the given plans: `cluster` makes its plan once the instance has chosen its
    /// cluster, `removal` runs if that cluster was abandoned.
    pub async fn boot_by<A: Step + Serialize, B: Step + Serialize>(
        &self,
        host: &[Phase<A>],
        removal: &[Phase<B>],
        cluster: impl FnOnce(&Memory) -> Result<Vec<Phase<A>>>,
    ) -> Result<Summary> {
        let now = self.world.clock.now();
        self.reporter.stage(Stage::Working, "", now);
        let before_claim = plan::before_claim(host);
        // Starting over also needs a prepared host: kubeadm and a running containerd.
        let (prepared, belonging) = try_join!(self.runner.run(host), async {
            if let Choice::StartOver(why) = self.choose_cluster(&before_claim).await? {
                return Ok(Err(why));
            }
            let plan = cluster(&self.runner.memory().await)?;
            // Biased, so that a simulation with the same seed repeats exactly.
            tokio::select! {
                biased;
                outcome = self.runner.run(&plan) => outcome.map(Ok),
                Some(why) = self.until_abandoned() => Ok(Err(why)),
                never = self.settle_in_time() => match never {},
            }
        })?;
        match belonging {
            Ok(belonging) => Ok(Summary {
                done: prepared.done + belonging.done,
                held: prepared.held + belonging.held,
            }),
            Err(why) => Err(self.start_over(&why, removal).await),
        }
    }

    /// Observes and decides until there is a cluster to found or join. Claims nothing until the
    /// phases in `before_claim` hold: an instance that claims must be able to found.
    async fn choose_cluster(&self, before_claim: &[String]) -> Result<Choice> {
        // The adapter retries throttling by itself, so the first answer can take a while.
        self.reporter
            .message("looking for the cluster in EC2 and the store");
        let (notes, news) = Notes::new();
        let deadline = Duration::from_secs(self.settings.deadlines.peers);
        let agreement = Mutex::default();
        let choice = until(
            self.world.clock.as_ref(),
            &notes,
            Backoff::remote(deadline),
            "a cluster to found or to join",
            async || self.decide_once(&agreement, before_claim, &notes).await,
        );
        // Biased, so that a simulation with the same seed repeats exactly.
        let choice = tokio::select! {
            biased;
            chosen = choice => chosen?,
            never = relay(news, |note| self.reporter.message(note.unwrap_or_default())) => match never {},
        };
        self.reporter.message("");
        if let Choice::Belong(membership) = &choice {
            self.runner.commit_to(membership.clone()).await?;
            self.reporter.membership(membership);
        }
        Ok(choice)
    }

    async fn decide_once(
        &self,
        agreement: &Mutex<Agreement>,
        before_claim: &[String],
        notes: &Notes,
    ) -> Result<Probe<Choice>> {
        loop {
            let seen = self.observe().await?;
            if let Err(error) = self.repair_record(&seen).await {
                warn!(HINT = error.remedy(), "{}", error.one_line());
            }
            let decision = {
                let mut agreement = agreement.lock().unwrap_or_else(PoisonError::into_inner);
                (self.judge)(&self.me, &seen, &mut agreement)
            };
            let (origin, cluster_uid) = match decision {
                Decision::Claim { .. } if !self.runner.hold(before_claim) => {
                    notes.waiting_for(
                        "preparing this machine before it claims to found the cluster",
                    );
                    self.runner.until_hold(before_claim).await;
                    continue;
                }
                Decision::Claim { number, why, .. } => {
                    if self.claim(number, &why).await? == Created::AlreadyThere {
                        // While the store's lists lag, this loop would claim without a pause.
                        return Ok(Probe::NotYet(format!(
                            "claim {number} is taken; the store does not list it yet"
                        )));
                    }
                    continue;
                }
                Decision::Found { cluster_uid } => (Origin::Founded, cluster_uid),
                Decision::Join { cluster_uid, .. } => (Origin::Joined, cluster_uid),
                Decision::StartOver { why } => return Ok(Probe::Done(Choice::StartOver(why))),
                Decision::Wait { why } => return Ok(Probe::NotYet(why)),
                Decision::Refuse { why, remedy } => return Err(Error::refused(why).hint(remedy)),
            };
            return Ok(Probe::Done(Choice::Belong(Membership {
                cluster_uid,
                origin,
            })));
        }
    }

    async fn claim(&self, number: u32, why: &str) -> Result<Created> {
        let claim = Claim::new(number, &self.me.instance_id, self.world.clock.now());
        let created = record::claim(self.world.store.as_ref(), &claim).await?;
        if created == Created::Yes {
            info!("claim {number} to found the cluster is ours, because {why}");
        }
        Ok(created)
    }
}

#[cfg(test)]
mod tests;
