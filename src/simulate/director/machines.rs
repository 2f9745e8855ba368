//! What befalls instances and their agents.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Director, Epilogue, Event, RESTART};
use crate::{
    ports::{InstanceState, Role},
    simulate::{
        agent::{leave, live, restore, take_backup},
        host::identity,
        place::Place,
        scene::{Blow, Flaw, Machine, Process, lock},
    },
};

impl Director {
    pub(super) fn launch(&mut self, role: Role) {
        let index = {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            let now = scene.timeline.now();
            let index = scene.machines.len();
            let id = format!("i-{:08x}", scene.dice.number());
            let listed = now + scene.dice.up_to(scene.faults.listed_late);
            let ahead = scene.dice.up_to(Duration::from_secs(4)).as_millis();
            let number = scene.address_for(index);
            scene.machines.push(Machine {
                me: Arc::new(identity(number, id, role)),
                number,
                launched: now,
                states: vec![(now, InstanceState::Running)],
                listed,
                tagged: listed + scene.dice.up_to(scene.faults.tagged_late),
                // An hour as a rule, and sometimes hardly at all.
                remembered: Duration::from_secs(scene.dice.one_of(&[3600, 3600, 3600, 60], 3600)),
                ahead: i64::try_from(ahead).unwrap_or_default() - 2000,
                disk: BTreeMap::new(),
                data: None,
                api_server: false,
                started: BTreeMap::new(),
                kubelet: false,
                flaw: if self.unfit == Some(index) {
                    Flaw::Unfit
                } else {
                    Flaw::None
                },
                waits: None,
                leases: Arc::default(),
                process: Process::Off,
            });
            scene.note_of(index, || format!("is launched as {role}"));
            index
        };
        self.plan_within(5, Event::Start(index));
    }

    pub(super) fn start(&mut self, index: usize) {
        let runs = {
            let scene = lock(&self.scene);
            let machine = &scene.machines[index];
            let can = matches!(
                machine.state(),
                InstanceState::Running | InstanceState::ShuttingDown | InstanceState::Stopping
            );
            !can || machine.process != Process::Off
        };
        if runs {
            return;
        }
        lock(&self.scene).machines[index].leases = Arc::default();
        let place = Place::new(self.scene.clone(), index);
        let life = live(place, self.code, self.settings.clone());
        let task = self.executor.spawn(life);
        self.agents.insert(task, index);
        let mut scene = lock(&self.scene);
        let now = scene.timeline.now();
        scene.machines[index].process = Process::Runs(task, now);
        scene.note_of(index, || "starts its agent".to_owned());
    }

    /// The agent hears that its instance is being terminated.
    fn leave(&mut self, index: usize) {
        let belongs = lock(&self.scene).laws.memberships.contains_key(&index);
        if !self.end_process(index) || !belongs {
            return;
        }
        let place = Place::new(self.scene.clone(), index);
        let task = self.executor.spawn(leave(place, self.code));
        self.agents.insert(task, index);
        let mut scene = lock(&self.scene);
        scene.machines[index].process = Process::Leaves(task);
        scene.note_of(index, || "leaves".to_owned());
    }

    /// Some of the machines cannot speak to the others for a while.
    pub(super) fn part(&mut self) {
        {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            for index in 0..scene.machines.len() {
                if scene.dice.chance(0.4) {
                    scene.cut.insert(index);
                }
            }
            let cut = &scene.cut;
            let line = format!("{cut:?} are parted from the others");
            scene.note("seed", || line);
        }
        self.plan_within(300, Event::Meet);
    }

    /// Ends the agent on an instance; whether there was one.
    pub(super) fn end_process(&mut self, index: usize) -> bool {
        let mut scene = lock(&self.scene);
        let process = std::mem::replace(&mut scene.machines[index].process, Process::Off);
        drop(scene);
        if let Some(task) = process.task() {
            self.agents.remove(&task);
            self.executor.kill(task);
        }
        process != Process::Off
    }

