//! The simulated instances, the services that they call, and what the calls meet with.

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

/// EC2 knows a terminated instance for so long.
const REMEMBERED: Duration = Duration::from_hours(1);

/// An instance.
pub struct Machine {
    /// Who it is.
    pub me: Arc<Identity>,
    /// The number that its address and its name follow from.
    pub number: usize,
    /// When it was launched.
    pub launched: Duration,
    /// Its states, and since when.
    pub states: Vec<(Duration, InstanceState)>,
    /// From when on EC2 lists it.
    pub listed: Duration,
    /// From when on EC2 shows its role's tag.
    pub tagged: Duration,
    /// How long after its end EC2 still has its tags.
    pub remembered: Duration,
    /// How far its clock is ahead of the true time, in milliseconds.
    pub ahead: i64,
    /// What is on its disk.
    pub disk: BTreeMap<PathBuf, Vec<u8>>,
    /// What of etcd is on it.
    pub data: Option<Data>,
    /// Whether an API server is among its static pods.
    pub api_server: bool,
    /// Static pods that were started again, and when.
    pub started: BTreeMap<&'static str, Duration>,
    /// Whether its kubelet has what it needs.
    pub kubelet: bool,
    /// What is wrong with it from the start.
    pub flaw: Flaw,
    /// What its agent waits for, as it decided last.
    pub waits: Option<String>,
    /// What its agent remembers of Leases, as long as it runs.
    pub leases: Arc<LeaseMemory>,
    /// The agent on it.
    pub process: Process,
}

/// What may be wrong with an instance from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// It does not pass the checks before anything is done.
    Unfit,
    /// Its settings name another store than the others'.
    Astray,
}

/// The agent on an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// Not there, or between two starts.
    Off,
    /// At work since then.
    Runs(TaskId, Duration),
    /// The node is up, and it looks after it.
    Up(TaskId),
    /// It leaves its cluster, since its instance is being terminated.
    Leaves(TaskId),
    /// None, since a person brings the cluster back there.
    Restores(TaskId),
    /// It stopped for a person.
    Refused(String),
}

impl Process {
    /// The task that it is.
    pub fn task(&self) -> Option<TaskId> {
        match self {
            Self::Runs(task, _) | Self::Up(task) | Self::Leaves(task) | Self::Restores(task) => {
                Some(*task)
            }
            Self::Off | Self::Refused(_) => None,
        }
    }

    /// Whether it brings the node up or keeps it.
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
    /// What it is now.
    pub fn state(&self) -> InstanceState {
        self.states
            .last()
            .map_or(InstanceState::Pending, |(_, state)| *state)
    }

    /// Whether its system runs.
    pub fn is_on(&self) -> bool {
        use InstanceState::{Running, ShuttingDown, Stopping};
        matches!(self.state(), Running | ShuttingDown | Stopping)
    }

    /// Whether it has been stopped for so long.
    pub fn is_stopped_for(&self, time: Duration, now: Duration) -> bool {
        let last = self.states.last();
        last.is_some_and(|(since, state)| *state == InstanceState::Stopped && *since + time <= now)
    }

    /// What it is from now on.
    pub fn enter(&mut self, now: Duration, state: InstanceState) {
        self.states.push((now, state));
    }

    /// What EC2 said of it at that moment, if it still knew it so long after its end.
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
            launched: time(self.launched, 0),
            zone: self.me.zone.clone(),
            instance_type: "c7i-flex.large".to_owned(),
            tags: BTreeMap::new(),
        })
    }
}

/// A moment as a clock that is so many milliseconds ahead shows it.
pub fn time(moment: Duration, ahead: i64) -> Timestamp {
    let begin = Timestamp::from_second(BEGIN).unwrap_or_default();
    begin + moment + jiff::SignedDuration::from_millis(ahead)
}

/// What befalls an agent or its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The process ends; systemd starts it again.
    Kill,
    /// The instance is terminated; the Auto Scaling group launches another.
    Terminate,
    /// The instance is stopped and started again later, with its disk.
    Stop,
}

