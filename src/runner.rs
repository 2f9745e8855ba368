//! Carries out phases: in parallel if `after` allows, each checked, applied, verified, journaled.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use crate::{
    error::{Error, Kind, Result},
    journal::{Entry, Journal},
    observe::{Membership, Memory, SettledRecord},
    plan::Phase,
    ports::World,
    steps::{State, Step},
    wait::{
        Notes, relay,
        schedules::{DOUBTFUL_PHASE, PHASE},
        within,
    },
};

/// How long all attempts must end with the same error before it is final. This is for errors that
/// a person must fix unless they pass.
const AGREEMENT: Duration = Duration::from_mins(5);

/// The state of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum PhaseState {
    /// Not started.
    Pending,
    /// Under way.
    Running {
        /// Since when.
        since: Timestamp,
        /// What it waits for, if it has said so.
        waiting_for: Option<String>,
    },
    /// Found to hold; nothing was done.
    Held,
    /// Carried out and verified.
    Done {
        /// How long that took.
        duration_ms: u64,
    },
    /// It has failed, and this run does not retry it.
    Failed {
        /// Why, on one line.
        error: String,
    },
}

impl PhaseState {
    /// Whether phases that come after it may start.
    pub fn holds(&self) -> bool {
        matches!(self, Self::Held | Self::Done { .. })
    }
}

/// All phases known so far, in the order of their plans.
pub type Progress = Vec<(String, PhaseState)>;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Phases carried out.
    pub done: usize,
    /// Phases found to hold.
    pub held: usize,
}

/// Carries out plans on one host.
///
/// Several plans may run at once and name each other's phases in `after`.
pub struct Runner {
    world: World,
    journal: Mutex<Journal>,
    progress: watch::Sender<Progress>,
}

impl Runner {
    /// A runner that continues this journal.
    pub fn new(world: World, journal: Journal) -> Self {
        Self {
            world,
            journal: Mutex::new(journal),
            progress: watch::Sender::new(Vec::new()),
        }
    }

    /// A receiver of every phase's state and its changes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The cluster that this instance has chosen, if any.
    pub async fn membership(&self) -> Option<Membership> {
        self.journal.lock().await.membership.clone()
    }

    /// What this instance remembers of its cluster.
    pub async fn memory(&self) -> Memory {
        self.journal.lock().await.memory()
    }

    /// Writes down that this instance's cluster is settled; ignores another cluster's record.
    pub async fn remember(&self, settled: SettledRecord) -> Result<()> {
        let mut journal = self.journal.lock().await;
        let membership = journal.membership.as_ref();
        let is_ours = membership.is_some_and(|m| m.cluster_uid == settled.cluster_uid());
        if !is_ours || journal.settled.is_some() {
            return Ok(());
        }
        let mut next = journal.clone();
        next.settled = Some(settled);
        next.save(self.world.host.as_ref()).await?;
        *journal = next;
        Ok(())
    }

    /// Writes down the cluster that this instance chose, before anything is done for it.
    pub async fn commit_to(&self, membership: Membership) -> Result<()> {
        let mut journal = self.journal.lock().await;
        if journal.membership.as_ref() == Some(&membership) {
            return Ok(());
        }
        let mut next = journal.clone();
        let settled = next.settled.take();
        next.settled = settled.filter(|s| s.cluster_uid() == membership.cluster_uid);
        next.membership = Some(membership);
        next.save(self.world.host.as_ref()).await?;
        *journal = next;
        Ok(())
    }

    /// Whether all phases of these names hold.
    pub fn hold(&self, names: &[String]) -> bool {
        all_hold(&self.progress.borrow(), names)
    }

    /// Waits until all phases of these names hold.
    pub async fn until_hold(&self, names: &[String]) {
        let mut progress = self.progress.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = progress
            .wait_for(|progress| all_hold(progress, names))
            .await;
    }

    /// Changes the journal, also on disk; writes nothing if nothing changes.
    pub async fn change_journal(&self, change: impl FnOnce(&mut Journal)) -> Result<()> {
        let mut journal = self.journal.lock().await;
        let mut next = journal.clone();
        change(&mut next);
        if next == *journal {
            return Ok(());
        }
        next.save(self.world.host.as_ref()).await?;
        *journal = next;
        Ok(())
    }

    /// Carries out a plan. Returns on the first phase that fails.
    pub async fn run<A>(&self, phases: &[Phase<A>]) -> Result<Summary>
    where
        A: Step + Serialize,
    {
        self.progress.send_modify(|progress| {
            for phase in phases {
                match progress.iter_mut().find(|(name, _)| *name == phase.name) {
                    Some((_, state)) => *state = PhaseState::Pending,
                    None => progress.push((phase.name.clone(), PhaseState::Pending)),
                }
            }
        });
        let mut under_way: FuturesUnordered<_> =
            phases.iter().map(|phase| self.carry_out(phase)).collect();
        let mut summary = Summary::default();
        while let Some(outcome) = under_way.next().await {
            match outcome? {
                PhaseState::Held => summary.held += 1,
                _ => summary.done += 1,
            }
        }
        Ok(summary)
    }