    pub(super) fn strike(&mut self, index: usize, blow: Blow) {
        let next = {
            let mut scene = lock(&self.scene);
            let now = scene.timeline.now();
            let state = scene.machines[index].state();
            if blow != Blow::Kill && state != InstanceState::Running {
                return;
            }
            scene.note_of(index, || format!("is struck: {blow:?}"));
            match blow {
                Blow::Kill => {
                    scene.counts.crashes += 1;
                    None
                }
                Blow::Terminate => {
                    scene.counts.terminations += 1;
                    scene.machines[index].enter(now, InstanceState::ShuttingDown);
                    Some((scene.dice.one_of(&[1, 40], 40), Event::Gone(index)))
                }
                Blow::Stop => {
                    scene.counts.stops += 1;
                    scene.machines[index].enter(now, InstanceState::Stopping);
                    Some((40, Event::Halted(index)))
                }
            }
        };
        if let Some((seconds, event)) = next {
            // Until then the agent works on, or takes its leave.
            self.plan_within(seconds, event);
            let hears = blow == Blow::Terminate && lock(&self.scene).dice.chance(0.5);
            if hears {
                self.leave(index);
            }
        } else {
            let scene = lock(&self.scene);
            let restored = matches!(scene.machines[index].process, Process::Restores(_));
            drop(scene);
            if self.end_process(index) {
                self.plan(RESTART, Event::Start(index));
            }
            if restored {
                self.plan_within(60, Event::Restore);
            }
        }
    }

    pub(super) fn enter_if(
        &mut self,
        index: usize,
        from: InstanceState,
        to: InstanceState,
    ) -> bool {
        let mut scene = lock(&self.scene);
        let now = scene.timeline.now();
        let is = scene.machines[index].state() == from;
        if is {
            let scene = &mut *scene;
            scene.machines[index].enter(now, to);
            scene.note_of(index, || format!("is {to:?}"));
        }
        is
    }

    /// An instance that the dice choose among the living.
    pub(super) fn chosen(&self, founder: bool) -> Option<usize> {
        let mut scene = lock(&self.scene);
        let holder = scene.laws.claims.last().map(|(index, _)| *index);
        if founder && holder.is_some() {
            return holder;
        }
        let living: Vec<usize> = (0..scene.machines.len())
            .filter(|index| !scene.machines[*index].state().is_gone())
            .collect();
        let index = scene.dice.below(living.len())?;
        living.get(index).copied()
    }

    /// A clock is set by minutes, forward or back.
    pub(super) fn step_clock(&mut self) {
        let mut scene = lock(&self.scene);
        let scene = &mut *scene;
        let Some(index) = scene.dice.below(scene.machines.len()) else {
            return;
        };
        let minutes = scene.dice.one_of(&[-60, -10, -2, 2, 10, 60], 2);
        scene.machines[index].ahead += minutes * 60_000;
        scene.note_of(index, || format!("its clock is set by {minutes} minutes"));
    }

    /// A person starts the agents again that stopped for one, since what they stopped for is
    /// over.
    pub(super) fn restart_refused(&mut self) {
        let refused: Vec<usize> = {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            let machines = scene.machines.iter_mut().enumerate();
            let refused = machines.filter(|(_, m)| matches!(m.process, Process::Refused(_)));
            let may = refused.filter(|(_, m)| m.flaw == Flaw::None);
            may.map(|(index, machine)| {
                machine.process = Process::Off;
                index
            })
            .collect()
        };
        for index in refused {
            self.plan_within(60, Event::Start(index));
        }
    }