/// A point in the life of a founder or joiner at which a blow may fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Its claim has just been written.
    Claimed,
    /// Its membership has just been written down.
    Committed,
    /// So many of its acts of founding have just begun or ended.
    Founded(usize),
    /// The store has just learnt that the cluster exists.
    Initialized,
    /// It has just learnt that the cluster is settled.
    Settled,
    /// So many acts of joining have just begun or ended, on any instance.
    Joined(usize),
}

/// Requests that a service answers: EC2's token buckets.
pub struct Bucket {
    tokens: f64,
    since: Duration,
    most: f64,
    a_second: f64,
}

impl Bucket {
    /// A full one.
    pub fn of(most: f64, a_second: f64) -> Self {
        Self {
            tokens: most,
            since: Duration::ZERO,
            most,
            a_second,
        }
    }

    /// Takes one request's worth, if it is there.
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

/// Everything that instances share, and more than any of them knows.
pub struct Scene {
    /// What the agents run.
    pub code: Code,
    /// The true time.
    pub timeline: Timeline,
    /// All chance.
    pub dice: Dice,
    /// What goes wrong now.
    pub faults: Faults,
    /// Every instance that ever was.
    pub machines: Vec<Machine>,
    /// The store's values and since when it has them.
    pub store: BTreeMap<String, (Duration, String)>,
    /// Keys of the settled cluster that the store has lost.
    pub lost_keys: BTreeSet<String>,
    /// What the store has where nobody else looks.
    pub elsewhere: BTreeMap<String, (Duration, String)>,
    /// The clusters' etcd, by their uids.
    pub etcd: BTreeMap<String, Quorum>,
    /// What their API servers have, by name.
    pub objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// What lies where the backups are kept, by name.
    pub archive: BTreeMap<String, Vec<u8>>,
    /// The last version that an object got.
    pub versions: u64,
    /// Machines that a partition parts from the others.
    pub cut: BTreeSet<usize>,
    /// What must hold.
    pub laws: Laws,
    /// A blow at a moment.
    pub plot: Option<(Moment, Blow)>,
    /// Blows that have fallen and are yet to be felt.
    pub blows: Vec<(usize, Blow)>,
    /// How many calls EC2, the store and the API take.
    pub buckets: [Bucket; 3],
    /// What happened, for people; only where somebody asked for it.
    pub trace: Option<Vec<String>>,
    /// What happened, in numbers.
    pub counts: Counts,
}

impl Scene {
    /// Writes down what happened.
    pub fn note(&mut self, who: &str, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.trace {
            let now = self.timeline.now().as_secs_f64();
            lines.push(format!("{now:10.3} {who:<12} {}", what()));
        }
    }

    /// The same of an instance.
    pub fn note_of(&mut self, index: usize, what: impl FnOnce() -> String) {
        if self.trace.is_some() {
            let who = self.machines[index].me.instance_id.clone();
            self.note(&who, what);
        }
    }

    /// Whether a moment is the one at which a blow falls, and if so lets it fall.
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

    /// What EC2 lists, as well as it knows.
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

    /// What EC2 knows of these, whose tags may be gone.
    pub fn list_by_ids(&mut self, ids: &[&str]) -> Vec<Instance> {
        let moment = self.ec2_moment();
        let machines = self.machines.iter();
        let asked = machines.filter(|m| ids.contains(&m.me.instance_id.as_str()));
        asked.filter_map(|m| m.shown(moment, REMEMBERED)).collect()
    }

    /// The moment that an answer of EC2 is of.
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

    /// The moment that an answer of the store is of.
    pub fn store_moment(&mut self) -> Duration {
        let now = self.timeline.now();
        if self.dice.chance(self.faults.stale_store) {
            now.saturating_sub(self.dice.up_to(self.faults.store_lag))
        } else {
            now
        }
    }
}

/// The scene, for as long as the guard lives. All run in one thread, so it is never waited for.
pub fn lock(scene: &Mutex<Scene>) -> MutexGuard<'_, Scene> {
    scene.lock().unwrap_or_else(PoisonError::into_inner)
}
