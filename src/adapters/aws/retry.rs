//! Which calls are retried, and when.
//!
//! Up to eight attempts within 90 s, by the schedule [`AWS`].

use std::time::Duration;

use crate::wait::{Backoff, schedules::AWS};

/// For a call whose answer no other node waits for.
pub(super) const BACKOFF: Backoff = AWS.within(Duration::from_secs(90));

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
        let mut schedule = BACKOFF.begin(&*clock);
        let pauses: Vec<u128> =
            std::iter::from_fn(|| schedule.next_pause(&*clock).map(|p| p.as_millis())).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000]);
    }

    #[test]
    fn slow_answers_end_the_retries_at_the_deadline() {
        let clock = StoppedClock::showing("2026-01-01T00:00:00Z");
        let mut schedule = BACKOFF.begin(&*clock);
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
