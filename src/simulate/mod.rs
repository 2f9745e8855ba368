//! Whole clusters on a virtual clock: the proof that a cluster founds itself exactly once.
//!
//! Each instance runs the agent's own code: observing, deciding, the journal, the runner, the step
//! that joins a cluster and the service that admits it, leader tasks, healing and leaving.
//! Simulated are EC2, the store, etcd, the Kubernetes API, the instances' disks, kubeadm and the
//! work of founding; the seed decides when they delay, throttle, lag, lose answers, are partitioned
//! and crash. After every step the laws are checked against the true state.
//!
//! ```text
//! director     launches instances, starts agents, injects failures
//!   executor     one task per agent, one thread, a clock that jumps
//!   scene        the instances and the services that they call
//!     faults       what goes wrong, drawn from the seed
//!     laws         what must hold
//!   agent        the real one, in a place of the scene
//!     place        how a call ends
//!     services     EC2, the store, the clock
//!     etcd         members, votes, data on disks
//!     cluster      the Kubernetes API on top of them
//!     joining      admission, and kubeadm
//!     certificates what kubeadm signs, and pods that read it
//!     backups      where they are kept, and the programs of a restore
//!     host, absent the disk, and the ports that no simulated agent needs
//!     acts         the phases
//! ```

mod absent;
mod acts;
mod agent;
mod backups;
mod certificates;
mod cluster;
mod director;
mod etcd;
mod executor;
mod faults;
mod host;
mod joining;
mod laws;
mod place;
mod scene;
mod services;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use serde::Serialize;
use tracing::subscriber::{NoSubscriber, with_default};

pub use laws::{Law, Violation};

use crate::{
    config::{self, Settings},
    decide::{self, Agreement, Decision},
    error::Result,
    identity::Identity,
    observe::Observation,
    ports::World,
};

/// How many instances are launched at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Candidates to found the cluster.
    pub control_planes: usize,
    /// Instances that only join.
    pub workers: usize,
}

/// What happened, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Instances that were launched.
    pub instances: usize,
    /// Claims that were written.
    pub claims: usize,
    /// Claims that followed another one.
    pub takeovers: usize,
    /// Processes that were killed.
    pub crashes: usize,
    /// Instances that were terminated.
    pub terminations: usize,
    /// Instances that were stopped.
    pub stops: usize,
    /// Agents that stopped for a person.
    pub refusals: usize,
    /// Nodes that started over because their cluster was abandoned.
    pub started_over: usize,
    /// Settled clusters that permanently lost their majority.
    pub lost: usize,
    /// Members of dead instances that were removed from etcd.
    pub healed: usize,
    /// Static pods that were restarted for a renewed certificate.
    pub pods_started: usize,
    /// Lost clusters that a person restored from a backup.
    pub restored: usize,
    /// Keys of a settled cluster's record that were written again after a person removed them.
    pub rewritten: usize,
    /// Instances that a person terminated because another one asked for it.
    pub helped: usize,
    /// Duration on the virtual clock, in seconds.
    pub virtual_seconds: u64,
    #[serde(skip)]
    acts_of_founding: usize,
    #[serde(skip)]
    acts_of_joining: usize,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.instances += other.instances;
        self.claims += other.claims;
        self.takeovers += other.takeovers;
        self.crashes += other.crashes;
        self.terminations += other.terminations;
        self.stops += other.stops;
        self.refusals += other.refusals;
        self.started_over += other.started_over;
        self.lost += other.lost;
        self.healed += other.healed;
        self.pods_started += other.pods_started;
        self.restored += other.restored;
        self.rewritten += other.rewritten;
        self.helped += other.helped;
        self.virtual_seconds += other.virtual_seconds;
        self.acts_of_founding += other.acts_of_founding;
        self.acts_of_joining += other.acts_of_joining;
    }
}

/// The parts of the agent's code that tests can replace by broken ones.
#[derive(Clone, Copy)]
struct Code {
    judge: fn(&Identity, &Observation, &mut Agreement) -> Decision,
    /// The world of an agent that brings up its node, or leaves.
    ports: fn(World) -> World,
    /// The world of a join service.
    service: fn(World) -> World,
    /// The world of a control plane's leader tasks.
    duties: fn(World) -> World,
}

impl Default for Code {
    /// The code as an instance runs it.
    fn default() -> Self {
        Self {
            judge: decide::judge,
            ports: |world| world,
            service: |world| world,
            duties: |world| world,
        }
    }
}

/// The outcome of one seed.
#[derive(Debug, Clone)]
pub struct Played {
    /// Determines everything that happens: the same seed plays the same again.
    pub seed: u64,
    /// What happened, in numbers.
    pub counts: Counts,
    /// The broken law, if any.
    pub violation: Option<Violation>,
    /// What happened, one line per event; empty unless a trace was requested.
    pub trace: Vec<String>,
}

impl Played {
    /// The report on a broken law: the seed, the law, the last lines of the trace.
    pub fn report(&self, lines: usize) -> String {
        let broken = self.violation.as_ref().map_or_else(
            || "no law is broken".to_owned(),
            |violation| format!("it breaks the law `{}`: {}", violation.law, violation.what),
        );
        let begin = self.trace.len().saturating_sub(lines);
        let end = self.trace[begin..].join("\n");
        format!("seed {}: {broken}\n{end}", self.seed)
    }
}

/// Simulations of one size.
pub struct Simulation {
    size: Size,
    settings: Arc<Settings>,
    code: Code,
}

impl Simulation {
    /// Simulations of clusters of this size, with the default settings.
    pub fn new(size: Size) -> Result<Self> {
        let mut settings = config::load(&[])?;
        settings.certificates.lifetime = certificates::LIFETIME.as_secs();
        Ok(Self {
            size,
            settings: Arc::new(settings),
            code: Code::default(),
        })
    }

    /// Plays one seed.
    pub fn play(&self, seed: u64, trace: bool) -> Played {
        let (code, settings) = (self.code, self.settings.clone());
        // Keeps the logs of the simulated agents out of this machine's journal.
        let (counts, violation, trace) = with_default(NoSubscriber::default(), || {
            director::Director::new(self.size, seed, code, settings, trace).play()
        });
        Played {
            seed,
            counts,
            violation,
            trace,
        }
    }

    /// Plays seeds on all processors until a law is broken. Returns how many were played, the sum
    /// of their counts, and the first seed that broke a law, with its trace.
    pub fn play_all(&self, seeds: Range<u64>) -> (u64, Counts, Option<Played>) {
        let next = AtomicU64::new(seeds.start);
        let end = AtomicU64::new(seeds.end);
        let sum = Mutex::new((0, Counts::default(), None::<u64>));
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end.load(Ordering::Relaxed) {
                            return;
                        }
                        let played = self.play(seed, false);
                        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                        sum.0 += 1;
                        sum.1.add(&played.counts);
                        if played.violation.is_some() {
                            // Smaller seeds are still played, so that the first broken one is
                            // found.
                            end.fetch_min(seed, Ordering::Relaxed);
                            sum.2 = Some(sum.2.map_or(seed, |other| other.min(seed)));
                        }
                    }
                });
            }
        });
        let (played, counts, broken) = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        (played, counts, broken.map(|seed| self.play(seed, true)))
    }
}

#[cfg(test)]
mod tests;
