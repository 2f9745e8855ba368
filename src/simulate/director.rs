//! Runs one simulation: launches instances, starts their agents, injects failures, and checks the
//! laws after every step.

mod epilogue;
mod machines;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use self::epilogue::Epilogue;
use super::{
    Code, Counts, Size,
    executor::{Executor, Polled, TaskId, Timeline},
    faults::{Dice, Faults},
    laws::{Law, Laws, Violation},
    scene::{Blow, Bucket, Moment, Process, Scene, lock},
    services::{EC2, STORE},
};
use crate::{
    config::Settings,
    error::{Kind, Result},
    ports::{InstanceState, Role},
    runner::Summary,
};

/// systemd restarts an agent after this time.
const RESTART: Duration = Duration::from_secs(5);

/// Longer than all waits of one boot may take together.
const LONGEST_BOOT: Duration = Duration::from_hours(2);

/// If the store lags by more than this, agents may refuse.
const AGREED: Duration = Duration::from_mins(3);

/// How long after the last fault a person looks for agents that still wait.
const PERSON: Duration = Duration::from_hours(1);

/// How long after the last fault every instance must be a member.
const LONGEST_WAY: Duration = Duration::from_hours(6);

/// What happens at one point in time.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The Auto Scaling group launches an instance.
    Launch(Role),
    /// The instance's agent starts.
    Start(usize),
    /// An agent or its instance fails.
    Strike(usize, Blow),
    /// A randomly chosen one fails; if `true`, that of the holder of the last claim.
    Chance(Blow, bool),
    /// A shutting-down instance becomes terminated.
    Gone(usize),
    /// A stopping instance becomes stopped.
    Halted(usize),
    /// A person starts a stopped instance.
    Revive(usize),
    /// A partition cuts some machines off from the others.
    Part,
    /// The partition ends.
    Meet,
    /// From now on there are no faults.
    Calm,
    /// A service refuses all calls from now on.
    Deny(usize),
    /// It answers again.
    Allow,
    /// A machine's clock is set forward or back.
    Step,
    /// A person reads what agents wait for, and does it.
    Person,
    /// All control planes are lost, or all but one.
    Disaster,
    /// A person restores a lost cluster.
    Restore,
    /// From now on no process crashes.
    Steady,
}

/// One simulation.
pub struct Director {
    scene: Arc<Mutex<Scene>>,
    executor: Executor<Result<Summary>>,
    /// The index of the instance whose agent each task runs.
    agents: BTreeMap<TaskId, usize>,
    events: BTreeMap<(Duration, u64), Event>,
    planned: u64,
    code: Code,
    settings: Arc<Settings>,
    /// When the last fault ended; `None` until then.
    calm: Option<Duration>,
    /// What happens once all is well.
    epilogue: Option<Epilogue>,
    /// How long a stopped instance stays off during the epilogue.
    off_for: Duration,
    /// Whether certificates must be renewed before the simulation ends.
    renews: bool,
    /// The task that takes a backup for a person.
    backing_up: Option<TaskId>,
    /// Whether a lost cluster has a backup that a person can restore.
    has_backup: bool,
    /// The index of the instance that fails its preflight checks, in launch order.
    pub(super) unfit: Option<usize>,
}

