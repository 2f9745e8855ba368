//! etcd through its own gateway: gRPC calls as JSON over HTTPS, on the client port.
//!
//! <https://etcd.io/docs/latest/dev-guide/api_grpc_gateway/>

mod connection;
mod messages;
pub mod seal;
mod snapshot;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use reqwest::Response;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    error::{Context, Error, Result},
    kubernetes::ETCD_PORT,
    ports::{Etcd, Member, MemberStatus, RaisedAlarm, Snapshot},
};

use connection::Connection;
use messages::{MemberList, Refusal, Status};

/// No part of an answer may take longer than this.
const SILENCE: Duration = Duration::from_secs(30);

/// etcd itself abandons most requests after 7 s.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Defragmenting eight gigabytes may take minutes.
const DEFRAGMENTATION: Duration = Duration::from_mins(15);

/// A member further behind than this, in log entries, does not keep up. A busy one is a few hundred
/// behind at any moment.
const LAG: u64 = 5_000;

/// The etcd cluster through the member on this machine.
pub struct EtcdGateway {
    connection: Connection,
    /// For calls with slow answers.
    slow_connection: Connection,
    local: Ipv4Addr,
    port: u16,
    answers_within: Duration,
}

impl EtcdGateway {
    /// Uses the certificates in this folder of kubeadm's PKI for etcd.
    pub fn new(certificates: impl Into<PathBuf>) -> Self {
        Self::at(certificates, Ipv4Addr::LOCALHOST, ETCD_PORT)
    }

    /// With another address instead of this machine's loopback, or another port for all members.
    fn at(certificates: impl Into<PathBuf>, local: Ipv4Addr, port: u16) -> Self {
        let certificates = certificates.into();
        Self {
            connection: Connection::with(certificates.clone(), SILENCE),
            slow_connection: Connection::with(certificates, DEFRAGMENTATION),
            local,
            port,
            answers_within: ANSWERS_WITHIN,
        }
    }

    async fn status_of(&self, member: Ipv4Addr) -> Result<Status> {
        self.done(member, "maintenance/status", &json!({})).await
    }

    /// A call for which every refusal is simply an error.
    async fn done<T: DeserializeOwned>(
        &self,
        member: Ipv4Addr,
        call: &str,
        body: &Value,
    ) -> Result<T> {
        match self.ask(member, call, body).await? {
            Ok(answer) => Ok(answer),
            Err(refusal) => Err(self.refused(member, call, &refusal)),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        member: Ipv4Addr,
        call: &str,
        body: &Value,
    ) -> Result<std::result::Result<T, Refusal>> {
        let exchange = self.exchange(&self.connection, member, call, body);
        // Without a majority, some calls wait in etcd until there is one.
        tokio::time::timeout(self.answers_within, exchange)
            .await
            .unwrap_or_else(|_| Ok(Err(Refusal::silence(self.answers_within))))
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        by: &Connection,
        member: Ipv4Addr,
        call: &str,
        body: &Value,
    ) -> Result<std::result::Result<T, Refusal>> {
        let attempt = || self.attempted(member, call);
        let answer = self.send(by, member, call, body).await?;
        let status = answer.status();
        let text = answer.text().await.attempting(attempt)?;
        if !status.is_success() {
            return Ok(Err(Refusal::read(status.as_u16(), &text)));
        }
        serde_json::from_str(&text).attempting(attempt).map(Ok)
    }

    async fn send(
        &self,
        by: &Connection,
        member: Ipv4Addr,
        call: &str,
        body: &Value,
    ) -> Result<Response> {
        by.client()
            .await?
            .post(self.url(member, call))
            .json(body)
            .send()
            .await
            .map_err(reqwest::Error::without_url)
            .attempting(|| self.attempted(member, call))
    }

    fn url(&self, member: Ipv4Addr, call: &str) -> String {
        let address = SocketAddr::new(IpAddr::V4(member), self.port);
        format!("https://{address}/v3/{call}")
    }

    fn attempted(&self, member: Ipv4Addr, call: &str) -> String {
        format!("cannot call etcd at {}", self.url(member, call))
    }

    fn refused(&self, member: Ipv4Addr, call: &str, refusal: &Refusal) -> Error {
        let error = Error::failed(refusal.text()).during(self.attempted(member, call));
        if refusal.is_about_the_quorum() {
            return error.hint(
                "too few voting members would be left: start or replace those that are down first",
            );
        }
        if refusal.is_without_majority() {
            return error.hint(
                "a majority of etcd's voting members must run: see `k8s-bootstrap etcd members`",
            );
        }
        error
    }
}

#[async_trait]
impl Etcd for EtcdGateway {
    async fn members(&self) -> Result<Vec<Member>> {
        self.members_by(self.local).await
    }

