//! Which calls are retried, and when.
//!
//! Up to eight attempts within 90 s. The pause before attempt n + 1 is drawn evenly from nothing to
//! 0.5 s · 2ⁿ⁻¹, at most 20 s ("full jitter"), so that nodes that were throttled together do not
//! retry together:
//!
//! ```text
//! before attempt   2    3    4    5    6    7     8
//! at most        0.5    1    2    4    8   16    20 s
//! ```
//!
//! If the error lasts longer, the caller's own, slower wait retries.

use std::time::Duration;

use jiff::Timestamp;

use crate::ports::Clock;

const ATTEMPTS: u32 = 8;
const DEADLINE: Duration = Duration::from_secs(90);
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(20);

/// The attempts of one call.
pub(super) struct Schedule {
    end: Timestamp,
    /// The number of attempts, including the current one.
    pub attempt: u32,
}

impl Schedule {
    pub fn begin(clock: &dyn Clock) -> Self {
        Self::within(clock, DEADLINE)
    }

    /// For a call that somebody is waiting for: its attempts begin within this time.
    pub fn within(clock: &dyn Clock, time: Duration) -> Self {
        Self {
            end: clock.now() + time,
            attempt: 1,
        }
    }

    /// The pause before the next attempt; `None` after the last one.
    pub fn next_pause(&mut self, clock: &dyn Clock) -> Option<Duration> {
        let ceiling = FIRST.saturating_mul(1 << (self.attempt - 1)).min(LONGEST);
        let pause = ceiling.mul_f64(clock.jitter());
        if self.attempt >= ATTEMPTS || clock.now() + pause >= self.end {
            return None;
        }
        self.attempt += 1;
        Some(pause)
    }
}

/// Whether the service asks to retry later.
pub(super) fn is_transient(status: u16, code: &str) -> bool {
    status >= 500
        || status == 429
        || matches!(
            code,
            "RequestLimitExceeded"
                | "RequestThrottled"
                | "RequestThrottledException"
                | "BandwidthLimitExceeded"
                | "LimitExceededException"
                | "PriorRequestNotComplete"
                | "ProvisionedThroughputExceededException"
                | "SlowDown"
                | "TooManyRequestsException"
                | "TooManyUpdates"
                | "InternalError"
                | "InternalFailure"
                | "InternalServerError"
                | "ServiceUnavailable"
                | "Unavailable"
        )
        || code.starts_with("Throttl")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::StoppedClock;

    #[test]
    fn pauses_double_to_a_ceiling_and_end_after_eight_attempts() {
        let clock = StoppedClock::showing("2026-01-01T00:00:00Z");
        let mut schedule = Schedule::begin(&*clock);
        let pauses: Vec<u128> =
            std::iter::from_fn(|| schedule.next_pause(&*clock).map(|p| p.as_millis())).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000]);
    }

    #[test]
    fn slow_answers_end_the_retries_at_the_deadline() {
        let clock = StoppedClock::showing("2026-01-01T00:00:00Z");
        let mut schedule = Schedule::begin(&*clock);
        assert!(schedule.next_pause(&*clock).is_some());
        clock.forward(Duration::from_mins(2));
        assert_eq!(schedule.next_pause(&*clock), None);
    }

    #[test]
    fn throttling_and_server_errors_are_transient_and_others_are_not() {
        for (status, code) in [
            (503, "RequestLimitExceeded"),
            (400, "ThrottlingException"),
            (400, "Throttling"),
            (400, "TooManyRequestsException"),
            (503, "SlowDown"),
            (500, ""),
            (502, "<html>"),
        ] {
            assert!(is_transient(status, code), "{status} {code}");
        }
        for (status, code) in [
            (400, "ParameterAlreadyExists"),
            (403, "UnauthorizedOperation"),
            (400, "ValidationException"),
            (404, ""),
        ] {
            assert!(!is_transient(status, code), "{status} {code}");
        }
    }
}