impl Director {
    /// The simulation of a seed.
    pub fn new(size: Size, seed: u64, code: Code, settings: Arc<Settings>, trace: bool) -> Self {
        let timeline = Timeline::default();
        let mut dice = Dice::new(seed);
        let faults = Faults::drawn(&mut dice);
        let plot = plot(&mut dice);
        let epilogue = epilogue::drawn(&mut dice);
        let unfit = dice
            .chance(0.1)
            .then(|| dice.below(size.control_planes))
            .flatten();
        let scene = Scene {
            code,
            timeline: timeline.clone(),
            dice,
            faults,
            machines: Vec::new(),
            store: BTreeMap::new(),
            lost_keys: BTreeSet::new(),
            elsewhere: BTreeMap::new(),
            etcd: BTreeMap::new(),
            objects: BTreeMap::new(),
            archive: BTreeMap::new(),
            versions: 0,
            cut: BTreeSet::new(),
            laws: Laws {
                store_lags: faults.stale_store > 0.0 && faults.store_lag > AGREED,
                ..Laws::default()
            },
            plot,
            blows: Vec::new(),
            // EC2: a burst of 100, then 20 a second. Store: 40 a second. API: unlimited in
            // practice.
            buckets: [
                Bucket::of(100.0, 20.0),
                Bucket::of(40.0, 40.0),
                Bucket::of(1e6, 1e6),
            ],
            trace: trace.then(Vec::new),
            counts: Counts::default(),
        };
        let mut director = Self {
            scene: Arc::new(Mutex::new(scene)),
            executor: Executor::new(timeline),
            agents: BTreeMap::new(),
            events: BTreeMap::new(),
            planned: 0,
            code,
            settings,
            calm: None,
            epilogue,
            off_for: Duration::ZERO,
            renews: false,
            backing_up: None,
            has_backup: false,
            unfit: unfit.filter(|_| size.control_planes > 1),
        };
        director.open(size);
        director
    }

    /// Plans the launches, and the failures of the first minutes.
    fn open(&mut self, size: Size) {
        let roles = [
            (Role::ControlPlane, size.control_planes),
            (Role::Worker, size.workers),
        ];
        let mut events = Vec::new();
        {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            let spread = Duration::from_secs(scene.dice.one_of(&[0, 1, 60], 0));
            for (role, count) in roles {
                for _ in 0..count {
                    events.push((scene.dice.up_to(spread), Event::Launch(role)));
                }
            }
            let span = Duration::from_secs(scene.dice.one_of(&[40, 100, 300], 40));
            for _ in 0..scene.dice.one_of(&[0, 1, 4], 0) {
                let blow = blow(&mut scene.dice);
                let founder = scene.dice.chance(0.5);
                events.push((scene.dice.up_to(span), Event::Chance(blow, founder)));
            }
            if scene.dice.chance(0.2) {
                events.push((scene.dice.up_to(span), Event::Part));
            }
            if scene.dice.chance(0.2) {
                let service = scene.dice.one_of(&[EC2, STORE], EC2);
                events.push((scene.dice.up_to(span), Event::Deny(service)));
            }
            if scene.dice.chance(0.3) {
                events.push((scene.dice.up_to(span), Event::Step));
            }
            if scene.dice.chance(0.2) {
                let late = Duration::from_secs(scene.dice.one_of(&[200, 2000], 200));
                events.push((scene.dice.up_to(late), Event::Launch(Role::ControlPlane)));
            }
            events.push((span, Event::Calm));
            let faults = scene.faults;
            scene.note("seed", || format!("{faults:?}"));
        }
        for (after, event) in events {
            self.plan(after, event);
        }
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.planned += 1;
        let moment = lock(&self.scene).timeline.now() + after;
        self.events.insert((moment, self.planned), event);
    }

    /// Plans an event at a random time within the next `seconds`.
    fn plan_within(&mut self, seconds: u64, event: Event) {
        let after = lock(&self.scene).dice.up_to(Duration::from_secs(seconds));
        self.plan(after, event);
    }

    /// Runs the simulation to its end.
    pub fn play(mut self) -> (Counts, Option<Violation>, Vec<String>) {
        while self.step() {}
        let mut scene = lock(&self.scene);
        scene.counts.instances = scene.machines.len();
        scene.counts.virtual_seconds = scene.timeline.now().as_secs();
        scene.counts.lost = usize::from(scene.is_lost());
        let broken = scene.laws.broken.take();
        if let Some(Violation { law, what }) = &broken {
            let line = format!("VIOLATION of `{law}`: {what}");
            scene.note("law", || line);
        }
        (scene.counts, broken, scene.trace.take().unwrap_or_default())
    }