    async fn carry_out<A: Step + Serialize>(&self, phase: &Phase<A>) -> Result<PhaseState> {
        self.until_hold(&phase.after).await;
        let begun = self.world.clock.now();
        let running = |waiting_for| PhaseState::Running {
            since: begun,
            waiting_for,
        };
        self.set(&phase.name, running(None));
        let (notes, news) = Notes::new();
        let last = news.clone();
        let limit = Duration::from_secs(phase.deadline_seconds);
        let work = self.check_apply_verify(phase, &notes, begun);
        let outcome = tokio::select! {
            biased;
            outcome = within(self.world.clock.as_ref(), limit, work) => outcome.unwrap_or_else(|| {
                let reason = last.borrow().clone();
                let reason = reason.map(|reason| format!(", waiting for {reason}"));
                Err(Error::failed(format!(
                    "gave up after {} s{}",
                    phase.deadline_seconds,
                    reason.unwrap_or_default()
                )))
            }),
            never = relay(news, |note| self.set(&phase.name, running(note))) => match never {},
        };
        match outcome {
            Ok(state) => {
                self.set(&phase.name, state.clone());
                Ok(state)
            }
            Err(error) => {
                let error = error.during(format!("phase {}", phase.name));
                self.set(
                    &phase.name,
                    PhaseState::Failed {
                        error: error.one_line(),
                    },
                );
                Err(error)
            }
        }
    }

    /// Checks; if the state differs, applies and verifies; retries after errors that may pass by
    /// themselves.
    ///
    /// By the schedule [`PHASE`] until the phase's deadline; after an error that a person must fix
    /// unless it passes by [`DOUBTFUL_PHASE`], until it is clear that it does not.
    async fn check_apply_verify<A: Step + Serialize>(
        &self,
        phase: &Phase<A>,
        notes: &Notes,
        begun: Timestamp,
    ) -> Result<PhaseState> {
        let inputs = inputs_of(&phase.step)?;
        let mut pauses = PHASE.pauses();
        let mut applied = false;
        let mut doubt = Doubt::default();
        loop {
            let error = match self
                .attempt(phase, notes, begun, &inputs, &mut applied)
                .await
            {
                Ok(()) => break,
                Err(error) => doubt.settle(error, self.world.clock.elapsed())?,
            };
            pauses.follow(match error.kind() {
                Kind::Doubtful => DOUBTFUL_PHASE,
                _ => PHASE,
            });
            warn!(
                PHASE = phase.name,
                HINT = error.remedy(),
                "{}: retrying, because {}",
                phase.name,
                error.one_line()
            );
            notes.waiting_for(format!("another attempt, because {}", error.one_line()));
            let clock = self.world.clock.as_ref();
            clock.sleep(pauses.next(clock)).await;
        }
        let now = self.world.clock.now();
        self.enter(
            &phase.name,
            Entry {
                inputs,
                begun,
                held: Some(now),
            },
        )
        .await?;
        if !applied {
            return Ok(PhaseState::Held);
        }
        let duration_ms = u64::try_from(now.duration_since(begun).as_millis()).unwrap_or(0);
        info!(
            PHASE = phase.name,
            DURATION_MS = duration_ms,
            "{}: done in {duration_ms} ms",
            phase.name
        );
        Ok(PhaseState::Done { duration_ms })
    }

    async fn attempt<A: Step + Serialize>(
        &self,
        phase: &Phase<A>,
        notes: &Notes,
        begun: Timestamp,
        inputs: &str,
        applied: &mut bool,
    ) -> Result<()> {
        let State::Differs(what) = phase.step.check(&self.world).await? else {
            return Ok(());
        };
        if !*applied {
            info!(PHASE = phase.name, "{}: start, because {what}", phase.name);
            self.enter(
                &phase.name,
                Entry {
                    inputs: inputs.to_owned(),
                    begun,
                    held: None,
                },
            )
            .await?;
            *applied = true;
        }
        phase.step.apply(&self.world, notes).await?;
        match phase.step.check(&self.world).await? {
            State::AsWanted => Ok(()),
            State::Differs(what) => Err(Error::failed(format!(
                "it was carried out, but its check still finds: {what}"
            ))),
        }
    }

    /// Records an entry, unless the same one held before: a run that changes nothing writes nothing.
    async fn enter(&self, name: &str, entry: Entry) -> Result<()> {
        let mut journal = self.journal.lock().await;
        if let Some(before) = journal.phases.get(name)
            && before.held.is_some()
            && entry.held.is_some()
            && before.inputs == entry.inputs
        {
            return Ok(());
        }
        journal.phases.insert(name.to_owned(), entry);
        journal.save(self.world.host.as_ref()).await
    }

    fn set(&self, name: &str, state: PhaseState) {
        self.progress.send_modify(|progress| {
            if let Some((_, there)) = progress.iter_mut().find(|(n, _)| n == name) {
                *there = state;
            }
        });
    }
}

fn all_hold(progress: &Progress, names: &[String]) -> bool {
    let holds = |name| progress.iter().any(|(n, state)| n == name && state.holds());
    names.iter().all(holds)
}

/// Since when all attempts have ended with the same error that a person must fix unless it passes.
#[derive(Default)]
struct Doubt(Option<(String, Duration)>);

impl Doubt {
    /// `Ok` with the error if another attempt may help, else `Err` with the final error.
    fn settle(&mut self, error: Error, now: Duration) -> Result<Error> {
        match error.kind() {
            Kind::Failed => {
                self.0 = None;
                return Ok(error);
            }
            Kind::Doubtful => {}
            Kind::Refused | Kind::Usage => return Err(error),
        }
        let line = error.one_line();
        let since = match &self.0 {
            Some((same, since)) if *same == line => *since,
            _ => now,
        };
        self.0 = Some((line, since));
        let agreed = now.saturating_sub(since);
        if agreed < AGREEMENT {
            return Ok(error);
        }
        let text = format!("every attempt for {} s failed", agreed.as_secs());
        Err(error.for_a_person().during(text))
    }
}

fn inputs_of(step: &impl Serialize) -> Result<String> {
    let form = serde_json::to_vec(step)
        .map_err(|cause| Error::failed("cannot serialize a phase's inputs").because(&cause))?;
    Ok(hex::encode(Sha256::digest(form)))
}

#[cfg(test)]
mod tests;
