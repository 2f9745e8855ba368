//! Where the count is kept: Redis, behind two traits that tests also implement.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult, Script};

/// Visits that are added together. A batch is added once, however often it is sent:
/// the ledger remembers the last number that each sender settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Counts the batches of one process, from 1.
    pub number: u64,
    /// Visits to add to the count.
    pub visits: u64,
}

/// A place that stores the count.
pub trait Ledger: Send + Sync + 'static {
    /// A connection to the ledger.
    type Session: Session;

    /// Connects. The caller sets the time limit.
    fn open(&self) -> impl Future<Output = Result<Self::Session, String>> + Send;
}

/// A connection to a [`Ledger`]. After an error it is dropped, not used again.
pub trait Session: Send + 'static {
    /// Adds the batch unless it has been added before; returns the count.
    fn settle(&mut self, batch: Batch) -> impl Future<Output = Result<u64, String>> + Send;

    /// The count without adding to it; 0 in an empty ledger.
    fn total(&mut self) -> impl Future<Output = Result<u64, String>> + Send;
}

/// The key that holds the count.
const COUNT: &str = "visits";

/// A batch is sent again if its answer is lost, so the addition and the note that it was made must
/// be one transaction. The note is kept longer than any outage that a process survives.
const SETTLE: &str = "
if tonumber(redis.call('GET', KEYS[2]) or '0') >= tonumber(ARGV[1]) then
  return redis.call('GET', KEYS[1])
end
redis.call('SET', KEYS[2], ARGV[1], 'EX', 604800)
return redis.call('INCRBY', KEYS[1], ARGV[2])";

/// The count in Redis, or in anything that speaks its protocol.
pub struct Redis {
    client: redis::Client,
    script: Script,
    note: String,
}

impl Redis {
    /// A ledger that is not connected yet.
    pub fn new(client: redis::Client) -> Self {
        // The note belongs to this process, not to its pod: a restarted container counts its
        // batches from 1 again.
        let process = RandomState::new().build_hasher().finish();
        Self {
            client,
            script: Script::new(SETTLE),
            note: format!("visits:settled:{process:016x}"),
        }
    }
}

impl Ledger for Redis {
    type Session = RedisSession;

    async fn open(&self) -> Result<RedisSession, String> {
        // The counter's own time-out bounds each call as a whole.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|cause| said(&cause))?;
        Ok(RedisSession {
            connection,
            script: self.script.clone(),
            note: self.note.clone(),
        })
    }
}

/// One connection to Redis. One is enough: concurrent visitors share a round trip, so a pool would
/// only split their batch.
pub struct RedisSession {
    connection: MultiplexedConnection,
    script: Script,
    note: String,
}

impl Session for RedisSession {
    async fn settle(&mut self, batch: Batch) -> Result<u64, String> {
        let total: RedisResult<u64> = self
            .script
            .key(COUNT)
            .key(&self.note)
            .arg(batch.number)
            .arg(batch.visits)
            .invoke_async(&mut self.connection)
            .await;
        total.map_err(|cause| said(&cause))
    }

    async fn total(&mut self) -> Result<u64, String> {
        let total: RedisResult<Option<u64>> = redis::cmd("GET")
            .arg(COUNT)
            .query_async(&mut self.connection)
            .await;
        total
            .map(Option::unwrap_or_default)
            .map_err(|cause| said(&cause))
    }
}

fn said(cause: &redis::RedisError) -> String {
    cause.to_string()
}

/// The ledger's state at the last round trip or heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// The first connection is being made.
    Connecting,
    /// It answers.
    Up,
    /// It does not answer, with the reason.
    Down(String),
}

/// What the counter knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether the ledger answers.
    pub link: Link,
    /// Visits that wait to be counted.
    pub kept: u64,
}