    /// A person reads what agents wait for, and terminates the instance that one of them names.
    pub(super) fn person(&mut self) {
        let named = {
            let mut scene = lock(&self.scene);
            let waiting = scene
                .machines
                .iter()
                .filter(|m| matches!(m.process, Process::Runs(..)));
            let whys = waiting.filter_map(|machine| machine.waits.as_deref());
            let asked = whys.filter(|why| why.contains("terminate"));
            let mut words = asked.flat_map(|why| why.split([' ', ',', ':', ';']));
            let index = words.find_map(|word| {
                let mut machines = scene.machines.iter();
                machines.position(|m| m.me.instance_id == word && !m.state().is_gone())
            });
            if let Some(index) = index {
                scene.counts.helped += 1;
                scene.note_of(index, || "is terminated by a person".to_owned());
            }
            index
        };
        if let Some(index) = named {
            self.strike(index, Blow::Terminate);
        }
        self.plan(Duration::from_mins(20), Event::Person);
    }

    pub(super) fn end_with(&mut self, epilogue: Epilogue) {
        match epilogue {
            Epilogue::LoseKeys(which) => self.lose_keys(which),
            Epilogue::Launch => self.launch(Role::ControlPlane),
            Epilogue::LoseKeysAndLaunch => {
                self.lose_keys(&[0, 1, 2]);
                self.launch(Role::ControlPlane);
            }
            Epilogue::Terminate => {
                let index = {
                    let mut scene = lock(&self.scene);
                    let scene = &mut *scene;
                    let machines = scene.machines.iter().enumerate();
                    let serving = machines.filter(|(_, m)| m.data.is_some() && m.is_on());
                    let serving: Vec<usize> = serving.map(|(index, _)| index).collect();
                    let chosen = scene.dice.below(serving.len());
                    chosen.and_then(|chosen| serving.get(chosen).copied())
                };
                if let Some(index) = index {
                    self.strike(index, Blow::Terminate);
                }
            }
            Epilogue::Restore => self.back_up(),
            Epilogue::Renew => {
                // In their last third, and not over before each has had its turn.
                self.certificates_end(Duration::from_mins(100), Duration::from_mins(95));
                lock(&self.scene).laws.renews_in_turn = true;
                self.crash_for_a_while();
            }
            Epilogue::SwitchOff => {
                self.certificates_end(Duration::ZERO, Duration::from_mins(20));
                let all = lock(&self.scene).machines.len();
                self.off_for = Duration::from_hours(1);
                for index in 0..all {
                    self.strike(index, Blow::Stop);
                }
            }
            Epilogue::LaunchAstray => {
                self.launch(Role::ControlPlane);
                if let Some(machine) = lock(&self.scene).machines.last_mut() {
                    machine.flaw = Flaw::Astray;
                }
            }
        }
    }

    /// Processes crash often or seldom, in the end.
    pub(super) fn crash_for_a_while(&mut self) {
        {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            scene.faults.crash = scene.dice.one_of(&[0.0, 0.02, 0.05], 0.0);
        }
        self.plan_within(2000, Event::Steady);
    }

    /// The certificates of all control planes end, not before this time and within the other one.
    fn certificates_end(&mut self, after: Duration, within: Duration) {
        self.renews = true;
        let mut scene = lock(&self.scene);
        for index in 0..scene.machines.len() {
            let machine = &scene.machines[index];
            let data = machine.data.as_ref().map(|data| &data.uid);
            let belongs = data.is_some() && data == scene.laws.settled.as_ref();
            if belongs && !machine.state().is_gone() {
                let end = after + scene.dice.up_to(within);
                scene.issue(index, end);
            }
        }
    }

    /// A person takes a backup on a control plane that has etcd's data.
    fn back_up(&mut self) {
        let index = {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            let machines = scene.machines.iter().enumerate();
            let serving = machines.filter(|(_, m)| m.data.is_some() && m.process.is_up());
            let serving: Vec<usize> = serving.map(|(index, _)| index).collect();
            let chosen = scene.dice.below(serving.len());
            chosen.and_then(|chosen| serving.get(chosen).copied())
        };
        let Some(index) = index else { return };
        lock(&self.scene).write_something(index);
        let place = Place::new(self.scene.clone(), index);
        let task = self.executor.spawn(take_backup(place));
        self.backing_up = Some(task);
    }

