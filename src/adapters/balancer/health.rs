//! Which API servers are ready, probed at regular intervals.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use reqwest::{Certificate, Client, StatusCode, redirect::Policy};
use tokio::{
    net::TcpStream,
    sync::{Mutex, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use crate::{
    error::{Context, Error, Result},
    ports::ApiHealth,
    wait::schedules::API_SERVERS,
};

/// How long one probe may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How many probes in a row must fail before existing connections are closed: one may fail because
/// the machine was busy, and a closed watch costs the API server a new list.
const CERTAIN: u32 = 2;

/// After this many forbidden probes in a row a server counts as ready: then a person has forbidden
/// anonymous requests. Before that, the server may not have read its RBAC rules yet.
const FORBIDS: u32 = 5;

/// A server's answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is ready, or it rejects anonymous clients.
    Ready,
    /// It forbids the request. A server that has just started does so too: it answers before it has
    /// read its RBAC rules, and forbids everything to everybody.
    Forbidden,
}

/// The result of the last probes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It answered that it is ready.
    Ready,
    /// It has forbidden this many probes in a row.
    Starting(u32),
    /// This many probes in a row have failed.
    Failing(u32),
}

impl Verdict {
    fn is_dead(self) -> bool {
        matches!(self, Self::Failing(times) if times >= CERTAIN)
    }
}

/// The state of all servers.
pub struct Health(watch::Sender<BTreeMap<SocketAddr, Verdict>>);

/// Asks one server whether it is ready.
#[async_trait]
pub trait Probe: Send + Sync {
    /// The error says why it is not ready.
    async fn probe(&self, server: SocketAddr) -> Result<Answer>;
}

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }
}

impl Health {
    /// Ready servers first, then unknown ones, then those that are starting, then failing ones;
    /// each group in the given order. None is left out, since a probe can be wrong.
    pub fn order(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        let known = self.0.borrow();
        let mut ordered = servers.to_vec();
        ordered.sort_by_key(|server| match known.get(server) {
            Some(Verdict::Ready) => 0,
            None => 1,
            Some(Verdict::Starting(_)) => 2,
            Some(Verdict::Failing(_)) => 3,
        });
        ordered
    }

    /// A connection to this server failed just now: the next one goes elsewhere at once.
    pub fn missed(&self, server: SocketAddr) {
        self.0.send_if_modified(|known| {
            let ready = known.get(&server) == Some(&Verdict::Ready);
            if ready {
                known.insert(server, Verdict::Failing(1));
            }
            ready
        });
    }

    /// Waits until the server has definitely failed while another one is ready.
    pub async fn replaceable(&self, server: SocketAddr) {
        let mut known = self.0.subscribe();
        let replaceable = |known: &BTreeMap<SocketAddr, Verdict>| {
            known.get(&server).is_some_and(|verdict| verdict.is_dead())
                && known.values().any(|verdict| *verdict == Verdict::Ready)
        };
        // The sender lives in `self`, so this cannot fail.
        let _ = known.wait_for(replaceable).await;
    }

    /// Probes the listed servers until the process ends.
    pub async fn watch_over(&self, servers: watch::Receiver<Vec<SocketAddr>>, probe: &dyn Probe) {
        let mut rounds = interval(API_SERVERS);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let listed = servers.borrow().clone();
            self.round(&listed, probe).await;
        }
    }

    /// One round of probes.
    pub async fn round(&self, servers: &[SocketAddr], probe: &dyn Probe) {
        let probed = join_all(servers.iter().map(async |server| {
            let answer = timeout(ANSWERS_WITHIN, probe.probe(*server)).await;
            let answer = answer.unwrap_or_else(|_| {
                Err(Error::failed(format!(
                    "no answer within {} s",
                    ANSWERS_WITHIN.as_secs()
                )))
            });
            (*server, answer)
        }))
        .await;
        self.0.send_if_modified(|known| {
            let before = known.clone();
            known.retain(|server, _| servers.contains(server));
            for (server, answer) in probed {
                let verdict = judge(known.get(&server).copied(), &answer);
                tell(server, known.get(&server).copied(), verdict, &answer);
                known.insert(server, verdict);
            }
            *known != before
        });
    }
}

