//! Ports that make an agent behave as if its code were wrong.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    error::Result,
    journal,
    kubernetes::paths,
    ports::{
        Clock, Created, Ec2, Etcd, Host, Instance, InstanceState, MachineFacts, Member,
        MemberStatus, Peers, RaisedAlarm, Snapshot, Store, World,
    },
};

/// How an agent misreads the store's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// An error of `create` counts as a failure: the next number is claimed.
    TrustsErrors,
    /// A call without an answer is waited for without a deadline.
    WaitsForEver,
}

struct Calls {
    inner: Arc<dyn Store>,
    fault: Fault,
}

fn calls(world: World, fault: Fault) -> World {
    let store = Arc::new(Calls {
        inner: world.store.clone(),
        fault,
    });
    World { store, ..world }
}

pub fn trusts_errors(world: World) -> World {
    calls(world, Fault::TrustsErrors)
}

pub fn waits_for_ever(world: World) -> World {
    calls(world, Fault::WaitsForEver)
}

#[async_trait]
impl Store for Calls {
    async fn create(&self, key: &str, value: &str) -> Result<Created> {
        let outcome = self.inner.create(key, value).await;
        let number = key
            .strip_prefix("founder/")
            .and_then(|n| n.parse::<u32>().ok());
        match (number, outcome) {
            (Some(number), Err(_)) if self.fault == Fault::TrustsErrors => {
                let next = format!("founder/{}", number + 1);
                self.inner.create(&next, value).await
            }
            (_, Err(_)) if self.fault == Fault::WaitsForEver => std::future::pending().await,
            (_, outcome) => outcome,
        }
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }
}

/// How an agent's memory fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// After a restart the agent remembers nothing.
    Forgets,
    /// The membership is written only after the first act for it.
    Late,
    /// The membership is removed before the files of its cluster.
    First,
    /// After a restart the agent does not remember that the cluster is settled.
    Unsettled,
    /// The agent does not look for etcd's data.
    NoData,
}

struct Disk {
    inner: Arc<dyn Host>,
    memory: Memory,
}

fn disk(world: World, memory: Memory) -> World {
    let inner = world.host.clone();
    World {
        host: Arc::new(Disk { inner, memory }),
        ..world
    }
}

pub fn forgets(world: World) -> World {
    disk(world, Memory::Forgets)
}

pub fn journals_late(world: World) -> World {
    disk(world, Memory::Late)
}

pub fn forgets_first(world: World) -> World {
    disk(world, Memory::First)
}

pub fn forgets_that_it_is_settled(world: World) -> World {
    disk(world, Memory::Unsettled)
}

pub fn looks_for_no_data(world: World) -> World {
    disk(world, Memory::NoData)
}

/// The journal as it would be without the record of a settled cluster.
fn without_settled(content: &[u8]) -> Vec<u8> {
    let mut journal: Value = serde_json::from_slice(content).unwrap();
    journal["settled"] = Value::Null;
    serde_json::to_vec(&journal).unwrap()
}

/// The journal as it would be if the membership came after the first act.
fn without_early_membership(content: &[u8]) -> Vec<u8> {
    let mut journal: Value = serde_json::from_slice(content).unwrap();
    let acted = ["certificates", "kubelet"]
        .iter()
        .any(|phase| !journal["phases"][phase]["held"].is_null());
    if !acted {
        journal["membership"] = Value::Null;
    }
    serde_json::to_vec(&journal).unwrap()
}

#[async_trait]
impl Host for Disk {
    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        if self.memory == Memory::Forgets && path == Path::new(journal::FILE) {
            return Ok(None);
        }
        let content = self.inner.read(path).await?;
        if self.memory == Memory::Unsettled && path == Path::new(journal::FILE) {
            return Ok(content.map(|content| without_settled(&content)));
        }
        Ok(content)
    }

    async fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        if self.memory == Memory::Late && path == Path::new(journal::FILE) {
            let content = without_early_membership(content);
            return self.inner.write(path, &content, mode).await;
        }
        self.inner.write(path, content, mode).await
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        if self.memory == Memory::First {
            self.inner.remove(Path::new(journal::FILE)).await?;
        }
        self.inner.remove(path).await
    }

    async fn list(&self, folder: &Path) -> Result<Option<Vec<PathBuf>>> {
        self.inner.list(folder).await
    }

    async fn exists(&self, path: &Path) -> Result<bool> {
        if self.memory == Memory::NoData && path == Path::new(paths::ETCD_MEMBER) {
            return Ok(false);
        }
        self.inner.exists(path).await
    }

    async fn set_kernel_parameter(&self, path: &Path, value: &str) -> Result<()> {
        self.inner.set_kernel_parameter(path, value).await
    }

    async fn machine(&self) -> Result<MachineFacts> {
        self.inner.machine().await
    }

    async fn port_in_use(&self, port: u16) -> Result<bool> {
        self.inner.port_in_use(port).await
    }

    async fn swap_off(&self, path: &Path) -> Result<()> {
        self.inner.swap_off(path).await
    }

    async fn load_module(&self, name: &str) -> Result<()> {
        self.inner.load_module(name).await
    }

    async fn sha256(&self, path: &Path) -> Result<Option<String>> {
        self.inner.sha256(path).await
    }
}