    /// All control planes are lost, or all but one; somebody has written something before.
    pub(super) fn disaster(&mut self) {
        let serving: Vec<usize> = {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            let machines = scene.machines.iter().enumerate();
            let serving = machines.filter(|(_, m)| m.data.is_some() && m.is_on());
            let serving: Vec<usize> = serving.map(|(index, _)| index).collect();
            let spared = usize::from(serving.len() > 2 && scene.dice.chance(0.5));
            serving.into_iter().skip(spared).collect()
        };
        for index in serving {
            self.strike(index, Blow::Terminate);
        }
    }

    /// A person brings the cluster back on one control plane, and terminates what else has data
    /// of it.
    pub(super) fn restore(&mut self) {
        let (chosen, others, force) = {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            let machines = scene.machines.iter().enumerate();
            let living =
                machines.filter(|(_, m)| m.me.role == Role::ControlPlane && !m.state().is_gone());
            let living: Vec<usize> = living.map(|(index, _)| index).collect();
            let begun = living.iter().find(|i| scene.laws.restoring.contains(i));
            let settled = scene.laws.settled.clone().unwrap_or_default();
            let has_data = |index: &&usize| {
                let data = scene.machines[**index].data.as_ref();
                data.is_some_and(|data| data.uid == settled)
            };
            let able = |index: &&usize| {
                let machine = &scene.machines[**index];
                let uid = scene.cluster_of(**index);
                machine.is_on() && machine.flaw == Flaw::None && (uid.is_empty() || uid == settled)
            };
            let best = living.iter().filter(able).find(has_data);
            let chosen = begun.or(best).or(living.iter().find(able)).copied();
            let others: Vec<usize> = living
                .iter()
                .filter(has_data)
                .copied()
                .filter(|index| Some(*index) != chosen)
                .collect();
            (chosen, others, living.len() > 1)
        };
        for index in &others {
            self.strike(*index, Blow::Terminate);
        }
        let Some(chosen) = chosen.filter(|_| others.is_empty()) else {
            return self.plan(Duration::from_mins(2), Event::Restore);
        };
        if let Process::Restores(_) = lock(&self.scene).machines[chosen].process {
            return;
        }
        self.end_process(chosen);
        let place = Place::new(self.scene.clone(), chosen);
        let task = self
            .executor
            .spawn(restore(place, self.code, self.settings.clone(), force));
        self.agents.insert(task, chosen);
        let mut scene = lock(&self.scene);
        let scene = &mut *scene;
        scene.laws.restoring.insert(chosen);
        scene.laws.brought_back.insert(chosen);
        scene.machines[chosen].process = Process::Restores(task);
        scene.note_of(chosen, || "is where a person restores".to_owned());
    }

    fn lose_keys(&mut self, which: &[usize]) {
        // All agents end before one of them can look, or one after the other.
        let (living, seconds): (Vec<usize>, u64) = {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            let number = scene
                .laws
                .claims
                .last()
                .map_or(0, |(_, claim)| claim.number);
            let keys = [
                format!("founder/{}", number + 1),
                format!("initialized/{number}"),
                format!("founder/{number}"),
            ];
            for key in which.iter().filter_map(|which| keys.get(*which)) {
                scene.store.remove(key);
                scene.lost_keys.insert(key.clone());
                scene.note("a person", || format!("removes {key}"));
            }
            let machines = scene.machines.iter().enumerate();
            let living = machines.filter(|(_, machine)| machine.process.is_up());
            let living = living.map(|(index, _)| index).collect();
            (living, scene.dice.one_of(&[0, 60], 60))
        };
        for index in living {
            self.plan_within(seconds, Event::Strike(index, Blow::Kill));
        }
    }
}