impl ApiHealth for Health {
    fn dead(&self) -> usize {
        let known = self.0.borrow();
        known.values().filter(|verdict| verdict.is_dead()).count()
    }

    fn all_dead(&self) -> bool {
        let known = self.0.borrow();
        !known.is_empty() && known.values().all(|verdict| verdict.is_dead())
    }
}

fn judge(before: Option<Verdict>, answer: &Result<Answer>) -> Verdict {
    match (before, answer) {
        (Some(Verdict::Ready), Ok(_)) | (_, Ok(Answer::Ready)) => Verdict::Ready,
        (Some(Verdict::Starting(times)), Ok(Answer::Forbidden)) if times + 1 >= FORBIDS => {
            Verdict::Ready
        }
        (Some(Verdict::Starting(times)), Ok(Answer::Forbidden)) => Verdict::Starting(times + 1),
        (_, Ok(Answer::Forbidden)) => Verdict::Starting(1),
        (Some(Verdict::Failing(times)), Err(_)) => Verdict::Failing(times.saturating_add(1)),
        (_, Err(_)) => Verdict::Failing(1),
    }
}

/// Logs changes only: a server that is starting, or is known to fail, is not logged.
fn tell(server: SocketAddr, before: Option<Verdict>, now: Verdict, answer: &Result<Answer>) {
    match (before, now, answer) {
        (Some(Verdict::Ready), Verdict::Failing(_), Err(error)) => {
            warn!("the API server {server} is not ready: {}", error.one_line());
        }
        (Some(Verdict::Failing(_) | Verdict::Starting(_)), Verdict::Ready, _) => {
            info!("the API server {server} is ready");
        }
        _ => {}
    }
}

/// `GET /readyz`, trusting only the cluster's CA.
///
/// Before the node has the CA, a server that accepts connections counts as ready.
pub struct ReadyzProbe {
    ca: PathBuf,
    client: Mutex<Option<(Vec<u8>, Client)>>,
}

impl ReadyzProbe {
    /// `ca` is the file with the cluster's CA, read once it exists.
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self {
            ca: ca.into(),
            client: Mutex::new(None),
        }
    }

    async fn client(&self) -> Result<Option<Client>> {
        let pem = match tokio::fs::read(&self.ca).await {
            Ok(pem) => pem,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(
                    Error::failed(format!("cannot read {}", self.ca.display())).because(&error)
                );
            }
        };
        let mut kept = self.client.lock().await;
        if let Some((of, client)) = &*kept
            && *of == pem
        {
            return Ok(Some(client.clone()));
        }
        let unusable = || format!("cannot use the CA in {}", self.ca.display());
        let roots = Certificate::from_pem_bundle(&pem).attempting(unusable)?;
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .tls_certs_only(roots)
            .build()
            .attempting(unusable)?;
        *kept = Some((pem, client.clone()));
        Ok(Some(client))
    }
}

#[async_trait]
impl Probe for ReadyzProbe {
    async fn probe(&self, server: SocketAddr) -> Result<Answer> {
        let Some(client) = self.client().await? else {
            return TcpStream::connect(server)
                .await
                .map(|_| Answer::Ready)
                .attempting(|| format!("cannot connect to {server}"));
        };
        let url = format!("https://{server}/readyz");
        let answer = client
            .get(&url)
            .send()
            .await
            .attempting(|| format!("GET {url}"))?;
        if answer.status().is_server_error() {
            return Err(Error::failed(format!("GET {url}: {}", answer.status())));
        }
        Ok(match answer.status() {
            StatusCode::FORBIDDEN => Answer::Forbidden,
            // Also 401: a server that rejects anonymous requests does its work.
            _ => Answer::Ready,
        })
    }
}
