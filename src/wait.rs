//! Waiting: always for a stated reason, always with an end.

use std::{convert::Infallible, time::Duration};

use tokio::sync::watch;

use crate::{
    error::{Error, Kind, Result},
    ports::Clock,
};

/// Where a step says what it waits for; shown in `systemctl status` and `/status`.
#[derive(Debug, Clone)]
pub struct Notes(watch::Sender<Option<String>>);

impl Notes {
    /// Notes and the place to read them.
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

/// Hands on each note for as long as it is polled.
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
    /// Not yet, and what is still missing.
    NotYet(String),
}

/// How long to wait and how often to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The end of the wait.
    pub deadline: Duration,
    /// The first pause between two looks; it grows by half each time.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Backoff {
    /// Looks often at first (100 ms) and every 2 s in the end: for things on this machine.
    pub fn local(deadline: Duration) -> Self {
        Self {
            deadline,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(2),
        }
    }

    /// 500 ms growing to 5 s: for services with rate limits, such as the EC2 API.
    pub fn remote(deadline: Duration) -> Self {
        Self {
            deadline,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(5),
        }
    }
}

/// Probes until the probe is done or the deadline has passed.
///
/// An error that may pass by itself counts as "not yet"; one for a person ends the wait.
/// Pauses are jittered (half to whole), so that a fleet does not probe in step.
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
    let mut pause = backoff.first;
    loop {
        let (reason, cause) = match probe().await {
            Ok(Probe::Done(value)) => return Ok(value),
            Ok(Probe::NotYet(reason)) => (reason, None),
            Err(error) if error.kind() == Kind::Failed => (error.one_line(), Some(error)),
            Err(error) => return Err(error),
        };
        if clock.elapsed() >= end {
            let seconds = backoff.deadline.as_secs();
            let error = cause.unwrap_or_else(|| Error::failed(reason));
            return Err(error.during(format!("gave up after {seconds} s waiting for {what}")));
        }
        notes.waiting_for(format!("{what}: {reason}"));
        clock.sleep(pause.mul_f64(0.5 + 0.5 * clock.jitter())).await;
        pause = (pause * 3 / 2).min(backoff.longest);
    }
}

/// What this gives within so long; `None` if it takes longer.
pub async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        // What is done in time counts, even at the very end.
        biased;
        done = work => Some(done),
        () = clock.sleep(limit) => None,
    }
}

/// Ticks for a loop: the first at once, then one each period, none to catch up after slow work.
pub struct Every<'a> {
    clock: &'a dyn Clock,
    period: Duration,
    next: Duration,
}

impl<'a> Every<'a> {
    /// Ticks by this clock.
    pub fn new(clock: &'a dyn Clock, period: Duration) -> Self {
        let next = clock.elapsed();
        Self {
            clock,
            period,
            next,
        }
    }

    /// Waits for the next one. If the wait is dropped, the same one is waited for again.
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