    async fn members_by(&self, other: Ipv4Addr) -> Result<Vec<Member>> {
        let call = "cluster/member/list";
        let agreed: std::result::Result<MemberList, _> = self
            .ask(other, call, &json!({"linearizable": true}))
            .await?;
        let list = match agreed {
            Ok(list) => list,
            Err(refusal) if refusal.is_without_majority() => {
                self.done(other, call, &json!({})).await?
            }
            Err(refusal) => return Err(self.refused(other, call, &refusal)),
        };
        list.members()
    }

    async fn status(&self, member: &Member) -> Result<MemberStatus> {
        let (ours, theirs) =
            tokio::join!(self.status_of(self.local), self.status_of(member.address));
        let theirs = theirs?;
        let in_step = ours.is_ok_and(|ours| {
            theirs.leader != 0
                && theirs.leader == ours.leader
                && ours.agreed.saturating_sub(theirs.applied) <= LAG
        });
        Ok(MemberStatus {
            cluster: theirs.cluster(),
            leader: (theirs.leader != 0).then_some(theirs.leader),
            in_step,
            alarms: theirs.alarms(),
            revision: theirs.revision(),
            database: theirs.database(),
        })
    }

    async fn leader(&self) -> Result<Option<u64>> {
        let leader = self.status_of(self.local).await?.leader;
        Ok((leader != 0).then_some(leader))
    }

    async fn remove(&self, id: u64) -> Result<()> {
        let call = "cluster/member/remove";
        let body = json!({"ID": id.to_string()});
        match self.ask::<Value>(self.local, call, &body).await? {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.is_not_found() => Ok(()),
            Err(refusal) => Err(self.refused(self.local, call, &refusal)),
        }
    }

    async fn promote(&self, id: u64) -> Result<()> {
        let call = "cluster/member/promote";
        let body = json!({"ID": id.to_string()});
        match self.ask::<Value>(self.local, call, &body).await? {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.is_voting_already() => Ok(()),
            Err(refusal) => Err(self.refused(self.local, call, &refusal)),
        }
    }

    async fn transfer_leadership(&self, to: u64) -> Result<()> {
        let leader = self.leader().await?;
        if leader == Some(to) {
            return Ok(());
        }
        // Only the leader itself can transfer the leadership.
        let members = self.members().await?;
        let leading = members
            .iter()
            .find(|member| Some(member.id) == leader)
            .ok_or_else(|| {
                Error::failed("etcd has no leader that could transfer its leadership")
            })?;
        let body = json!({"targetID": to.to_string()});
        let call = "maintenance/transfer-leadership";
        self.done::<Value>(leading.address, call, &body)
            .await
            .map(drop)
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        let call = "kv/compaction";
        let body = json!({"revision": revision.to_string(), "physical": true});
        match self.ask::<Value>(self.local, call, &body).await? {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.is_compacted_already() => Ok(()),
            Err(refusal) => Err(self.refused(self.local, call, &refusal)),
        }
    }

    async fn defragment(&self, member: &Member) -> Result<()> {
        let (by, call, body) = (&self.slow_connection, "maintenance/defragment", json!({}));
        let answer = self.exchange::<Value>(by, member.address, call, &body);
        match answer.await? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.refused(member.address, call, &refusal)),
        }
    }

    async fn disarm(&self, alarm: RaisedAlarm) -> Result<()> {
        let call = "maintenance/alarm";
        let body = json!({
            "action": "DEACTIVATE",
            "memberID": alarm.member.to_string(),
            "alarm": alarm.alarm.as_str(),
        });
        self.done::<Value>(self.local, call, &body).await.map(drop)
    }

    async fn snapshot(&self, file: &Path) -> Result<Snapshot> {
        let call = "maintenance/snapshot";
        let answer = self
            .send(&self.connection, self.local, call, &json!({}))
            .await?;
        let status = answer.status();
        if !status.is_success() {
            let text = answer.text().await.unwrap_or_default();
            let refusal = Refusal::read(status.as_u16(), &text);
            return Err(self.refused(self.local, call, &refusal));
        }
        snapshot::receive(answer, file)
            .await
            .map_err(|error| error.during(self.attempted(self.local, call)))
    }
}

#[cfg(test)]
mod tests;
