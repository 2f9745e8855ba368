//! What happens after the cluster is settled: keys or a majority are lost, certificates expire, a
//! control plane dies or is launched.

use std::time::Duration;

use super::{Director, Event};
use crate::{
    ports::Role,
    simulate::{
        agent::{restore, take_backup},
        faults::Dice,
        laws::Law,
        place::Place,
        scene::{Blow, Flaw, Process, lock},
    },
};

/// What happens after the cluster is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// A person removes these keys of the record, counted from its end, and every agent restarts.
    LoseKeys(&'static [usize]),
    /// One more control plane is launched.
    Launch,
    /// All keys are removed, and a control plane is launched.
    LoseKeysAndLaunch,
    /// A control plane is launched with settings that name a different store.
    LaunchAstray,
    /// A control plane is terminated, and another one takes its place.
    Terminate,
    /// The majority is lost, and a person restores the cluster from a backup.
    Restore,
    /// Certificates reach the last third of their life, and processes crash meanwhile.
    Renew,
    /// All instances are off until the certificates have expired.
    SwitchOff,
}

/// One of the epilogues for half of the seeds.
pub(super) fn drawn(dice: &mut Dice) -> Option<Epilogue> {
    const ALL: &[usize] = &[0, 1, 2];
    let epilogues = [
        Epilogue::LoseKeys(&[0]),
        Epilogue::LoseKeys(&[1]),
        Epilogue::LoseKeys(&[2]),
        Epilogue::LoseKeys(ALL),
        Epilogue::Launch,
        Epilogue::LoseKeysAndLaunch,
        Epilogue::LaunchAstray,
        Epilogue::Terminate,
        Epilogue::Terminate,
        Epilogue::Terminate,
        Epilogue::Restore,
        Epilogue::Renew,
        Epilogue::SwitchOff,
    ];
    let which = dice.below(epilogues.len() * 2)?;
    epilogues.get(which).copied()
}

impl Director {
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
                // In their last third, with enough time left for all to be renewed one after the
                // other.
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

    /// Processes crash often or seldom for a while.
    pub(super) fn crash_for_a_while(&mut self) {
        {
            let mut scene = lock(&self.scene);
            let scene = &mut *scene;
            scene.faults.crash = scene.dice.one_of(&[0.0, 0.02, 0.05], 0.0);
        }
        self.plan_within(2000, Event::Steady);
    }

    /// Makes the certificates of all control planes expire at a random time between `after` and
    /// `after + within`.
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

    /// All control planes are lost, or all but one.
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

    /// A person restores the cluster on one control plane, and terminates all others that have its
    /// data.
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
        scene.laws.restored.insert(chosen);
        scene.machines[chosen].process = Process::Restores(task);
        scene.note_of(chosen, || {
            "is the machine on which a person restores the cluster".to_owned()
        });
    }

    fn lose_keys(&mut self, which: &[usize]) {
        // All agents end before any of them can look at the store, or one after the other.
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

    /// The person's attempt to take a backup has ended; next come the disaster, and crashes during
    /// the restore.
    pub(super) fn backed_up(&mut self, is_there: bool) {
        self.has_backup = is_there;
        if !is_there {
            let mut scene = lock(&self.scene);
            scene.laws.broke(Law::Convergence, "no backup can be taken");
        }
        self.crash_for_a_while();
        self.plan_within(60, Event::Disaster);
    }
}
