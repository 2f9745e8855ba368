//! What a simulated instance does: a few phases that take their time, and the real record.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    identity::Identity,
    journal::{Course, Membership},
    phases::{Notes, State, Step, kubeadm::paths, record::RecordCluster},
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
    /// Waits for a control plane that lets one in.
    Ticket,
    /// Makes a part of a member.
    Join(Work),
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
            Self::Record(_) | Self::Ticket => None,
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
        if let Self::Record(record) = self {
            return record.check(world).await;
        }
        let holds = match self.work() {
            Some((kind, work)) => work.is_done(kind, world).await?,
            None => world.cluster.ready().await?,
        };
        Ok(if holds {
            State::AsWanted
        } else {
            State::Differs("it is not there yet".to_owned())
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        if let Self::Record(record) = self {
            return record.apply(world, notes).await;
        }
        if let Some((kind, work)) = self.work() {
            return work.carry_out(kind, world).await;
        }
        until(
            world.clock.as_ref(),
            notes,
            Patience::remote(Duration::from_secs(PEERS)),
            "a control plane",
            || async {
                Ok(if world.cluster.ready().await? {
                    Probe::Done(())
                } else {
                    Probe::NotYet("none answers".to_owned())
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

/// Founding or joining.
#[rustfmt::skip] // one phase a line, to be read as a list
pub fn cluster(me: &Identity, membership: &Membership) -> Vec<Phase<Action>> {
    let work = |part, seconds| Work { part, uid: membership.cluster_uid.clone(), seconds };
    match (membership.course, me.role) {
        (Course::Found, _) => vec![
            phase("certificates", &["kernel"], ACT, Action::Found(work("certificates", 1))),
            phase("etcd", &["certificates", "images"], ACT, Action::Found(work("etcd", 5))),
            phase("api", &["etcd"], ACT, Action::Found(work("api", 5))),
            phase("record-cluster", &["api"], ACT, Action::Record(RecordCluster { cluster_uid: membership.cluster_uid.clone(), founder: me.instance_id.clone() })),
            phase("network", &["record-cluster"], ACT, Action::Found(work("network", 8))),
        ],
        (Course::Join, Role::Worker) => vec![
            phase("ticket", &["images"], PEERS, Action::Ticket),
            phase("kubelet", &["ticket"], ACT, Action::Join(work("kubelet", 3))),
        ],
        (Course::Join, Role::ControlPlane) => vec![
            phase("ticket", &["images"], PEERS, Action::Ticket),
            phase("kubelet", &["ticket"], ACT, Action::Join(work("kubelet", 3))),
            phase("etcd", &["kubelet"], ACT, Action::Join(work("etcd", 12))),
        ],
    }
}
