//! What befalls instances and their agents.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Director, Event, RESTART};
use crate::{
    ports::{InstanceState, Role},
    simulate::{
        agent::live,
        host::identity,
        place::Place,
        scene::{Blow, Machine, Process, lock},
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
            scene.machines.push(Machine {
                me: Arc::new(identity(index, id, role)),
                launched: now,
                states: vec![(now, InstanceState::Running)],
                listed,
                tagged: listed + scene.dice.up_to(scene.faults.tagged_late),
                // An hour as a rule, and sometimes hardly at all.
                remembered: Duration::from_secs(scene.dice.one_of(&[3600, 3600, 3600, 60], 3600)),
                ahead: i64::try_from(ahead).unwrap_or_default() - 2000,
                disk: BTreeMap::new(),
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
        let place = Place::new(self.scene.clone(), index);
        let life = live(place, self.code, self.settings.clone());
        let task = self.executor.spawn(life);
        self.agents.insert(task, index);
        let mut scene = lock(&self.scene);
        let now = scene.timeline.now();
        scene.machines[index].process = Process::Runs(task, now);
        scene.note_of(index, || "starts its agent".to_owned());
    }

    /// Ends the agent on an instance; whether there was one.
    pub(super) fn end_process(&mut self, index: usize) -> bool {
        let mut scene = lock(&self.scene);
        let process = std::mem::replace(&mut scene.machines[index].process, Process::Off);
        drop(scene);
        if let Process::Runs(task, _) = process {
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
            // Until then the agent works on.
            self.plan_within(seconds, event);
        } else if self.end_process(index) {
            self.plan(RESTART, Event::Start(index));
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
            scene.laws.heal(&scene.machines);
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

    pub(super) fn wipe_record(&mut self) {
        let living: Vec<usize> = {
            let mut scene = lock(&self.scene);
            scene.note("a person", || "removes the cluster's record".to_owned());
            scene.store.clear();
            let machines = scene.machines.iter().enumerate();
            let living = machines.filter(|(_, machine)| !machine.state().is_gone());
            living.map(|(index, _)| index).collect()
        };
        for index in living {
            self.plan_within(60, Event::Strike(index, Blow::Kill));
        }
        // It finds nothing in the store, unless the others were faster.
        self.plan_within(60, Event::Launch(Role::ControlPlane));
    }
}
