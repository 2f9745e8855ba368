//! What happens to instances and their agents.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Director, Event, RESTART};
use crate::{
    ports::{InstanceState, Role},
    simulate::{
        agent::{leave, live},
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
                // Usually an hour, sometimes only a minute.
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
                reports: None,
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
        {
            let machine = &mut lock(&self.scene).machines[index];
            machine.leases = Arc::default();
            machine.reports = None;
        }
        let place = Place::new(self.scene.clone(), index);
        let life = live(place, self.code, self.settings.clone());
        let task = self.executor.spawn(life);
        self.agents.insert(task, index);
        let mut scene = lock(&self.scene);
        let now = scene.timeline.now();
        scene.machines[index].process = Process::Runs(task, now);
        scene.note_of(index, || "starts its agent".to_owned());
    }

    /// The agent learns that its instance is being terminated.
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

    /// Cuts some machines off from the others for a while.
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
            let line = format!("a partition cuts {cut:?} off from the others");
            scene.note("seed", || line);
        }
        self.plan_within(300, Event::Meet);
    }

    /// Ends the agent on an instance; returns whether there was one.
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
            scene.note_of(index, || format!("fails: {blow:?}"));
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
            // Until then the agent works on, or leaves the cluster.
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

    /// A random live instance; with `founder` the holder of the last claim, if there is one.
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

    /// Sets a random machine's clock forward or back by minutes.
    pub(super) fn step_clock(&mut self) {
        let mut scene = lock(&self.scene);
        let scene = &mut *scene;
        let Some(index) = scene.dice.below(scene.machines.len()) else {
            return;
        };
        let minutes = scene.dice.one_of(&[-60, -10, -2, 2, 10, 60], 2);
        scene.machines[index].ahead += minutes * 60_000;
        scene.note_of(index, || format!("its clock steps by {minutes} minutes"));
    }

    /// A person restarts the agents that stopped for one: the causes are over.
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

    /// A person reads what agents wait for or report, and terminates the instance that one of them
    /// names.
    pub(super) fn person(&mut self) {
        let named = {
            let mut scene = lock(&self.scene);
            let named = scene.named_to_a_person();
            if let Some(index) = named {
                scene.counts.helped += 1;
                scene.note_of(index, || "is terminated by a person".to_owned());
            }
            named
        };
        if let Some(index) = named {
            self.strike(index, Blow::Terminate);
        }
        self.plan(Duration::from_mins(20), Event::Person);
    }
}
