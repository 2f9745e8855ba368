//! What a simulated instance does: a few phases that take time, and the real record.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;

use super::joining;
use crate::{
    config::Settings,
    error::{Error, Result},
    identity::Identity,
    kubernetes::paths,
    observe::{Memory, Origin},
    plan::Phase,
    ports::{Role, World},
    steps::{
        State, Step,
        cluster_record::{RecordCluster, SettleCluster},
        kubeadm::{Join, Ticket},
        renewal::{Renewal, Which},
    },
    wait::Notes,
};

/// The folder on an instance's disk that shows what was done.
const FOLDER: &str = "/simulated";

/// Deadline for preparing a host with all its attempts, in seconds.
const PREPARE: u64 = 900;

/// Deadline for an act of founding or joining, in seconds.
const ACT: u64 = 300;

/// How long it takes to remove a cluster from a machine.
const REMOVAL: Duration = Duration::from_secs(10);

/// One kind of step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Refuses a machine that cannot become a node.
    Preflight,
    /// Prepares the host.
    Prepare(Work),
    /// Creates a part of a cluster.
    Found(Work),
    /// The agent's own step: the founder records its cluster.
    Record(RecordCluster),
    /// The agent's own step: the founder settles its cluster.
    Settle(SettleCluster),
    /// The agent's own step: a worker gets its ticket early.
    Ticket(Ticket),
    /// The agent's own step: an instance joins.
    Join(Join),
    /// The agent's own step: certificates are renewed.
    Renew(Renewal),
    /// Removes everything that founding or joining left.
    Remove,
}

/// Work that takes time and leaves a file with the uid of the cluster that it was done for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Work {
    /// What is created.
    part: &'static str,
    /// The cluster; empty if the work is for any cluster.
    uid: String,
    /// Average duration.
    seconds: u64,
}

/// The start or the end of an act, as a file on the disk shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Founds or joins.
    pub origin: Origin,
    /// What is created.
    pub part: String,
    /// Start or end.
    pub edge: Edge,
}

/// The start or the end of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It may be half done.
    Begun,
    /// It is done.
    Done,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {:?}", self.origin, self.part, self.edge)
    }
}

/// The file that shows the start or the end of a part.
pub fn trace(origin: &str, part: &str, edge: &str) -> PathBuf {
    PathBuf::from(format!("{FOLDER}/{origin}/{part}.{edge}"))
}

/// All files that joining may leave on a disk, the last one first.
pub fn of_joining() -> impl Iterator<Item = PathBuf> {
    let acts = [
        ("etcd", "done"),
        ("etcd", "begun"),
        ("kubelet", "done"),
        ("kubelet", "begun"),
    ];
    acts.into_iter()
        .map(|(part, edge)| trace("join", part, edge))
}

/// All files that founding or joining may have left on a disk.
fn left_behind() -> impl Iterator<Item = PathBuf> {
    joining::FILES.iter().map(PathBuf::from).chain(of_joining())
}

/// The act that a file on a disk shows; `None` if it shows none.
pub fn of(path: &Path) -> Option<Seen> {
    let mut names = path.strip_prefix(FOLDER).ok()?.iter();
    let origin = match names.next()?.to_str()? {
        "found" => Origin::Founded,
        "join" => Origin::Joined,
        _ => return None,
    };
    let (part, edge) = names.next()?.to_str()?.split_once('.')?;
    Some(Seen {
        origin,
        part: part.to_owned(),
        edge: if edge == "done" {
            Edge::Done
        } else {
            Edge::Begun
        },
    })
}

impl Action {
    fn work(&self) -> Option<(&'static str, &Work)> {
        match self {
            Self::Prepare(work) => Some(("host", work)),
            Self::Found(work) => Some(("found", work)),
            Self::Preflight
            | Self::Record(_)
            | Self::Settle(_)
            | Self::Ticket(_)
            | Self::Join(_)
            | Self::Renew(_)
            | Self::Remove => None,
        }
    }