struct Listing {
    inner: Arc<dyn Ec2>,
}

/// As if EC2 listed stopped instances as terminated.
pub fn takes_the_stopped_for_dead(world: World) -> World {
    let inner = world.ec2.clone();
    World {
        ec2: Arc::new(Listing { inner }),
        ..world
    }
}

fn bury(listed: &mut [Instance]) {
    for instance in listed {
        if instance.state == InstanceState::Stopped {
            instance.state = InstanceState::Terminated;
        }
    }
}

#[async_trait]
impl Ec2 for Listing {
    async fn instances(&self, cluster: &str) -> Result<Vec<Instance>> {
        let mut listed = self.inner.instances(cluster).await?;
        bury(&mut listed);
        Ok(listed)
    }

    async fn by_ids(&self, ids: &[&str]) -> Result<Vec<Instance>> {
        let mut listed = self.inner.by_ids(ids).await?;
        bury(&mut listed);
        Ok(listed)
    }

    async fn tag(&self, instance: &str, key: &str, value: &str) -> Result<()> {
        self.inner.tag(instance, key, value).await
    }
}

struct Members {
    inner: Arc<dyn Etcd>,
}

/// As if etcd had only the members that answer.
pub fn sees_no_dead_members(world: World) -> World {
    let inner = world.etcd.clone();
    World {
        etcd: Arc::new(Members { inner }),
        ..world
    }
}

#[async_trait]
impl Etcd for Members {
    async fn members(&self) -> Result<Vec<Member>> {
        let mut seen = Vec::new();
        for member in self.inner.members().await? {
            if self.inner.is_healthy(&member).await {
                seen.push(member);
            }
        }
        Ok(seen)
    }

    async fn members_by(&self, other: Ipv4Addr) -> Result<Vec<Member>> {
        self.inner.members_by(other).await
    }

    async fn status(&self, member: &Member) -> Result<MemberStatus> {
        self.inner.status(member).await
    }

    async fn leader(&self) -> Result<Option<u64>> {
        self.inner.leader().await
    }

    async fn remove(&self, id: u64) -> Result<()> {
        self.inner.remove(id).await
    }

    async fn promote(&self, id: u64) -> Result<()> {
        self.inner.promote(id).await
    }

    async fn transfer_leadership(&self, to: u64) -> Result<()> {
        self.inner.transfer_leadership(to).await
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        self.inner.compact(revision).await
    }

    async fn defragment(&self, member: &Member) -> Result<()> {
        self.inner.defragment(member).await
    }

    async fn disarm(&self, alarm: RaisedAlarm) -> Result<()> {
        self.inner.disarm(alarm).await
    }

    async fn snapshot(&self, file: &Path) -> Result<Snapshot> {
        self.inner.snapshot(file).await
    }
}

struct Blind;

/// As if no control plane showed anything.
pub fn sees_no_clusters(world: World) -> World {
    World {
        peers: Arc::new(Blind),
        ..world
    }
}

#[async_trait]
impl Peers for Blind {
    async fn shows_a_cluster(&self, _: SocketAddr) -> bool {
        false
    }
}

struct Hasty {
    inner: Arc<dyn Clock>,
    looks: AtomicU32,
}

/// As if an hour passed between two observations, so that every Lease has expired.
pub fn waits_for_no_lease(world: World) -> World {
    let clock = Hasty {
        inner: world.clock.clone(),
        looks: AtomicU32::new(0),
    };
    World {
        clock: Arc::new(clock),
        ..world
    }
}

#[async_trait]
impl Clock for Hasty {
    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn elapsed(&self) -> Duration {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        self.inner.elapsed() + Duration::from_hours(1) * looks
    }

    async fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration).await;
    }

    fn jitter(&self) -> f64 {
        self.inner.jitter()
    }
}
