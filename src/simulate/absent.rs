//! What a simulated instance does not have: it says so to whoever asks.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;

use super::{acts, place::Place, scene::Scene};
use crate::{
    error::{Error, Result},
    ports::{
        self, Applicant, Archive, Caller, CertificateRequests, Cluster, Command, Commands, Dns,
        Download, Downloads, Etcd, Eviction, Hook, InstanceFacts, InstanceState, JoinServices,
        JoinTicket, Member, MemberStatus, Metadata, NodeCondition, Notices, ObjectRef, Output,
        Part, Peers, Proof, RaisedAlarm, RecordSet, Role, Scaling, Snapshot, Sts,
    },
};

/// What a part of the world says that the simulation does not have.
pub fn absent<T>(what: &str) -> Result<T> {
    Err(Error::refused(format!("a simulation has no {what}")))
}

impl Scene {
    /// The cluster that this instance is to belong to.
    fn cluster_of(&self, index: usize) -> &str {
        let membership = self.laws.memberships.get(&index);
        membership.map_or("", |membership| &membership.cluster_uid)
    }

    /// Whether the machine at this address shows a cluster. What its disk says runs on it,
    /// whatever its agent does.
    fn shows_a_cluster(&self, server: SocketAddr) -> bool {
        self.machines.iter().any(|machine| {
            std::net::IpAddr::V4(machine.me.private_ip) == server.ip()
                && machine.me.role == Role::ControlPlane
                && machine.state() == InstanceState::Running
                && acts::has_api(&machine.disk)
        })
    }

    fn answers_to(&self, index: usize) -> bool {
        self.laws.answers(self.cluster_of(index), &self.machines)
    }

    fn members_seen_by(&self, index: usize) -> Vec<Member> {
        let members = self.laws.members.get(self.cluster_of(index));
        let seen = members.into_iter().flatten().map(|index| Member {
            id: u64::try_from(*index).unwrap_or(u64::MAX),
            name: self.machines[*index].me.node_name.clone(),
            address: self.machines[*index].me.private_ip,
            learner: false,
        });
        seen.collect()
    }
}

#[async_trait]
impl Peers for Place {
    async fn shows_a_cluster(&self, server: SocketAddr) -> bool {
        self.scene().shows_a_cluster(server)
    }
}

/// The cluster as one that would join it sees it: whether a control plane answers.
#[async_trait]
impl Cluster for Place {
    async fn ready(&self) -> Result<bool> {
        Ok(self.scene().answers_to(self.index))
    }

    async fn ready_at(&self, _: SocketAddr) -> Result<bool> {
        absent("API servers with addresses")
    }

    async fn apply(&self, _: &str, _: &[Value], _: Duration) -> Result<()> {
        absent("objects in the cluster")
    }

    async fn applied(&self, _: &str, _: &str, _: &str) -> Result<Vec<Value>> {
        absent("objects in the cluster")
    }

    async fn list(&self, _: &str, _: &str, _: Option<&str>) -> Result<Vec<Value>> {
        absent("objects in the cluster")
    }

    async fn delete_seen(&self, _: &Value) -> Result<bool> {
        absent("objects in the cluster")
    }

    async fn delete(&self, _: &str, _: &ObjectRef) -> Result<bool> {
        absent("objects in the cluster")
    }

    async fn compare_and_set(&self, _: &Value) -> Result<bool> {
        absent("objects in the cluster")
    }

    async fn patch(&self, _: &ObjectRef, _: Part, _: &Value) -> Result<()> {
        absent("objects in the cluster")
    }

    async fn pods_on(&self, _: &str) -> Result<Vec<Value>> {
        absent("pods in the cluster")
    }

    async fn evict(&self, _: &ObjectRef) -> Result<Eviction> {
        absent("pods in the cluster")
    }

    async fn not_rolled_out(&self, _: &[Value]) -> Result<Vec<String>> {
        absent("objects in the cluster")
    }

    async fn get(&self, _: &ObjectRef) -> Result<Option<Value>> {
        absent("objects in the cluster")
    }

    async fn node_ready(&self, _: &str) -> Result<Option<NodeCondition>> {
        absent("nodes in the cluster")
    }
}

