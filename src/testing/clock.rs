//! Clocks that tests control.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use crate::ports::Clock;

/// A clock that starts at noon and follows tokio's, so that tests with paused time control it.
pub struct FakeClock {
    noon: Mutex<Timestamp>,
    start: tokio::time::Instant,
}

impl FakeClock {
    /// A clock that shows 2026-11-23T12:00:00Z.
    pub fn at_noon() -> Self {
        Self {
            noon: Mutex::new("2026-11-23T12:00:00Z".parse().unwrap()),
            start: tokio::time::Instant::now(),
        }
    }

    /// Time since noon.
    pub fn since_noon(&self) -> Duration {
        self.start.elapsed()
    }

    /// Steps the wall clock.
    pub fn step(&self, by: SignedDuration) {
        *self.noon.lock().unwrap() += by;
    }
}

#[async_trait]
impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.noon.lock().unwrap() + self.since_noon()
    }

    fn elapsed(&self) -> Duration {
        self.since_noon()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}

/// A clock for tests that use real sockets: a wait only moves it forward.
///
/// tokio's paused time does not work there: it also lets requests time out that a server is about
/// to answer.
#[derive(Debug)]
pub struct StoppedClock {
    now: Mutex<Timestamp>,
    elapsed: Mutex<Duration>,
    waits: Mutex<Vec<Duration>>,
}

impl StoppedClock {
    /// A clock that shows this time.
    pub fn showing(now: &str) -> Arc<Self> {
        Arc::new(Self {
            now: Mutex::new(now.parse().unwrap()),
            elapsed: Mutex::default(),
            waits: Mutex::default(),
        })
    }

    /// Moves the clock forward.
    pub fn forward(&self, duration: Duration) {
        *self.now.lock().unwrap() += duration;
        *self.elapsed.lock().unwrap() += duration;
    }

    /// Steps the wall clock.
    pub fn step(&self, by: SignedDuration) {
        *self.now.lock().unwrap() += by;
    }

    /// Every wait so far.
    pub fn waits(&self) -> Vec<Duration> {
        self.waits.lock().unwrap().clone()
    }
}

#[async_trait]
impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap()
    }

    async fn sleep(&self, duration: Duration) {
        self.waits.lock().unwrap().push(duration);
        self.forward(duration);
        tokio::task::yield_now().await;
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}