    async fn holds(&self, world: &World) -> Result<bool> {
        match self {
            Self::Preflight => {
                if world.host.machine().await?.disk_free_bytes > 0 {
                    return Ok(true);
                }
                Err(Error::refused("this machine has no space").hint("launch a larger one"))
            }
            Self::Remove => {
                for path in left_behind() {
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
        trace(kind, self.part, edge)
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
        let made = match (kind, self.part) {
            ("found", "certificates") => vec![(paths::CA, joining::ca(&self.uid))],
            ("found", "etcd") => vec![
                (joining::MANIFEST, String::new()),
                (paths::ETCD_MEMBER, self.uid.clone()),
            ],
            _ => Vec::new(),
        };
        for (path, content) in made {
            if !world.host.exists(Path::new(path)).await? {
                let content = content.as_bytes();
                world.host.write(Path::new(path), content, 0o600).await?;
            }
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
            Self::Ticket(ticket) => ticket.check(world).await,
            Self::Join(join) => join.check(world).await,
            Self::Renew(renewal) => renewal.check(world).await,
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
            Self::Ticket(ticket) => ticket.apply(world, notes).await,
            Self::Join(join) => join.apply(world, notes).await,
            Self::Renew(renewal) => renewal.apply(world, notes).await,
            _ => {
                world.clock.sleep(REMOVAL).await;
                for path in left_behind() {
                    world.host.remove(&path).await?;
                }
                Ok(())
            }
        }
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

/// Renews certificates that are no longer accepted, before anything needs them.
const RENEWAL: &str = "renewal";

/// The phase `renewal`.
pub fn renewal(settings: &Settings, me: &Identity, after: &[&str]) -> Phase<Action> {
    let step = Renewal::new(Which::Useless, settings, me);
    phase(RENEWAL, after, ACT, Action::Renew(step))
}

// In each plan the phases run one after the other: which of two waiters a channel wakes first does
// not follow from the seed.

/// Prepares the host.
#[rustfmt::skip] // one phase a line, to be read as a list
pub fn host() -> Vec<Phase<Action>> {
    let work = |part, seconds| Action::Prepare(Work { part, uid: String::new(), seconds });
    vec![
        phase("preflight", &[], PREPARE, Action::Preflight),
        phase("kernel", &["preflight"], PREPARE, work("kernel", 2)),
        phase("images", &["kernel"], PREPARE, work("images", 25)),
    ]
}

/// Starts over.
pub fn removal() -> Vec<Phase<Action>> {
    vec![phase("remove", &[], ACT, Action::Remove)]
}

/// Founds or joins.
#[rustfmt::skip] // one phase a line, to be read as a list
pub fn cluster(settings: &Settings, me: &Identity, memory: &Memory) -> Result<Vec<Phase<Action>>> {
    let Some(membership) = &memory.membership else {
        return Ok(Vec::new());
    };
    let uid = &membership.cluster_uid;
    let work = |part, seconds| Work { part, uid: uid.clone(), seconds };
    Ok(match membership.origin {
        Origin::Founded => {
            let mut plan = vec![
                phase("certificates", &["kernel", RENEWAL], ACT, Action::Found(work("certificates", 1))),
                phase("etcd", &["certificates", "images"], ACT, Action::Found(work("etcd", 5))),
                phase("api", &["etcd"], ACT, Action::Found(work("api", 5))),
                phase("record-cluster", &["api"], ACT, Action::Record(RecordCluster { cluster_uid: uid.clone(), founder: me.instance_id.clone() })),
                phase("addons", &["record-cluster"], ACT, Action::Found(work("addons", 60))),
                phase("settle-cluster", &["addons"], ACT, Action::Settle(SettleCluster { cluster_uid: uid.clone(), instance: me.instance_id.clone() })),
            ];
            if memory.settled.is_some() {
                plan.truncate(3);
            }
            plan.insert(0, renewal(settings, me, &[]));
            plan
        }
        Origin::Joined if me.role == Role::ControlPlane => vec![
            renewal(settings, me, &[]),
            phase("join", &["images", RENEWAL], settings.deadlines.peers + settings.deadlines.join, Action::Join(Join::new(settings, me, uid)?)),
        ],
        Origin::Joined => {
            let join = Join::new(settings, me, uid)?;
            let within = settings.deadlines.peers + settings.deadlines.join;
            vec![
                phase("join-ticket", &["kernel"], within, Action::Ticket(Ticket::before(&join))),
                phase("join", &["images", "join-ticket"], within, Action::Join(join)),
            ]
        }
    })
}
