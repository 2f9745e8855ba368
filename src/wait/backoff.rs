//! What a retry schedule is, and how it is followed. The schedules themselves are in
//! [`super::schedules`].

use std::time::Duration;

use super::schedules;
use crate::ports::Clock;

/// How long to pause between attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The pause after the first attempt, before jitter.
    pub first: Duration,
    /// Each pause is this many times as long as the one before.
    pub factor: f32,
    /// The longest pause, before jitter.
    pub longest: Duration,
    /// How each pause is varied.
    pub jitter: Jitter,
    /// The most attempts; `None` if only a deadline ends them, or what surrounds the loop.
    pub attempts: Option<u32>,
}

/// How a pause is varied, so that a fleet that failed together does not retry together.
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Not at all.
    None,
    /// From half of the pause to all of it.
    Equal,
    /// From nothing to all of the pause.
    Full,
    /// From all of the pause to twice as much.
    Added,
}

impl Jitter {
    fn vary(self, whole: Duration, clock: &dyn Clock) -> Duration {
        match self {
            Self::None => whole,
            Self::Equal => whole.mul_f64(0.5 + 0.5 * clock.jitter()),
            Self::Full => whole.mul_f64(clock.jitter()),
            Self::Added => whole.mul_f64(1.0 + clock.jitter()),
        }
    }
}

impl Schedule {
    /// For attempts that are repeated until they succeed, or until the surrounding task ends.
    pub const fn pauses(self) -> Pauses {
        Pauses {
            schedule: self,
            whole: self.first,
            attempt: 1,
        }
    }

    /// For attempts that end at this deadline.
    pub const fn within(self, deadline: Duration) -> Backoff {
        Backoff {
            schedule: self,
            deadline,
        }
    }
}

/// The pauses of one series of attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct Pauses {
    schedule: Schedule,
    /// The next pause, before jitter.
    whole: Duration,
    /// The number of attempts, including the current one.
    attempt: u32,
}

impl Pauses {
    /// The pause after the current attempt.
    pub fn next(&mut self, clock: &dyn Clock) -> Duration {
        let pause = self.schedule.jitter.vary(self.whole, clock);
        let next = self.whole.mul_f64(self.schedule.factor.into());
        self.whole = next.min(self.schedule.longest);
        self.attempt = self.attempt.saturating_add(1);
        pause
    }

    /// Continues by another schedule. The next pause is at least its first one; it is not shorter
    /// than it would have been, so that an attempt's new error does not speed up the retries.
    pub fn follow(&mut self, schedule: Schedule) {
        self.whole = self.whole.max(schedule.first);
        self.schedule = schedule;
    }

    /// Whether the current attempt is the last one that the schedule allows.
    pub(super) fn are_spent(&self) -> bool {
        let most = self.schedule.attempts;
        most.is_some_and(|most| self.attempt >= most)
    }
}

/// How long to retry, and how often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The pauses between attempts.
    pub schedule: Schedule,
    /// How long after the first attempt to give up.
    pub deadline: Duration,
}

impl Backoff {
    /// [`schedules::LOCAL`] until this deadline.
    pub const fn local(deadline: Duration) -> Self {
        schedules::LOCAL.within(deadline)
    }

    /// [`schedules::REMOTE`] until this deadline.
    pub const fn remote(deadline: Duration) -> Self {
        schedules::REMOTE.within(deadline)
    }

    /// The attempts of one call; the first one begins now.
    pub fn begin(self, clock: &dyn Clock) -> Retries {
        Retries {
            pauses: self.schedule.pauses(),
            end: clock.elapsed() + self.deadline,
        }
    }
}

/// The attempts of one call. Unlike a probe of [`super::until`], none begins after the deadline:
/// somebody waits for the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    pauses: Pauses,
    /// On the monotonic clock.
    end: Duration,
}

impl Retries {
    /// The number of attempts, including the current one.
    pub fn attempt(&self) -> u32 {
        self.pauses.attempt
    }

    /// The pause before the next attempt; `None` after the last one.
    pub fn next_pause(&mut self, clock: &dyn Clock) -> Option<Duration> {
        if self.pauses.are_spent() {
            return None;
        }
        let pause = self.pauses.next(clock);
        (clock.elapsed() + pause < self.end).then_some(pause)
    }
}
