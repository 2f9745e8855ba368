//! Deals out the visits' numbers: one task, one round trip for all who wait.
//!
//! While a batch is on its way the next one gathers, and round trips keep a pace, so the
//! ledger sees one addition every few milliseconds however many visitors there are, and
//! still each of them gets a number of their own. While the ledger is away nobody waits: visits are kept in
//! memory and added when it is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ledger::{Batch, Ledger, Link, Session, State};
use crate::metrics::Metrics;

/// Between attempts to connect: 100 ms, doubled up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often the ledger is asked while nobody visits, so that readiness is not stale.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Round trips begin at least so far apart, so that visitors share them: without it nearly
/// every visit of a busy process makes one of its own, as the ledger answers sooner than
/// the next visitor comes. The first after a quiet moment waits for nothing.
const PACE: Duration = Duration::from_millis(5);
/// A bound on memory only; a batch is as large as the number of open requests.
const LARGEST_BATCH: usize = 16_384;

/// What a visitor is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The visit is counted, and this is its number.
    Counted(u64),
    /// The ledger is away; so many visits of this process wait to be counted.
    Kept(u64),
}

/// The visitors' end of the counter. Dropping all of them ends the task, once nothing
/// is left to count.
#[derive(Clone)]
pub struct Counter {
    visits: mpsc::UnboundedSender<oneshot::Sender<Visit>>,
    state: watch::Receiver<State>,
}

impl Counter {
    /// Starts the task. A round trip takes `limit` at most, so a visitor waits for two
    /// at most, the one under way and their own, and for the pace of these.
    pub fn start<L: Ledger>(
        ledger: L,
        limit: Duration,
        metrics: Arc<Metrics>,
    ) -> (Self, JoinHandle<()>) {
        // Unbounded, since each open request holds at most one place in it.
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
        // The task outlives its senders; were it gone, nothing is counted any more.
        match self.visits.send(sender) {
            Ok(()) => answer.await.unwrap_or(Visit::Kept(0)),
            Err(_) => Visit::Kept(0),
        }
    }

    /// What the counter knows now, and when that changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

struct Task<L> {
    ledger: Arc<L>,
    limit: Duration,
    arrivals: mpsc::UnboundedReceiver<oneshot::Sender<Visit>>,
    closed: bool,
    /// Visits that nobody waits for any more and no batch holds yet.
    kept: u64,
    batches: u64,
    /// A batch that was sent and not answered: it may have been added or not.
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

    /// Counts until the ledger fails, or until nothing can arrive any more.
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
                        // Whoever comes now waits in the channel, for `limit` at most.
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

    /// Adds the visits that were kept and those that wait, in this order, and tells
    /// those who wait their numbers.
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
                    // A visitor who has gone was here nevertheless.
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
