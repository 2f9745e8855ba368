//! The simulated instances, the services that they call, and the faults of those calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Code, Counts,
    etcd::{Data, Quorum},
    executor::{TaskId, Timeline},
    faults::{Dice, Faults},
    laws::Laws,
};
use crate::{
    identity::Identity,
    ports::{Instance, InstanceState, LeaseMemory},
};

/// When every simulation begins: 2026-11-23T12:00:00Z.
const BEGIN: i64 = 1_795_435_200;

/// The IAM role of every instance, and its instance profile.
pub const ROLE: &str = "node";

/// How long EC2 lists a terminated instance.
const REMEMBERED: Duration = Duration::from_hours(1);

/// An instance.
pub struct Machine {
    /// Who it is.
    pub me: Arc<Identity>,
    /// The number that its address and its name are derived from.
    pub number: usize,
    /// When it was launched.
    pub launched: Duration,
    /// Its states, each with the time when it began.
    pub states: Vec<(Duration, InstanceState)>,
    /// When EC2 begins to list it.
    pub listed: Duration,
    /// When EC2 begins to show the tag with its role.
    pub tagged: Duration,
    /// How long after its termination EC2 still has its tags.
    pub remembered: Duration,
    /// How far its clock is ahead of the true time, in milliseconds.
    pub ahead: i64,
    /// The files on its disk.
    pub disk: BTreeMap<PathBuf, Vec<u8>>,
    /// etcd's data on its disk.
    pub data: Option<Data>,
    /// Whether an API server is among its static pods.
    pub api_server: bool,
    /// Static pods that were restarted, and when.
    pub started: BTreeMap<&'static str, Duration>,
    /// Whether its kubelet has what it needs.
    pub kubelet: bool,
    /// Its defect from launch on.
    pub flaw: Flaw,
    /// What its agent waits for, from its last decision.
    pub waits: Option<String>,
    /// What its agent reports to a person while it keeps running.
    pub reports: Option<String>,
    /// What its agent remembers of Leases while it runs.
    pub leases: Arc<LeaseMemory>,
    /// The agent on it.
    pub process: Process,
}

/// A defect that an instance has from launch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// It fails the preflight checks.
    Unfit,
    /// Its settings name a different store.
    Astray,
}

/// The agent on an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// Not running, or between two starts.
    Off,
    /// Bringing up the node since this time.
    Runs(TaskId, Duration),
    /// The node is up, and the agent maintains it.
    Up(TaskId),
    /// Leaving the cluster, because the instance is being terminated.
    Leaves(TaskId),
    /// Not running, because a person restores the cluster there.
    Restores(TaskId),
    /// Stopped for a person, with its reason.
    Refused(String),
}

impl Process {
    /// The task that runs the process.
    pub fn task(&self) -> Option<TaskId> {
        match self {
            Self::Runs(task, _) | Self::Up(task) | Self::Leaves(task) | Self::Restores(task) => {
                Some(*task)
            }
            Self::Off | Self::Refused(_) => None,
        }
    }

    /// Whether it brings the node up or maintains it.
    pub fn is_at_work(&self) -> bool {
        matches!(self, Self::Runs(..) | Self::Up(_))
    }

    /// Whether the node is up.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.me.instance_id, self.me.role)
    }
}

impl Machine {
    /// Its true state now, which EC2 may not show yet.
    pub fn state(&self) -> InstanceState {
        self.states
            .last()
            .map_or(InstanceState::Pending, |(_, state)| *state)
    }

    /// Whether its operating system runs.
    pub fn is_on(&self) -> bool {
        use InstanceState::{Running, ShuttingDown, Stopping};
        matches!(self.state(), Running | ShuttingDown | Stopping)
    }

    /// Whether it has been stopped for at least this time.
    pub fn is_stopped_for(&self, time: Duration, now: Duration) -> bool {
        let last = self.states.last();
        last.is_some_and(|(since, state)| *state == InstanceState::Stopped && *since + time <= now)
    }

    /// Whether it is stopped, and was stopped for the first time at least this long ago.
    pub fn was_stopped_before(&self, time: Duration, now: Duration) -> bool {
        let mut states = self.states.iter();
        let first = states.find(|(_, state)| *state == InstanceState::Stopped);
        self.state() == InstanceState::Stopped
            && first.is_some_and(|(since, _)| *since + time <= now)
    }

