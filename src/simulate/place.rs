//! The scene as one instance sees it: calls that take time and may fail.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use super::{
    executor::{TaskId, Timeline},
    scene::{Blow, Process, Scene, lock},
};
use crate::{
    error::{Error, Result},
    identity::Identity,
    ports::World,
    runner::Summary,
};

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Throttled,
    Lost,
    CrashBefore,
    CrashAfter,
}

/// The scene as one instance sees it.
#[derive(Clone)]
pub struct Place {
    scene: Arc<Mutex<Scene>>,
    /// The instance's index in [`Scene::machines`].
    pub index: usize,
    timeline: Timeline,
    /// The process that this view belongs to; `None` if it is the instance's current one.
    process: Option<TaskId>,
}

impl Place {
    /// The view of this instance.
    pub fn new(scene: Arc<Mutex<Scene>>, index: usize) -> Self {
        let timeline = lock(&scene).timeline.clone();
        Self {
            scene,
            index,
            timeline,
            process: None,
        }
    }

    /// The scene as another instance's current process sees it, until that process ends.
    pub fn at(&self, index: usize) -> Self {
        let process = self.scene().machines[index].process.task();
        Self {
            index,
            process,
            ..self.clone()
        }
    }

    /// Who this instance is.
    pub fn me(&self) -> Arc<Identity> {
        self.scene().machines[self.index].me.clone()
    }

    /// The ports of this instance's agent: each is this view of the scene.
    pub fn world(&self) -> World {
        let place = Arc::new(self.clone());
        let leases = self.scene().machines[self.index].leases.clone();
        World {
            metadata: place.clone(),
            ec2: place.clone(),
            store: place.clone(),
            host: place.clone(),
            commands: place.clone(),
            downloads: place.clone(),
            cluster: place.clone(),
            archive: place.clone(),
            etcd: place.clone(),
            dns: place.clone(),
            scaling: place.clone(),
            certificates: place.clone(),
            sts: place.clone(),
            join: place.clone(),
            peers: place.clone(),
            clock: place,
            leases,
        }
    }

    /// The node is up, and its agent maintains it.
    pub fn is_up(&self, summary: &Summary) {
        let mut scene = self.scene();
        let process = &mut scene.machines[self.index].process;
        if let Process::Runs(task, _) = *process {
            *process = Process::Up(task);
        }
        let Summary { done, held } = summary;
        scene.note_of(self.index, || format!("is up: {done} done, {held} held"));
    }

    /// The agent keeps running, and reports what only a person can decide, if there is anything: a
    /// refusal of one of its duties, or the conflict in its status.
    pub fn reports(&self, refusal: Option<&Error>, conflict: Option<String>) {
        let mut scene = self.scene();
        let scene = &mut *scene;
        let me = self.index;
        let refusal = refusal.map(|error| {
            let remedy = error.remedy().unwrap_or_default();
            format!("{}: {remedy}", error.one_line())
        });
        // With its id, which a person sees and the text calls "this instance".
        let id = &scene.machines[me].me.instance_id;
        let trouble = refusal.or(conflict).map(|why| format!("{id}: {why}"));
        if scene.machines[me].reports == trouble {
            return;
        }
        if let Some(why) = &trouble {
            scene.note_of(me, || format!("reports {why}"));
            scene.laws.reported(me, why, &scene.machines);
        }
        scene.machines[me].reports = trouble;
    }

    /// Locks the scene; the guard must not live across an await.
    pub fn scene(&self) -> MutexGuard<'_, Scene> {
        lock(&self.scene)
    }

    /// Waits on the scene's clock, which no clock step changes.
    pub async fn sleep(&self, duration: Duration) {
        self.timeline.sleep(duration).await;
    }

    /// Never returns if the process is about to end.
    pub async fn survive(&self) {
        let is_over = {
            let scene = self.scene();
            let task = scene.machines[self.index].process.task();
            scene.is_doomed(self.index) || self.process.is_some() && self.process != task
        };
        if is_over {
            std::future::pending::<()>().await;
        }
    }

    /// The process may crash here.
    pub async fn risk_a_crash(&self) {
        {
            let mut scene = self.scene();
            let probability = scene.faults.crash;
            if scene.dice.chance(probability) {
                scene.blows.push((self.index, Blow::Kill));
            }
        }
        self.survive().await;
    }

    /// A call to a service, with every way in which it can end.
    pub async fn call<T>(
        &self,
        bucket: usize,
        what: &str,
        writes: bool,
        effect: impl FnOnce(&mut Scene) -> T + Send,
    ) -> Result<T> {
        let (there, back, fate) = {
            let mut scene = self.scene();
            let faults = scene.faults;
            let fate = if scene.dice.chance(faults.crash) {
                let fates = [Fate::CrashBefore, Fate::CrashAfter];
                scene.dice.one_of(&fates, Fate::CrashAfter)
            } else if scene.dice.chance(faults.throttled) {
                Fate::Throttled
            } else if scene.dice.chance(faults.lost) {
                Fate::Lost
            } else {
                Fate::Answered
            };
            let there = scene.dice.up_to(faults.latency);
            // Nothing can change between a read and its answer.
            let back = if writes {
                scene.dice.up_to(faults.latency)
            } else {
                Duration::ZERO
            };
            (there, back, fate)
        };
        self.sleep(there).await;
        self.survive().await;
        if fate == Fate::CrashBefore {
            self.crash(what).await;
        }
        let value = {
            let mut scene = self.scene();
            let now = scene.timeline.now();
            if scene.faults.denied == Some(bucket) {
                scene.note_of(self.index, || format!("{what}: denied"));
                return Err(Error::failed(format!("{what}: AccessDeniedException")));
            }
            if fate == Fate::Throttled || !scene.buckets[bucket].take(now) {
                scene.note_of(self.index, || format!("{what}: throttled"));
                return Err(Error::failed(format!("{what}: ThrottlingException")));
            }
            effect(&mut scene)
        };
        if !back.is_zero() {
            self.sleep(back).await;
        }
        self.survive().await;
        if fate == Fate::CrashAfter {
            self.crash(what).await;
        }
        if fate == Fate::Lost {
            self.scene()
                .note_of(self.index, || format!("{what}: the answer is lost"));
            return Err(Error::failed(format!("{what}: connection reset by peer")));
        }
        Ok(value)
    }

    async fn crash(&self, what: &str) {
        {
            let mut scene = self.scene();
            scene.note_of(self.index, || format!("{what}: crashes"));
            scene.blows.push((self.index, Blow::Kill));
        }
        std::future::pending::<()>().await;
    }
}