#[async_trait]
impl Archive for Place {
    async fn put(&self, _: &ports::Place, _: &str, _: &Path) -> Result<()> {
        absent("backups")
    }

    async fn get(&self, _: &ports::Place, _: &str, _: &Path) -> Result<()> {
        absent("backups")
    }

    async fn list(&self, _: &ports::Place, _: &str) -> Result<Vec<String>> {
        absent("backups")
    }

    async fn delete(&self, _: &ports::Place, _: &str) -> Result<()> {
        absent("backups")
    }
}

#[async_trait]
impl Etcd for Place {
    async fn members(&self) -> Result<Vec<Member>> {
        Ok(self.scene().members_seen_by(self.index))
    }

    async fn members_by(&self, _: Ipv4Addr) -> Result<Vec<Member>> {
        absent("etcd")
    }

    async fn status(&self, _: &Member) -> Result<MemberStatus> {
        absent("etcd")
    }

    async fn leader(&self) -> Result<Option<u64>> {
        absent("etcd")
    }

    async fn remove(&self, _: u64) -> Result<()> {
        absent("etcd")
    }

    async fn promote(&self, _: u64) -> Result<()> {
        absent("etcd")
    }

    async fn transfer_leadership(&self, _: u64) -> Result<()> {
        absent("etcd")
    }

    async fn compact(&self, _: u64) -> Result<()> {
        absent("etcd")
    }

    async fn defragment(&self, _: &Member) -> Result<()> {
        absent("etcd")
    }

    async fn disarm(&self, _: RaisedAlarm) -> Result<()> {
        absent("etcd")
    }

    async fn snapshot(&self, _: &Path) -> Result<Snapshot> {
        absent("etcd")
    }
}

#[async_trait]
impl Dns for Place {
    async fn record(&self, _: &str, _: &str) -> Result<Option<RecordSet>> {
        absent("hosted zones")
    }

    async fn write(&self, _: &str, _: &str, _: &RecordSet) -> Result<()> {
        absent("hosted zones")
    }
}

#[async_trait]
impl Scaling for Place {
    async fn waiting_for(&self, _: &str) -> Result<Vec<Hook>> {
        absent("Auto Scaling hooks")
    }

    async fn complete(&self, _: &Hook, _: &str) -> Result<()> {
        absent("Auto Scaling hooks")
    }
}

#[async_trait]
impl CertificateRequests for Place {
    async fn waiting(&self) -> Result<BoxStream<'static, Result<()>>> {
        absent("requests for certificates")
    }

    async fn undecided(&self, _: &str) -> Result<Vec<Value>> {
        absent("requests for certificates")
    }

    async fn decide(&self, _: &Value) -> Result<bool> {
        absent("requests for certificates")
    }
}

#[async_trait]
impl Sts for Place {
    async fn prove(&self, _: &str, _: &str) -> Result<Proof> {
        absent("token service")
    }

    async fn identify(&self, _: &Proof) -> Result<Caller> {
        absent("token service")
    }
}

#[async_trait]
impl JoinServices for Place {
    async fn ask(&self, _: SocketAddr, _: &str, _: &Applicant) -> Result<JoinTicket> {
        absent("join services")
    }
}

#[async_trait]
impl Metadata for Place {
    async fn facts(&self) -> Result<InstanceFacts> {
        absent("metadata service")
    }

    async fn tags(&self) -> Result<Option<BTreeMap<String, String>>> {
        absent("metadata service")
    }

    async fn vpc_networks(&self) -> Result<Vec<String>> {
        absent("metadata service")
    }

    async fn notices(&self) -> Result<Notices> {
        absent("metadata service")
    }

    async fn user_data(&self) -> Result<Option<Vec<u8>>> {
        absent("metadata service")
    }
}

#[async_trait]
impl Commands for Place {
    async fn run(&self, command: Command) -> Result<Output> {
        absent(&command.program)
    }
}

#[async_trait]
impl Downloads for Place {
    async fn fetch(&self, download: &Download) -> Result<()> {
        absent(&download.url)
    }

    async fn text(&self, url: &str, _sha256: &str) -> Result<String> {
        absent(url)
    }
}