    /// Enters a state now.
    pub fn enter(&mut self, now: Duration, state: InstanceState) {
        self.states.push((now, state));
    }

    /// What EC2 showed of it at that moment; `None` if EC2 no longer listed it then.
    fn shown(&self, moment: Duration, remembered: Duration) -> Option<Instance> {
        let (since, state) = *self
            .states
            .iter()
            .rev()
            .find(|(since, _)| *since <= moment)?;
        let forgotten = state == InstanceState::Terminated && since + remembered <= moment;
        if moment < self.listed || forgotten {
            return None;
        }
        Some(Instance {
            id: self.me.instance_id.clone(),
            state,
            role: (moment >= self.tagged).then_some(self.me.role),
            private_ip: (state != InstanceState::Terminated).then_some(self.me.private_ip),
            public_ip: None,
            private_dns_name: (state != InstanceState::Terminated)
                .then(|| self.me.node_name.clone()),
            profile: (state != InstanceState::Terminated).then(|| ROLE.to_owned()),
            launched: time(self.launched, 0),
            zone: self.me.zone.clone(),
            instance_type: "c7i-flex.large".to_owned(),
            tags: BTreeMap::new(),
        })
    }
}

/// A moment as shown by a clock that is `ahead` milliseconds ahead.
pub fn time(moment: Duration, ahead: i64) -> Timestamp {
    let begin = Timestamp::from_second(BEGIN).unwrap_or_default();
    begin + moment + jiff::SignedDuration::from_millis(ahead)
}

/// A failure of an agent or its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The process ends; systemd restarts it.
    Kill,
    /// The instance is terminated; the Auto Scaling group launches another.
    Terminate,
    /// The instance is stopped and started again later, with its disk.
    Stop,
}

/// A point in the life of a founder or joiner at which a failure may be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Its claim has just been written.
    Claimed,
    /// Its membership has just been written to the journal.
    Committed,
    /// This many of its acts of founding have just begun or ended.
    Founded(usize),
    /// The store has just recorded the cluster as initialized.
    Initialized,
    /// The store has just recorded the cluster as settled.
    Settled,
    /// This many acts of joining have just begun or ended, on any instance.
    Joined(usize),
}

/// A token bucket that limits a service's requests, as EC2's do.
pub struct Bucket {
    tokens: f64,
    since: Duration,
    most: f64,
    a_second: f64,
}

impl Bucket {
    /// A full bucket.
    pub fn of(most: f64, a_second: f64) -> Self {
        Self {
            tokens: most,
            since: Duration::ZERO,
            most,
            a_second,
        }
    }

