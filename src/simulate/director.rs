//! Lets one simulation happen: launches instances, starts their agents, lets blows fall, and
//! looks after every step whether the laws hold.

mod machines;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    Code, Counts, Size,
    executor::{Executor, Polled, TaskId, Timeline},
    faults::{Dice, Faults},
    laws::{Law, Laws, Violation},
    scene::{Blow, Bucket, Moment, Process, Scene, lock},
};
use crate::{
    config::Settings,
    error::{Kind, Result},
    ports::{InstanceState, Role},
    runner::Summary,
};

/// systemd starts an agent again after this.
const RESTART: Duration = Duration::from_secs(5);

/// Longer than all waits of one boot together may take.
const LONGEST_BOOT: Duration = Duration::from_hours(2);

/// So long after the last trouble every instance is a member.
const LONGEST_WAY: Duration = Duration::from_hours(6);

/// What happens at a moment.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The Auto Scaling group launches an instance.
    Launch(Role),
    /// The instance's agent starts.
    Start(usize),
    /// A blow falls on an instance.
    Strike(usize, Blow),
    /// A blow falls on one that the dice choose, the last claim's holder or any.
    Chance(Blow, bool),
    /// A terminated instance is gone.
    Gone(usize),
    /// A stopped instance has stopped.
    Halted(usize),
    /// A person starts a stopped instance.
    Revive(usize),
    /// Nothing goes wrong any more.
    Calm,
    /// A person removes the cluster's record from the store, and every agent starts anew.
    Wipe,
}

/// One simulation.
pub struct Director {
    scene: Arc<Mutex<Scene>>,
    executor: Executor<Result<Summary>>,
    /// Which instance's agent a task is.
    agents: BTreeMap<TaskId, usize>,
    events: BTreeMap<(Duration, u64), Event>,
    planned: u64,
    code: Code,
    settings: Arc<Settings>,
    /// When the last trouble was, once it has been.
    calm: Option<Duration>,
    /// What the person will do in the end.
    wipe: bool,
}

impl Director {
    /// The simulation of a seed.
    pub fn new(size: Size, seed: u64, code: Code, settings: Arc<Settings>, trace: bool) -> Self {
        let timeline = Timeline::default();
        let mut dice = Dice::new(seed);
        let faults = Faults::drawn(&mut dice);
        let plot = plot(&mut dice);
        let wipe = dice.chance(0.05);
        let scene = Scene {
            timeline: timeline.clone(),
            dice,
            faults,
            machines: Vec::new(),
            store: BTreeMap::new(),
            laws: Laws::default(),
            plot,
            blows: Vec::new(),
            // A hundred at once and twenty a second; forty a second.
            buckets: [Bucket::of(100.0, 20.0), Bucket::of(40.0, 40.0)],
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
            wipe,
        };
        director.open(size);
        director
    }

    /// The launches, and the blows of a few minutes.
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

    /// Within the next so many seconds.
    fn plan_within(&mut self, seconds: u64, event: Event) {
        let after = lock(&self.scene).dice.up_to(Duration::from_secs(seconds));
        self.plan(after, event);
    }

    /// Lets it happen to its end.
    pub fn play(mut self) -> (Counts, Option<Violation>, Vec<String>) {
        while self.step() {}
        let mut scene = lock(&self.scene);
        scene.counts.instances = scene.machines.len();
        scene.counts.virtual_seconds = scene.timeline.now().as_secs();
        scene.counts.lost = usize::from(scene.laws.is_lost(&scene.machines));
        let broken = scene.laws.broken.take();
        if let Some(Violation { law, what }) = &broken {
            let line = format!("VIOLATION of `{law}`: {what}");
            scene.note("law", || line);
        }
        (scene.counts, broken, scene.trace.take().unwrap_or_default())
    }

    /// One step; whether there is another one.
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
        let Some(index) = self.agents.get(&task).copied() else {
            return;
        };
        let mut scene = lock(&self.scene);
        let now = scene.timeline.now();
        let too_long = match scene.machines[index].process {
            Process::Runs(_, since) => now > since + LONGEST_BOOT,
            _ => false,
        };
        let for_ever = matches!(polled, Polled::WaitsForEver) && !scene.is_doomed(index);
        if too_long || for_ever {
            let what = format!("{} waits without an end", scene.machines[index]);
            scene.laws.broke(Law::BoundedWaits, what);
        }
        let Polled::Ended(outcome) = polled else {
            return;
        };
        self.agents.remove(&task);
        let process = match &outcome {
            Ok(_) => Process::Up,
            Err(error) if error.kind() == Kind::Failed => Process::Off,
            Err(error) => Process::Refused(error.one_line()),
        };
        scene.note_of(index, || match &outcome {
            Ok(summary) => format!("is up: {} done, {} held", summary.done, summary.held),
            Err(error) => format!("{:?}: {}", error.kind(), error.one_line()),
        });
        if let Process::Refused(why) = &process {
            let scene = &mut *scene;
            scene.counts.refusals += 1;
            scene.laws.refused(index, why, &scene.machines);
        }
        let again = process == Process::Off;
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
                    if scene.dice.chance(0.5) {
                        scene.laws.leaves(index, &scene.machines);
                    }
                    scene.machines[index].enter(now, InstanceState::Terminated);
                    scene.laws.heal(&scene.machines);
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
                    self.plan_within(60, Event::Revive(index));
                } else {
                    self.plan_within(300, Event::Revive(index));
                }
            }
            Event::Revive(index) => {
                if self.enter_if(index, InstanceState::Stopped, InstanceState::Running) {
                    self.plan_within(30, Event::Start(index));
                }
            }
            Event::Calm => {
                let mut scene = lock(&self.scene);
                scene.faults = Faults::none();
                scene.plot = None;
                scene.note("seed", || "nothing goes wrong any more".to_owned());
                self.calm = Some(scene.timeline.now());
            }
            Event::Wipe => self.wipe_record(),
        }
    }

    /// Whether all is calm and every living instance has come to its end.
    fn is_over(&mut self) -> bool {
        if self.calm.is_none() || !self.events.is_empty() {
            return false;
        }
        let mut scene = lock(&self.scene);
        if scene.laws.is_lost(&scene.machines) {
            return true;
        }
        let settled = scene.machines.iter().all(|machine| {
            machine.state().is_gone()
                || match machine.process {
                    Process::Up | Process::Refused(_) => true,
                    Process::Off | Process::Runs(..) => false,
                }
        });
        if settled {
            let scene = &mut *scene;
            scene.laws.ended(&scene.machines);
        }
        drop(scene);
        if settled && self.wipe {
            self.wipe = false;
            self.plan(Duration::ZERO, Event::Wipe);
            return false;
        }
        settled
    }

    fn stuck(&mut self) -> bool {
        let mut scene = lock(&self.scene);
        let machines = scene.machines.iter();
        let stuck: Vec<String> = machines
            .filter(|machine| !machine.state().is_gone() && machine.process != Process::Up)
            .map(|machine| format!("{machine} {:?} {:?}", machine.state(), machine.process))
            .collect();
        scene.laws.broke(Law::Convergence, stuck.join(", "));
        false
    }
}

fn blow(dice: &mut Dice) -> Blow {
    dice.one_of(&[Blow::Kill, Blow::Terminate, Blow::Stop], Blow::Kill)
}

/// For most seeds, one blow at one moment that matters.
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