    /// Runs one step; returns whether there is another one.
    fn step(&mut self) -> bool {
        let blows = std::mem::take(&mut lock(&self.scene).blows);
        for (index, blow) in blows {
            self.strike(index, blow);
        }
        if lock(&self.scene).laws.broken.is_some() {
            return false;
        }
        if let Some((task, polled)) = self.executor.poll_next() {
            self.polled(task, polled);
            return true;
        }
        if self.is_over() {
            return false;
        }
        let event = self.events.first_key_value().map(|(key, _)| *key);
        let timer = self.executor.next_timer();
        let Some(next) = timer.into_iter().chain(event.map(|key| key.0)).min() else {
            return self.stuck();
        };
        if self.calm.is_some_and(|calm| next > calm + LONGEST_WAY) {
            return self.stuck();
        }
        self.executor.advance_to(next);
        if let Some(key) = event.filter(|key| key.0 <= next)
            && let Some(event) = self.events.remove(&key)
        {
            self.happens(event);
        }
        true
    }

    fn polled(&mut self, task: TaskId, polled: Polled<Result<Summary>>) {
        if self.backing_up == Some(task)
            && let Polled::Ended(outcome) = &polled
        {
            self.backing_up = None;
            return self.backed_up(outcome.is_ok());
        }
        let Some(index) = self.agents.get(&task).copied() else {
            return;
        };
        let mut scene = lock(&self.scene);
        let now = scene.timeline.now();
        let too_long = match scene.machines[index].process {
            Process::Runs(_, since) => now > since + LONGEST_BOOT,
            _ => false,
        };
        let for_ever = matches!(polled, Polled::WaitsForEver)
            && matches!(scene.machines[index].process, Process::Runs(..))
            && !scene.is_doomed(index);
        if too_long || for_ever {
            let what = format!("{} waits without a deadline", scene.machines[index]);
            scene.laws.broke(Law::BoundedWaits, what);
        }
        let Polled::Ended(outcome) = polled else {
            return;
        };
        self.agents.remove(&task);
        let leaves = matches!(scene.machines[index].process, Process::Leaves(_));
        let restores = matches!(scene.machines[index].process, Process::Restores(_));
        let process = match &outcome {
            Ok(_) => Process::Off,
            Err(error) if error.kind() == Kind::Failed => Process::Off,
            Err(error) => Process::Refused(error.one_line()),
        };
        scene.note_of(index, || match &outcome {
            Ok(_) => "has ended".to_owned(),
            Err(error) => format!("{:?}: {}", error.kind(), error.one_line()),
        });
        if restores {
            let done = outcome.is_ok();
            if done {
                scene.laws.restoring.remove(&index);
            }
            scene.machines[index].process = Process::Off;
            drop(scene);
            // If the restore failed, the person tries again.
            let next = if done {
                Event::Start(index)
            } else {
                Event::Restore
            };
            return self.plan(RESTART, next);
        }
        if let Process::Refused(why) = &process {
            let scene = &mut *scene;
            scene.counts.refusals += 1;
            let is_lost = scene.is_lost();
            scene.laws.refused(index, why, is_lost, &scene.machines);
        }
        let again = process == Process::Off && !leaves;
        scene.machines[index].process = process;
        drop(scene);
        if again {
            self.plan(RESTART, Event::Start(index));
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Launch(role) => self.launch(role),
            Event::Start(index) => self.start(index),
            Event::Strike(index, blow) => self.strike(index, blow),
            Event::Chance(blow, founder) => {
                if let Some(index) = self.chosen(founder) {
                    self.strike(index, blow);
                }
            }
            Event::Gone(index) => {
                let role = {
                    let mut scene = lock(&self.scene);
                    let scene = &mut *scene;
                    let now = scene.timeline.now();
                    scene.machines[index].enter(now, InstanceState::Terminated);
                    scene.note_of(index, || "is terminated".to_owned());
                    scene.machines[index].me.role
                };
                self.end_process(index);
                self.plan_within(90, Event::Launch(role));
            }
            Event::Halted(index) => {
                self.enter_if(index, InstanceState::Stopping, InstanceState::Stopped);
                self.end_process(index);
                if self.calm.is_some() {
                    let late = lock(&self.scene).dice.up_to(Duration::from_mins(1));
                    self.plan(self.off_for + late, Event::Revive(index));
                } else {
                    let longest = lock(&self.scene).dice.one_of(&[300, 300, 2000], 300);
                    self.plan_within(longest, Event::Revive(index));
                }
            }
            Event::Revive(index) => {
                if self.enter_if(index, InstanceState::Stopped, InstanceState::Running) {
                    self.plan_within(30, Event::Start(index));
                }
            }
            Event::Part => self.part(),
            Event::Meet => lock(&self.scene).cut.clear(),
            Event::Calm => {
                let mut scene = lock(&self.scene);
                scene.faults = Faults {
                    reuse: scene.faults.reuse,
                    ..Faults::none()
                };
                scene.plot = None;
                scene.cut.clear();
                scene.note("seed", || "the faults have ended".to_owned());
                self.calm = Some(scene.timeline.now());
                drop(scene);
                self.restart_refused();
                self.plan(PERSON, Event::Person);
            }
            Event::Deny(service) => {
                lock(&self.scene).faults.denied = Some(service);
                self.plan_within(400, Event::Allow);
            }
            Event::Allow => lock(&self.scene).faults.denied = None,
            Event::Step => self.step_clock(),
            Event::Person => self.person(),
            Event::Disaster => self.disaster(),
            Event::Restore => self.restore(),
            Event::Steady => lock(&self.scene).faults.crash = 0.0,
        }
    }