    /// Takes one token; false if there is none.
    pub fn take(&mut self, now: Duration) -> bool {
        let more = now.saturating_sub(self.since).as_secs_f64() * self.a_second;
        self.tokens = (self.tokens + more).min(self.most);
        self.since = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// The state of the whole simulation, more than any instance knows.
pub struct Scene {
    /// The code that the agents run.
    pub code: Code,
    /// The true time.
    pub timeline: Timeline,
    /// The source of all randomness.
    pub dice: Dice,
    /// The current faults.
    pub faults: Faults,
    /// Every instance that ever was.
    pub machines: Vec<Machine>,
    /// The store's values, each with the time when it was written.
    pub store: BTreeMap<String, (Duration, String)>,
    /// Keys of the settled cluster that the store has lost.
    pub lost_keys: BTreeSet<String>,
    /// The values of the store that only [`Flaw::Astray`] instances use.
    pub elsewhere: BTreeMap<String, (Duration, String)>,
    /// The clusters' etcd, by their uids.
    pub etcd: BTreeMap<String, Quorum>,
    /// The objects of their API servers, by uid and name.
    pub objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// The backups, by name.
    pub archive: BTreeMap<String, Vec<u8>>,
    /// The last resource version that was assigned.
    pub versions: u64,
    /// Machines that a partition cuts off from the others.
    pub cut: BTreeSet<usize>,
    /// The laws, and the true state that they are checked against.
    pub laws: Laws,
    /// A failure to inject at a moment.
    pub plot: Option<(Moment, Blow)>,
    /// Failures that were injected and not yet applied.
    pub blows: Vec<(usize, Blow)>,
    /// The token buckets of EC2, the store and the API.
    pub buckets: [Bucket; 3],
    /// What happened, for people; `None` unless a trace was requested.
    pub trace: Option<Vec<String>>,
    /// What happened, in numbers.
    pub counts: Counts,
}

impl Scene {
    /// The instance that an agent, by what it waits for or reports, asks a person to terminate.
    pub fn named_to_a_person(&self) -> Option<usize> {
        let machines = self.machines.iter();
        let waiting = machines.filter(|m| matches!(m.process, Process::Runs(..)));
        let texts = waiting.flat_map(|machine| [&machine.waits, &machine.reports]);
        let asked = texts.flatten().filter(|why| why.contains("terminate"));
        let mut words = asked.flat_map(|why| why.split([' ', ',', ':', ';']));
        words.find_map(|word| {
            let mut machines = self.machines.iter();
            machines.position(|m| m.me.instance_id == word && !m.state().is_gone())
        })
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, who: &str, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.trace {
            let now = self.timeline.now().as_secs_f64();
            lines.push(format!("{now:10.3} {who:<12} {}", what()));
        }
    }

    /// Same, for an instance.
    pub fn note_of(&mut self, index: usize, what: impl FnOnce() -> String) {
        if self.trace.is_some() {
            let who = self.machines[index].me.instance_id.clone();
            self.note(&who, what);
        }
    }

    /// Injects the planned failure if this is its moment.
    pub fn reached(&mut self, index: usize, moment: Moment) {
        if let Some((at, blow)) = self.plot
            && at == moment
        {
            self.plot = None;
            self.blows.push((index, blow));
        }
    }

    /// Whether this instance's process is about to end.
    pub fn is_doomed(&self, index: usize) -> bool {
        self.blows.contains(&(index, Blow::Kill))
    }

    /// The number of the address that the instance with this index gets.
    pub fn address_for(&mut self, index: usize) -> usize {
        if !self.dice.chance(self.faults.reuse) {
            return index;
        }
        let taken = |number| {
            let mut machines = self.machines.iter();
            machines.any(|m| m.number == number && m.state() != InstanceState::Terminated)
        };
        let free = self
            .machines
            .iter()
            .map(|m| m.number)
            .find(|number| !taken(*number));
        free.unwrap_or(index)
    }

    /// The machine that has this address now.
    pub fn living_at(&self, address: Ipv4Addr) -> Option<usize> {
        let mut machines = self.machines.iter();
        machines.position(|machine| machine.me.private_ip == address && machine.is_on())
    }

    /// What EC2 lists, which may be stale or incomplete.
    pub fn list(&mut self) -> Vec<Instance> {
        let moment = self.ec2_moment();
        let machines = self.machines.iter();
        let listed = machines.filter_map(|m| m.shown(moment, m.remembered));
        let mut listed: Vec<_> = listed.collect();
        if self.dice.chance(self.faults.incomplete)
            && let Some(missing) = self.dice.below(listed.len())
        {
            listed.remove(missing);
        }
        listed
    }

    /// What EC2 knows of these instances; their tags may be gone.
    pub fn list_by_ids(&mut self, ids: &[&str]) -> Vec<Instance> {
        let moment = self.ec2_moment();
        let machines = self.machines.iter();
        let asked = machines.filter(|m| ids.contains(&m.me.instance_id.as_str()));
        asked.filter_map(|m| m.shown(moment, REMEMBERED)).collect()
    }

    /// The moment that an answer of EC2 reflects.
    fn ec2_moment(&mut self) -> Duration {
        let now = self.timeline.now();
        if self.dice.chance(self.faults.stale_ec2) {
            now.saturating_sub(self.dice.up_to(self.faults.ec2_lag))
        } else {
            now
        }
    }

    /// The store that this instance's settings name.
    pub fn store_of(&mut self, index: usize) -> &mut BTreeMap<String, (Duration, String)> {
        if self.machines[index].flaw == Flaw::Astray {
            &mut self.elsewhere
        } else {
            &mut self.store
        }
    }

    /// The moment that an answer of the store reflects.
    pub fn store_moment(&mut self) -> Duration {
        let now = self.timeline.now();
        if self.dice.chance(self.faults.stale_store) {
            now.saturating_sub(self.dice.up_to(self.faults.store_lag))
        } else {
            now
        }
    }
}

/// Locks the scene. Everything runs in one thread, so the lock is never waited for.
pub fn lock(scene: &Mutex<Scene>) -> MutexGuard<'_, Scene> {
    scene.lock().unwrap_or_else(PoisonError::into_inner)
}
