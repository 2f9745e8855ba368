//! Scripted proofs of identity, join services and certificate requests.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedSender, unbounded},
    stream::BoxStream,
};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    ports::{Applicant, Caller, CertificateRequests, JoinServices, JoinTicket, Peers, Proof, Sts},
};

/// An STS that identifies nobody; the join service's own tests have one that verifies signatures.
#[derive(Default)]
pub struct FakeSts;

#[async_trait]
impl Sts for FakeSts {
    async fn prove(&self, _nonce: &str, _cluster: &str) -> Result<Proof> {
        Ok(Proof(Vec::new()))
    }

    async fn identify(&self, _proof: &Proof) -> Result<Caller> {
        Err(Error::refused("the signature is unknown"))
    }
}

/// Join services that refuse everybody until a test sets a ticket.
#[derive(Default)]
pub struct FakeJoin {
    ticket: Mutex<Option<JoinTicket>>,
    asked: Mutex<Vec<(SocketAddr, String, Applicant)>>,
}

impl FakeJoin {
    /// Gives this ticket to everybody from now on.
    pub fn gives(&self, ticket: JoinTicket) {
        *self.ticket.lock().unwrap() = Some(ticket);
    }

    /// All requests so far: server, pin and applicant.
    pub fn asked(&self) -> Vec<(SocketAddr, String, Applicant)> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl JoinServices for FakeJoin {
    async fn ask(
        &self,
        server: SocketAddr,
        pin: &str,
        applicant: &Applicant,
    ) -> Result<JoinTicket> {
        let mut asked = self.asked.lock().unwrap();
        asked.push((server, pin.to_owned(), applicant.clone()));
        let ticket = self.ticket.lock().unwrap().clone();
        ticket.ok_or_else(|| Error::failed(format!("{server} admits no node")))
    }
}

/// Control planes that show a cluster's certificate, by address.
#[derive(Default)]
pub struct FakePeers {
    shown: Mutex<Vec<SocketAddr>>,
}

impl FakePeers {
    /// From now on only these servers show a certificate.
    pub fn show(&self, servers: &[&str]) {
        let servers = servers.iter().map(|server| server.parse().unwrap());
        *self.shown.lock().unwrap() = servers.collect();
    }
}

#[async_trait]
impl Peers for FakePeers {
    async fn shows_a_cluster(&self, server: SocketAddr) -> bool {
        self.shown.lock().unwrap().contains(&server)
    }
}

/// Certificate requests as in the API server.
#[derive(Default)]
pub struct FakeCertificates {
    requests: Mutex<Vec<Value>>,
    followers: Mutex<Vec<UnboundedSender<Result<()>>>>,
    looks: AtomicUsize,
}

impl FakeCertificates {
    /// Adds a kubelet's request.
    pub fn ask(&self, request: Value) {
        self.requests.lock().unwrap().push(request);
        let mut followers = self.followers.lock().unwrap();
        followers.retain(|follower| follower.unbounded_send(Ok(())).is_ok());
    }

    /// Ends every current watch with an error.
    pub fn refuse_followers(&self) {
        for follower in self.followers.lock().unwrap().drain(..) {
            let refused = Error::failed("cannot watch: refused");
            follower.unbounded_send(Err(refused)).unwrap();
        }
    }

    /// How often requests were listed.
    pub fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Type and message of the condition of the request with this name.
    pub fn outcome(&self, name: &str) -> Option<(String, String)> {
        let requests = self.requests.lock().unwrap();
        let request = requests.iter().find(|r| r["metadata"]["name"] == name)?;
        let condition = &request["status"]["conditions"][0];
        let text = |key: &str| condition[key].as_str().map(str::to_owned);
        Some((text("type")?, text("message")?))
    }
}

#[async_trait]
impl CertificateRequests for FakeCertificates {
    async fn waiting(&self) -> Result<BoxStream<'static, Result<()>>> {
        let (follower, notices) = unbounded();
        let requests = self.requests.lock().unwrap();
        let undecided = |r: &&Value| r["status"]["conditions"][0].is_null();
        for _ in requests.iter().filter(undecided) {
            follower.unbounded_send(Ok(())).unwrap();
        }
        self.followers.lock().unwrap().push(follower);
        Ok(notices.boxed())
    }

    async fn undecided(&self, signer: &str) -> Result<Vec<Value>> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let mut requests = self.requests.lock().unwrap().clone();
        requests.retain(|request| {
            request["spec"]["signerName"] == signer && request["status"]["conditions"][0].is_null()
        });
        Ok(requests)
    }

    async fn decide(&self, request: &Value) -> Result<bool> {
        let mut requests = self.requests.lock().unwrap();
        let name = &request["metadata"]["name"];
        let there = requests.iter_mut().find(|r| r["metadata"]["name"] == *name);
        Ok(match there {
            Some(there) if there["status"]["conditions"][0].is_null() => {
                *there = request.clone();
                true
            }
            _ => false,
        })
    }
}
