//! etcd by its own gateway: gRPC's calls as JSON over HTTPS, on the port of its clients.
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
    ports::{Etcd, Member, Snapshot},
};

use connection::Connection;
use messages::{MemberList, Refusal, Status};

/// Where kubeadm's members serve their clients.
const CLIENTS: u16 = 2379;

/// etcd itself gives up most requests after 7 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// A member further behind than this, in entries of the log, is not in step. A busy one is a
/// few hundred behind at any moment.
const LAG: u64 = 5_000;

/// The etcd cluster through the member on this machine.
pub struct EtcdGateway {
    connection: Connection,
    local: Ipv4Addr,
    port: u16,
    patience: Duration,
}

impl EtcdGateway {
    /// With the certificates in this folder, that of kubeadm's PKI for etcd.
    pub fn new(certificates: impl Into<PathBuf>) -> Self {
        Self::at(certificates, Ipv4Addr::LOCALHOST, CLIENTS)
    }

    /// Another member than the one on this machine's loopback, or another port for all.
    fn at(certificates: impl Into<PathBuf>, local: Ipv4Addr, port: u16) -> Self {
        Self {
            connection: Connection::with(certificates.into()),
            local,
            port,
            patience: PATIENCE,
        }
    }

    async fn status(&self, member: Ipv4Addr) -> Result<Status> {
        self.done(member, "maintenance/status", &json!({})).await
    }

    /// A call of which every refusal is simply an error.
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
        let attempt = || self.attempted(member, call);
        let exchange = async {
            let answer = self.send(member, call, body).await?;
            let status = answer.status();
            let text = answer.text().await.attempting(attempt)?;
            if !status.is_success() {
                return Ok(Err(Refusal::read(status.as_u16(), &text)));
            }
            serde_json::from_str(&text).attempting(attempt).map(Ok)
        };
        // Without a majority etcd lets some calls wait for it.
        tokio::time::timeout(self.patience, exchange)
            .await
            .unwrap_or_else(|_| Ok(Err(Refusal::silence(self.patience))))
    }

    async fn send(&self, member: Ipv4Addr, call: &str, body: &Value) -> Result<Response> {
        self.connection
            .client()
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
        format!("cannot ask etcd at {}", self.url(member, call))
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
                "the majority of etcd's voting members is needed: see `k8s-bootstrap etcd members`",
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

    async fn is_healthy(&self, member: &Member) -> bool {
        let both = tokio::try_join!(self.status(self.local), self.status(member.address));
        let Ok((ours, theirs)) = both else {
            return false;
        };
        theirs.errors.is_empty()
            && theirs.leader != 0
            && theirs.leader == ours.leader
            && ours.agreed.saturating_sub(theirs.applied) <= LAG
    }

    async fn leader(&self) -> Result<Option<u64>> {
        let leader = self.status(self.local).await?.leader;
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
        // Only the leader itself can hand over.
        let members = self.members().await?;
        let leading = members
            .iter()
            .find(|member| Some(member.id) == leader)
            .ok_or_else(|| Error::failed("etcd has no leader that could hand over"))?;
        let body = json!({"targetID": to.to_string()});
        let call = "maintenance/transfer-leadership";
        self.done::<Value>(leading.address, call, &body)
            .await
            .map(drop)
    }

    async fn snapshot(&self, file: &Path) -> Result<Snapshot> {
        let call = "maintenance/snapshot";
        let answer = self.send(self.local, call, &json!({})).await?;
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
