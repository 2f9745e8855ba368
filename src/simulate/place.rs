//! The scene as one instance meets it: calls that take their time and may fail.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use super::{
    executor::Timeline,
    scene::{Blow, Scene, lock},
};
use crate::error::{Error, Result};

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Throttled,
    Lost,
    CrashBefore,
    CrashAfter,
}

/// The scene as one instance meets it.
#[derive(Clone)]
pub struct Place {
    scene: Arc<Mutex<Scene>>,
    /// The instance's index.
    pub index: usize,
    timeline: Timeline,
}

impl Place {
    /// That of this instance.
    pub fn new(scene: Arc<Mutex<Scene>>, index: usize) -> Self {
        let timeline = lock(&scene).timeline.clone();
        Self {
            scene,
            index,
            timeline,
        }
    }

    /// The scene.
    pub fn scene(&self) -> MutexGuard<'_, Scene> {
        lock(&self.scene)
    }

    /// Waits on the true clock.
    pub async fn sleep(&self, duration: Duration) {
        self.timeline.sleep(duration).await;
    }

    /// Ends here if the process does.
    pub async fn survive(&self) {
        if self.scene().is_doomed(self.index) {
            std::future::pending::<()>().await;
        }
    }

    /// The process ends, here or nowhere.
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

    /// A call to a service, with all that can become of it.
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
            // Nothing can come between a reading and its answer.
            let back = if writes {
                scene.dice.up_to(faults.latency)
            } else {
                Duration::ZERO
            };
            (there, back, fate)
        };
        self.sleep(there).await;
        if fate == Fate::CrashBefore {
            self.crash(what).await;
        }
        let value = {
            let mut scene = self.scene();
            let now = scene.timeline.now();
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
