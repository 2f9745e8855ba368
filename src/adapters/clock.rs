//! The machine's time.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::ports::Clock;

/// When this process first asked for the time.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The machine's clocks and tokio's timers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// `CLOCK_MONOTONIC`: it does not count the time while the machine is suspended, when the agent
    /// could not observe anything.
    fn elapsed(&self) -> Duration {
        BEGIN.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn jitter(&self) -> f64 {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_lasts_as_long_as_requested() {
        let before = tokio::time::Instant::now();
        SystemClock.sleep(Duration::from_secs(90)).await;
        assert_eq!(before.elapsed().as_secs(), 90);
    }

    #[test]
    fn elapsed_time_only_grows() {
        let looks: Vec<Duration> = (0..100).map(|_| SystemClock.elapsed()).collect();
        assert!(looks.is_sorted(), "{looks:?}");
    }

    #[test]
    fn jitter_is_a_fraction_and_varies() {
        let drawn: Vec<f64> = (0..100).map(|_| SystemClock.jitter()).collect();
        assert!(drawn.iter().all(|x| (0.0..1.0).contains(x)));
        assert!(drawn.iter().any(|x| *x < 0.5) && drawn.iter().any(|x| *x >= 0.5));
    }
}
