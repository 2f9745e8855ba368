//! What a simulated instance does: a few phases that take their time, and the real record.

use std::{
    collections::BTreeMap,
    fmt,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    identity::Identity,
    join::will_outlive_its_founder,
    journal::Course,
    observe::Memory,
    phases::{
        Notes, State, Step,
        kubeadm::paths,
        record::{RecordCluster, SettleCluster},
    },
    ports::{Role, World},
    runner::Phase,
    wait::{Patience, Probe, until},
};

/// Below this, what was done lies on an instance's disk.
const FOLDER: &str = "/simulated";

/// Every simulated cluster's CA. Its uid alone tells one cluster from another.
const CA: &str = include_str!("ca.pem");

/// Preparing a host may take so long with all its attempts, in seconds.
const PREPARE: u64 = 900;

/// The same for an act of founding or joining.
const ACT: u64 = 300;

/// Taking a cluster off a machine takes so long.
const REMOVAL: Duration = Duration::from_secs(10);

/// How long a joiner waits for a control plane that answers.
const PEERS: u64 = 1800;

/// One kind of step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Prepares the host.
    Prepare(Work),
    /// Makes a part of a cluster.
    Found(Work),
    /// The real thing.
    Record(RecordCluster),
    /// The real thing.
    Settle(SettleCluster),
    /// Waits for a control plane that lets one in.
    Ticket(Ticket),
    /// Makes a part of a member.
    Join(Work),
    /// Takes all that away.
    Remove,
}

/// What a control plane does for one that it lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ticket {
    /// Says that the cluster is settled.
    settle: SettleCluster,
    /// Who joins as a control plane, at which address.
    control_plane: Option<Ipv4Addr>,
}

impl Ticket {
    /// Whether the store has yet to learn that the cluster is settled.
    async fn is_to_settle(&self, world: &World) -> Result<bool> {
        Ok(self.control_plane.is_some()
            && will_outlive_its_founder(&world.etcd.members().await?, self.control_plane)
            && self.settle.check(world).await? != State::AsWanted)
    }
}

/// Something that takes its time and leaves a file that says for which cluster it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Work {
    /// What is made.
    part: &'static str,
    /// For which cluster; empty where it is for any.
    uid: String,
    /// How long it takes on average.
    seconds: u64,
}

/// The begin or the end of an act, as it is seen on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// To which end.
    pub course: Course,
    /// What is made.
    pub part: String,
    /// Begin or end.
    pub edge: Edge,
}

/// The begin or the end of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It may be half done.
    Begun,
    /// It is done.
    Done,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {:?}", self.course, self.part, self.edge)
    }
}

/// All files that joining leaves on a disk, the last one first.
pub fn of_joining() -> impl Iterator<Item = PathBuf> {
    let names = ["etcd.done", "etcd.begun", "kubelet.done", "kubelet.begun"];
    names
        .into_iter()
        .map(|name| Path::new(FOLDER).join("join").join(name))
}

/// Whether a control plane with this disk runs an API server, ready or not.
pub fn has_api(disk: &BTreeMap<PathBuf, Vec<u8>>) -> bool {
    let begun = ["found/api.begun", "join/etcd.begun"];
    let mut paths = begun.iter().map(|file| Path::new(FOLDER).join(file));
    paths.any(|path| disk.contains_key(&path))
}

/// The act that a file on a disk shows, if it does.
pub fn of(path: &Path) -> Option<Seen> {
    let mut names = path.strip_prefix(FOLDER).ok()?.iter();
    let course = match names.next()?.to_str()? {
        "found" => Course::Found,
        "join" => Course::Join,
        _ => return None,
    };
    let (part, edge) = names.next()?.to_str()?.split_once('.')?;
    Some(Seen {
        course,
        part: part.to_owned(),
        edge: if edge == "done" {
            Edge::Done
        } else {
            Edge::Begun
        },
    })
}

/// Whether an instance of this role serves the cluster's API once the act is done.
pub fn serves(act: &Seen, role: Role) -> bool {
    match act.course {
        Course::Found => act.part == "api",
        Course::Join => act.part == "etcd" && role == Role::ControlPlane,
    }
}

impl Action {
    fn work(&self) -> Option<(&'static str, &Work)> {
        match self {
            Self::Prepare(work) => Some(("host", work)),
            Self::Found(work) => Some(("found", work)),
            Self::Join(work) => Some(("join", work)),
            Self::Record(_) | Self::Settle(_) | Self::Ticket(_) | Self::Remove => None,
        }
    }

