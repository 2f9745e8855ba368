//! Waiting: always for a stated reason, always with a deadline, always by one of [`schedules`].

mod backoff;
pub mod schedules;

use std::{convert::Infallible, time::Duration};

use tokio::sync::watch;

use crate::{
    error::{Error, Kind, Result},
    ports::Clock,
};

pub use backoff::{Backoff, Jitter, Pauses, Retries, Schedule};

/// Through this a step says what it waits for; shown in `systemctl status` and `/status`.
#[derive(Debug, Clone)]
pub struct Notes(watch::Sender<Option<String>>);

impl Notes {
    /// Notes and their receiver.
    pub fn new() -> (Self, watch::Receiver<Option<String>>) {
        let (sender, receiver) = watch::channel(None);
        (Self(sender), receiver)
    }

    /// Notes that nobody reads.
    pub fn unread() -> Self {
        Self::new().0
    }

    /// Says what is being waited for.
    pub fn waiting_for(&self, what: impl Into<String>) {
        self.0.send_replace(Some(what.into()));
    }
}

/// Passes each note to `tell` while it is polled.
pub async fn relay(
    mut notes: watch::Receiver<Option<String>>,
    mut tell: impl FnMut(Option<String>),
) -> Infallible {
    while notes.changed().await.is_ok() {
        let note = notes.borrow_and_update().clone();
        tell(note);
    }
    std::future::pending().await
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe<T> {
    /// The wait is over.
    Done(T),
    /// Not yet; what is still missing.
    NotYet(String),
}

/// Probes until the probe is done or the deadline has passed. The last probe is not before the
/// deadline: what is waited for may take all of that time.
///
/// An error that may pass by itself counts as "not yet"; one that a person must fix ends the wait.
pub async fn until<T, F>(
    clock: &dyn Clock,
    notes: &Notes,
    backoff: Backoff,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> Result<T>
where
    // Not `AsyncFnMut`, whose futures cannot be bound `Send` yet.
    F: Future<Output = Result<Probe<T>>> + Send,
{
    let end = clock.elapsed() + backoff.deadline;
    let mut pauses = backoff.schedule.pauses();
    loop {
        let (reason, cause) = match probe().await {
            Ok(Probe::Done(value)) => return Ok(value),
            Ok(Probe::NotYet(reason)) => (reason, None),
            Err(error) if error.kind() == Kind::Failed => (error.one_line(), Some(error)),
            Err(error) => return Err(error),
        };
        if clock.elapsed() >= end || pauses.are_spent() {
            let seconds = backoff.deadline.as_secs();
            let error = cause.unwrap_or_else(|| Error::failed(reason));
            return Err(error.during(format!("gave up after {seconds} s waiting for {what}")));
        }
        notes.waiting_for(format!("{what}: {reason}"));
        clock.sleep(pauses.next(clock)).await;
    }
}

/// The result of `work`; `None` if it takes longer than `limit`.
pub async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        // Work done exactly at the limit still counts.
        biased;
        done = work => Some(done),
        () = clock.sleep(limit) => None,
    }
}

/// Ticks for a loop: the first at once, then one per period; missed ticks are not made up.
pub struct Every<'a> {
    clock: &'a dyn Clock,
    period: Duration,
    next: Duration,
}

impl<'a> Every<'a> {
    /// Ticks on this clock.
    pub fn new(clock: &'a dyn Clock, period: Duration) -> Self {
        let next = clock.elapsed();
        Self {
            clock,
            period,
            next,
        }
    }

    /// Waits for the next tick. If the wait is cancelled, the next call waits for the same tick.
    pub async fn tick(&mut self) {
        let wait = self.next.saturating_sub(self.clock.elapsed());
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
        self.next = self.clock.elapsed() + self.period;
    }
}

#[cfg(test)]
mod tests;
