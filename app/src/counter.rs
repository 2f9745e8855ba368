//! Assigns the visits' numbers: one task, one round trip for all waiting visitors.
//!
//! While a batch is in flight the next one collects, and round trips are paced. So the ledger sees
//! one addition every few milliseconds, however many visitors there are, and each visitor still
//! gets a unique number. While the ledger is down nobody waits: visits are kept in memory and added
//! when it is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ledger::{Batch, Ledger, Link, Session, State};
use crate::metrics::Metrics;

/// The longest pause between attempts to connect: it starts at 100 ms and doubles.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often the ledger is asked while there are no visits, so that readiness is not stale.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Minimum time between the starts of two round trips, so that visitors share them. Without it
/// nearly every visit to a busy process makes its own round trip, because the ledger answers before
/// the next visitor comes. The first visit after a pause does not wait.
const PACE: Duration = Duration::from_millis(5);
/// Only limits memory; a batch is as large as the number of open requests.
const LARGEST_BATCH: usize = 16_384;

/// What a visitor sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The visit is counted, and this is its number.
    Counted(u64),
    /// The ledger is down; this many visits of this process wait to be counted.
    Kept(u64),
}

/// The visitors' handle of the counter. When all handles are dropped, the task ends as soon as
/// nothing is left to count.
#[derive(Clone)]
pub struct Counter {
    visits: mpsc::UnboundedSender<oneshot::Sender<Visit>>,
    state: watch::Receiver<State>,
}

impl Counter {
    /// Starts the task. A round trip takes at most `limit`, so a visitor waits at most for two, the
    /// current one and their own, and for the pace between them.
    pub fn start<L: Ledger>(
        ledger: L,
        limit: Duration,
        metrics: Arc<Metrics>,
    ) -> (Self, JoinHandle<()>) {
        // Unbounded, because each open request holds at most one place in it.
        let (visits, arrivals) = mpsc::unbounded_channel();
        let (publish, state) = watch::channel(State {
            link: Link::Connecting,
            kept: 0,
        });
        let task = Task {
            ledger: Arc::new(ledger),
            limit,
            arrivals,
            closed: false,
            kept: 0,
            batches: 0,
            unsettled: None,
            publish,
            metrics,
        };
        (Self { visits, state }, tokio::spawn(task.run()))
    }

    /// Counts one visit.
    pub async fn visit(&self) -> Visit {
        let (sender, answer) = oneshot::channel();
        // The task outlives its senders; without it nothing would be counted.
        match self.visits.send(sender) {
            Ok(()) => answer.await.unwrap_or(Visit::Kept(0)),
            Err(_) => Visit::Kept(0),
        }
    }

    /// The counter's state now, and a notice when it changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

struct Task<L> {
    ledger: Arc<L>,
    limit: Duration,
    arrivals: mpsc::UnboundedReceiver<oneshot::Sender<Visit>>,
    closed: bool,
    /// Visits without a waiting visitor that are in no batch yet.
    kept: u64,
    batches: u64,
    /// A batch that was sent but not answered: it may have been added or not.
    unsettled: Option<Batch>,
    publish: watch::Sender<State>,
    metrics: Arc<Metrics>,
}

impl<L: Ledger> Task<L> {
    async fn run(mut self) {
        while !self.finished() {
            let mut session = self.open().await;
            let why = self.count(&mut session).await;
            if let Err(why) = why {
                self.lost(why);
            }
        }
    }

    fn finished(&self) -> bool {
        self.closed && self.kept() == 0
    }

    fn kept(&self) -> u64 {
        self.kept + self.unsettled.map_or(0, |batch| batch.visits)
    }

    /// Connects, however long it takes. Nobody waits for it.
    async fn open(&mut self) -> L::Session {
        let mut pause = FIRST_PAUSE;
        loop {
            let (ledger, limit) = (Arc::clone(&self.ledger), self.limit);
            let opened = self
                .meanwhile(async move { bounded(limit, ledger.open()).await })
                .await;
            match opened {
                Ok(session) => return session,
                Err(why) => self.lost(why),
            }
            self.meanwhile(sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Keeps the visits that arrive until `work` is done.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                visitor = self.arrivals.recv(), if !self.closed => match visitor {
                    Some(visitor) => self.keep(visitor),
                    None => self.closed = true,
                },
            }
        }
    }

    /// Counts until the ledger fails or no more visits can arrive.
    async fn count(&mut self, session: &mut L::Session) -> Result<(), String> {
        let limit = self.limit;
        if let Some(batch) = self.unsettled {
            self.meanwhile(bounded(limit, session.settle(batch)))
                .await?;
            self.unsettled = None;
            self.metrics.counted(batch.visits);
        } else {
            self.meanwhile(bounded(limit, session.total())).await?;
        }
        let mut waiting = Vec::new();
        let mut next = Instant::now();
        loop {
            self.announce(Link::Up);
            if self.kept == 0 {
                if self.closed {
                    return Ok(());
                }
                let arrivals = self.arrivals.recv_many(&mut waiting, LARGEST_BATCH);
                match timeout(HEARTBEAT, arrivals).await {
                    Ok(0) => self.closed = true,
                    Ok(_) => {}
                    Err(_) => {
                        // A visitor who comes now waits in the channel, at most for `limit`.
                        bounded(limit, session.total()).await?;
                    }
                }
            }
            if self.kept > 0 || !waiting.is_empty() {
                sleep_until(next).await;
                while waiting.len() < LARGEST_BATCH
                    && let Ok(visitor) = self.arrivals.try_recv()
                {
                    waiting.push(visitor);
                }
                next = Instant::now() + PACE;
                self.settle(session, &mut waiting).await?;
            }
        }
    }

    /// Adds the kept visits and then the waiting ones, and gives the waiting visitors their
    /// numbers.
    async fn settle(
        &mut self,
        session: &mut L::Session,
        waiting: &mut Vec<oneshot::Sender<Visit>>,
    ) -> Result<(), String> {
        self.batches += 1;
        let batch = Batch {
            number: self.batches,
            visits: self.kept + waiting.len() as u64,
        };
        self.kept = 0;
        self.unsettled = Some(batch);
        match bounded(self.limit, session.settle(batch)).await {
            Ok(total) => {
                self.unsettled = None;
                self.metrics.counted(batch.visits);
                for (visitor, number) in waiting.drain(..).rev().zip((0..=total).rev()) {
                    // The visit counts even if the visitor has gone.
                    let _gone = visitor.send(Visit::Counted(number));
                }
                Ok(())
            }
            Err(why) => {
                let kept = self.kept();
                for visitor in waiting.drain(..) {
                    let _gone = visitor.send(Visit::Kept(kept));
                }
                Err(why)
            }
        }
    }

    fn keep(&mut self, visitor: oneshot::Sender<Visit>) {
        self.kept += 1;
        let kept = self.kept();
        let _gone = visitor.send(Visit::Kept(kept));
        self.publish.send_modify(|state| state.kept = kept);
    }

    fn lost(&mut self, why: String) {
        self.metrics.lost();
        if !matches!(self.publish.borrow().link, Link::Down(_)) {
            tracing::warn!(why, "Redis does not answer; visits are kept in memory");
        }
        self.announce(Link::Down(why));
    }

    fn announce(&mut self, link: Link) {
        let state = State {
            link,
            kept: self.kept(),
        };
        self.publish.send_if_modified(|known| {
            let changed = *known != state;
            if changed && state.link == Link::Up && known.link != Link::Up {
                tracing::info!("Redis answers");
            }
            *known = state;
            changed
        });
    }
}

async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

#[cfg(test)]
mod tests;