    /// Whether the faults are over and every living instance has reached its final state.
    fn is_over(&mut self) -> bool {
        let person = |event: &Event| matches!(event, Event::Person);
        let busy = self.backing_up.is_some() || !self.events.values().all(person);
        if self.calm.is_none() || busy {
            return false;
        }
        let mut scene = lock(&self.scene);
        if scene.is_lost() {
            let mut machines = scene.machines.iter();
            let restores = machines.any(|m| matches!(m.process, Process::Restores(_)));
            drop(scene);
            if self.has_backup && !restores {
                self.plan_within(60, Event::Restore);
            }
            return !self.has_backup;
        }
        let settled = scene.machines.iter().all(|machine| {
            machine.state().is_gone()
                || match machine.process {
                    Process::Up(_) | Process::Refused(_) => true,
                    Process::Off
                    | Process::Runs(..)
                    | Process::Leaves(_)
                    | Process::Restores(_) => false,
                }
        });
        let settled = settled && scene.is_whole() && (!self.renews || scene.is_renewed());
        if settled {
            let scene = &mut *scene;
            scene.laws.ended(&scene.machines);
            if self.has_backup && !scene.has_written() {
                let what = "what somebody wrote before the backup is not there";
                scene.laws.broke(Law::NothingLost, what);
            }
        }
        drop(scene);
        if settled && let Some(epilogue) = self.epilogue.take() {
            self.calm = Some(lock(&self.scene).timeline.now());
            self.end_with(epilogue);
            return false;
        }
        settled
    }

    fn stuck(&mut self) -> bool {
        let mut scene = lock(&self.scene);
        let machines = scene.machines.iter();
        let mut stuck: Vec<String> = machines
            .filter(|machine| !machine.state().is_gone() && !machine.process.is_up())
            .map(|machine| format!("{machine} {:?} {:?}", machine.state(), machine.process))
            .collect();
        if stuck.is_empty() && self.renews && !scene.is_renewed() {
            stuck.push("certificates are not renewed".to_owned());
        }
        if stuck.is_empty() {
            stuck.push(format!(
                "members or Nodes of dead instances are still there: {:?}",
                scene.etcd
            ));
        }
        scene.laws.broke(Law::Convergence, stuck.join(", "));
        false
    }
}

fn blow(dice: &mut Dice) -> Blow {
    dice.one_of(&[Blow::Kill, Blow::Terminate, Blow::Stop], Blow::Kill)
}

/// For most seeds, one failure at one critical moment.
fn plot(dice: &mut Dice) -> Option<(Moment, Blow)> {
    let act = dice.below(9)?;
    let moment = match dice.below(8)? {
        0 => Moment::Claimed,
        1 => Moment::Committed,
        2 => Moment::Founded(act),
        3 | 4 => Moment::Initialized,
        5 => Moment::Joined(act),
        6 => Moment::Settled,
        _ => return None,
    };
    Some((moment, blow(dice)))
}