    async fn holds(&self, world: &World) -> Result<bool> {
        match self {
            Self::Ticket(ticket) => {
                Ok(world.cluster.ready().await? && !ticket.is_to_settle(world).await?)
            }
            Self::Remove => {
                for path in of_joining() {
                    if world.host.exists(&path).await? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => match self.work() {
                Some((kind, work)) => work.is_done(kind, world).await,
                None => Ok(true),
            },
        }
    }
}

impl Work {
    fn file(&self, kind: &str, edge: &str) -> PathBuf {
        Path::new(FOLDER)
            .join(kind)
            .join(format!("{}.{edge}", self.part))
    }

    async fn is_done(&self, kind: &str, world: &World) -> Result<bool> {
        let there = world.host.read(&self.file(kind, "done")).await?;
        Ok(there.is_some_and(|uid| uid == self.uid.as_bytes()))
    }

    async fn carry_out(&self, kind: &str, world: &World) -> Result<()> {
        let uid = self.uid.as_bytes();
        world
            .host
            .write(&self.file(kind, "begun"), uid, 0o600)
            .await?;
        let time = Duration::from_secs(self.seconds).mul_f64(0.5 + world.clock.jitter());
        world.clock.sleep(time).await;
        if kind == "join" && !world.cluster.ready().await? {
            return Err(Error::failed("connection refused by all control planes"));
        }
        if kind == "found" && self.part == "certificates" {
            let ca = Path::new(paths::CA);
            world.host.write(ca, CA.as_bytes(), 0o644).await?;
        }
        world.host.write(&self.file(kind, "done"), uid, 0o600).await
    }
}

#[async_trait]
impl Step for Action {
    async fn check(&self, world: &World) -> Result<State> {
        match self {
            Self::Record(record) => record.check(world).await,
            Self::Settle(settle) => settle.check(world).await,
            _ if self.holds(world).await? => Ok(State::AsWanted),
            _ => Ok(State::Differs("it is not there yet".to_owned())),
        }
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        if let Some((kind, work)) = self.work() {
            return work.carry_out(kind, world).await;
        }
        match self {
            Self::Record(record) => record.apply(world, notes).await,
            Self::Settle(settle) => settle.apply(world, notes).await,
            Self::Ticket(ticket) => ticket.wait(world, notes).await,
            _ => {
                world.clock.sleep(REMOVAL).await;
                for path in of_joining() {
                    world.host.remove(&path).await?;
                }
                Ok(())
            }
        }
    }
}

impl Ticket {
    async fn wait(&self, world: &World, notes: &Notes) -> Result<()> {
        until(
            world.clock.as_ref(),
            notes,
            Patience::remote(Duration::from_secs(PEERS)),
            "a control plane",
            || async {
                if !world.cluster.ready().await? {
                    return Ok(Probe::NotYet("none answers".to_owned()));
                }
                if !self.is_to_settle(world).await? {
                    return Ok(Probe::Done(()));
                }
                // It is the control plane that does so, and a joiner asks again whatever it says.
                Ok(match self.settle.apply(world, notes).await {
                    Ok(()) => Probe::Done(()),
                    Err(error) => Probe::NotYet(error.one_line()),
                })
            },
        )
        .await
    }
}

fn phase(name: &str, after: &[&str], deadline_seconds: u64, step: Action) -> Phase<Action> {
    Phase {
        name: name.to_owned(),
        why: String::new(),
        after: after.iter().map(ToString::to_string).collect(),
        deadline_seconds,
        step,
    }
}

// Within each plan one phase follows the other: which of two waiters a channel wakes first is
// left to chance, and not to the seed's.

/// Preparing the host.
#[rustfmt::skip] // one phase a line, to be read as a list
pub fn host() -> Vec<Phase<Action>> {
    let work = |part, seconds| Action::Prepare(Work { part, uid: String::new(), seconds });
    vec![
        phase("kernel", &[], PREPARE, work("kernel", 2)),
        phase("images", &["kernel"], PREPARE, work("images", 25)),
    ]
}

/// Starting over.
pub fn removal() -> Vec<Phase<Action>> {
    vec![phase("remove", &[], ACT, Action::Remove)]
}

/// Founding or joining.
#[rustfmt::skip] // one phase a line, to be read as a list
pub fn cluster(me: &Identity, memory: &Memory) -> Vec<Phase<Action>> {
    let Some(membership) = &memory.membership else {
        return Vec::new();
    };
    let work = |part, seconds| Work { part, uid: membership.cluster_uid.clone(), seconds };
    let settle = || SettleCluster { cluster_uid: membership.cluster_uid.clone(), instance: me.instance_id.clone() };
    let ticket = |control_plane| Action::Ticket(Ticket { settle: settle(), control_plane });
    match (membership.course, me.role) {
        (Course::Found, _) if memory.settled.is_some() => vec![
            phase("certificates", &["kernel"], ACT, Action::Found(work("certificates", 1))),
            phase("etcd", &["certificates", "images"], ACT, Action::Found(work("etcd", 5))),
            phase("api", &["etcd"], ACT, Action::Found(work("api", 5))),
            phase("addons", &["api"], ACT, Action::Found(work("addons", 60))),
        ],
        (Course::Found, _) => vec![
            phase("certificates", &["kernel"], ACT, Action::Found(work("certificates", 1))),
            phase("etcd", &["certificates", "images"], ACT, Action::Found(work("etcd", 5))),
            phase("api", &["etcd"], ACT, Action::Found(work("api", 5))),
            phase("record-cluster", &["api"], ACT, Action::Record(RecordCluster { cluster_uid: membership.cluster_uid.clone(), founder: me.instance_id.clone() })),
            phase("addons", &["record-cluster"], ACT, Action::Found(work("addons", 60))),
            phase("settle-cluster", &["addons"], ACT, Action::Settle(settle())),
        ],
        (Course::Join, Role::Worker) => vec![
            phase("ticket", &["images"], PEERS, ticket(None)),
            phase("kubelet", &["ticket"], ACT, Action::Join(work("kubelet", 3))),
        ],
        (Course::Join, Role::ControlPlane) => vec![
            phase("ticket", &["images"], PEERS, ticket(Some(me.private_ip))),
            phase("kubelet", &["ticket"], ACT, Action::Join(work("kubelet", 3))),
            phase("etcd", &["kubelet"], ACT, Action::Join(work("etcd", 12))),
        ],
    }
}
