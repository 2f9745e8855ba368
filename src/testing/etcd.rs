//! An etcd cluster in memory, which refuses changes by the same rules as the real one.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::Files;
use crate::{
    error::{Error, Result},
    ports::{Alarm, Database, Etcd, Member, MemberStatus, RaisedAlarm, Snapshot},
};

/// A snapshot as etcd writes it: a database followed by its digest.
pub fn sealed(database: &[u8]) -> Vec<u8> {
    [database, &Sha256::digest(database)].concat()
}

/// A member and its state.
#[derive(Debug, Clone)]
struct Seat {
    member: Member,
    up: bool,
    behind: bool,
    database: Database,
    /// Bytes left after compaction.
    live: u64,
}

/// The state of the cluster.
#[derive(Default)]
struct Members {
    seats: Vec<Seat>,
    leader: Option<u64>,
    last: u64,
    /// Members that ran and were removed: their processes end.
    removed: Vec<Seat>,
    alarms: BTreeSet<RaisedAlarm>,
    /// Compactions, defragmentations and disarmed alarms, in order.
    maintained: Vec<String>,
}

/// The id of the cluster.
const ETCD_CLUSTER: u64 = 0xc1;

/// The revision of the newest key.
const REVISION: u64 = 700;

/// Maximum size of a member's file in bytes.
const QUOTA: u64 = 8 << 30;

/// A cluster without members until a test adds some; ids count from 1.
///
/// Several machines share one: see [`FakeEtcd::seen_from`].
pub struct FakeEtcd {
    state: Arc<Mutex<Members>>,
    files: Arc<Files>,
    /// The address of the member on this machine, if a test sets it.
    local: Mutex<Option<Ipv4Addr>>,
}

impl FakeEtcd {
    /// An empty cluster, seen from the machine with these files.
    pub fn on(files: Arc<Files>) -> Self {
        Self {
            state: Arc::default(),
            files,
            local: Mutex::default(),
        }
    }

    /// The same cluster, seen from another machine.
    pub fn seen_from(&self, files: Arc<Files>) -> Self {
        Self {
            state: self.state.clone(),
            files,
            local: Mutex::default(),
        }
    }

    /// Sets this machine's member, at 10.42.0.`last`: once removed, it no longer answers.
    pub fn local(&self, last: u8) {
        *self.local.lock().unwrap() = Some([10, 42, 0, last].into());
    }

    fn is_local_gone(&self) -> bool {
        let local = *self.local.lock().unwrap();
        let removed = &self.state().removed;
        removed
            .iter()
            .any(|seat| Some(seat.member.address) == local)
    }

    fn state(&self) -> MutexGuard<'_, Members> {
        self.state.lock().unwrap()
    }

    /// Adds a voter that is up, on this node at 10.42.0.`last`; the first one leads.
    pub fn voter(&self, name: &str, last: u8) -> Member {
        self.seat(name, last, false)
    }

    /// Adds a learner; the name "" means that it has not started yet.
    pub fn learner(&self, name: &str, last: u8) -> Member {
        self.seat(name, last, true)
    }

    fn seat(&self, name: &str, last: u8, learner: bool) -> Member {
        let mut state = self.state();
        state.last += 1;
        let member = Member {
            id: state.last,
            name: name.to_owned(),
            address: Ipv4Addr::from([10, 42, 0, last]),
            learner,
        };
        state.seats.push(Seat {
            member: member.clone(),
            up: !name.is_empty(),
            behind: false,
            database: Database {
                bytes: 20 << 20,
                in_use: 15 << 20,
                quota: QUOTA,
            },
            live: 10 << 20,
        });
        state.elect();
        member
    }

    /// Stops the member's process; another member then leads, if a majority is left.
    pub fn stop(&self, id: u64) {
        self.change(id, |seat| seat.up = false);
    }

    /// Starts the member's process again.
    pub fn start(&self, id: u64) {
        self.change(id, |seat| seat.up = true);
    }

    /// Sets whether the member is behind in the log.
    pub fn behind(&self, id: u64, behind: bool) {
        self.change(id, |seat| seat.behind = behind);
    }

    /// How many members there are, learners included.
    pub fn count(&self) -> usize {
        self.state().seats.len()
    }

    /// Sets the size of the member's file, the bytes in use, and the bytes that compaction leaves.
    pub fn database(&self, id: u64, bytes: u64, in_use: u64, live: u64) {
        self.change(id, |seat| {
            seat.database.bytes = bytes;
            seat.database.in_use = in_use;
            seat.live = live;
        });
    }

    /// Raises an alarm on the member.
    pub fn alarm(&self, member: u64, alarm: Alarm) {
        self.state().alarms.insert(RaisedAlarm { member, alarm });
    }

    /// The alarms that are raised.
    pub fn alarms(&self) -> BTreeSet<RaisedAlarm> {
        self.state().alarms.clone()
    }

    /// Returns the maintenance done since the last call.
    pub fn maintained(&self) -> Vec<String> {
        std::mem::take(&mut self.state().maintained)
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Seat)) {
        let mut state = self.state();
        let seat = state.seats.iter_mut().find(|seat| seat.member.id == id);
        change(seat.expect("a member"));
        state.elect();
    }
}

impl Members {
    fn voters(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| !seat.member.learner)
    }

    fn has_majority(&self) -> bool {
        let up = self.voters().filter(|seat| seat.up).count();
        up > self.voters().count() / 2
    }

    fn elect(&mut self) {
        let leads = |seat: &&Seat| seat.up && Some(seat.member.id) == self.leader;
        self.leader = if self.has_majority() {
            let stays = self.voters().find(leads);
            let next = stays.or_else(|| self.voters().find(|seat| seat.up));
            next.map(|seat| seat.member.id)
        } else {
            None
        };
    }

    fn answers(&self) -> Result<()> {
        if self.seats.iter().any(|seat| seat.up) {
            return Ok(());
        }
        Err(Error::failed("cannot call etcd: connection refused"))
    }

    fn agrees(&self) -> Result<()> {
        self.answers()?;
        if self.has_majority() {
            return Ok(());
        }
        Err(Error::failed("etcdserver: request timed out"))
    }

    /// etcd's own rule, `--strict-reconfig-check`.
    fn may_lose(&self, leaving: &Seat) -> Result<()> {
        if leaving.member.learner {
            return Ok(());
        }
        let left: Vec<&Seat> = self
            .voters()
            .filter(|seat| seat.member.id != leaving.member.id)
            .collect();
        let quorum = left.len() / 2 + 1;
        let started = left.iter().filter(|s| !s.member.name.is_empty()).count();
        if started < quorum {
            return Err(Error::failed(
                "etcdserver: re-configuration failed due to not enough started members",
            ));
        }
        let up = left.iter().filter(|seat| seat.up).count();
        if leaving.up && up < quorum {
            return Err(Error::failed("etcdserver: unhealthy cluster"));
        }
        Ok(())
    }
}

#[async_trait]
impl Etcd for FakeEtcd {
    async fn members(&self) -> Result<Vec<Member>> {
        if self.is_local_gone() {
            return Err(Error::failed("cannot call etcd: connection refused"));
        }
        let state = self.state();
        state.answers()?;
        Ok(state.seats.iter().map(|seat| seat.member.clone()).collect())
    }

    async fn members_by(&self, other: Ipv4Addr) -> Result<Vec<Member>> {
        let state = self.state();
        let asked = |seat: &&Seat| seat.member.address == other && seat.up;
        if !state.seats.iter().any(|seat| asked(&seat)) {
            return Err(Error::failed("cannot call etcd: connection refused"));
        }
        Ok(state.seats.iter().map(|seat| seat.member.clone()).collect())
    }

    async fn status(&self, member: &Member) -> Result<MemberStatus> {
        let state = self.state();
        let asked = |seat: &&Seat| seat.member.id == member.id && seat.up;
        let seat = state.seats.iter().find(asked);
        let seat = seat.ok_or_else(|| Error::failed("cannot call etcd: connection refused"))?;
        Ok(MemberStatus {
            cluster: ETCD_CLUSTER,
            leader: state.leader,
            in_step: state.leader.is_some() && !seat.behind,
            alarms: state.alarms.clone(),
            revision: REVISION,
            database: seat.database,
        })
    }

    async fn leader(&self) -> Result<Option<u64>> {
        let state = self.state();
        state.answers()?;
        Ok(state.leader)
    }

    async fn remove(&self, id: u64) -> Result<()> {
        let mut state = self.state();
        state.agrees()?;
        if let Some(seat) = state.seats.iter().find(|seat| seat.member.id == id) {
            state.may_lose(seat)?;
        }
        let (gone, left) = std::mem::take(&mut state.seats)
            .into_iter()
            .partition(|seat| seat.member.id == id);
        state.seats = left;
        state.removed.extend::<Vec<_>>(gone);
        state.elect();
        Ok(())
    }

    async fn promote(&self, id: u64) -> Result<()> {
        let mut state = self.state();
        state.agrees()?;
        let seat = state.seats.iter_mut().find(|seat| seat.member.id == id);
        let Some(seat) = seat else {
            return Err(Error::failed("etcdserver: member not found"));
        };
        if seat.member.learner && (seat.behind || !seat.up) {
            return Err(Error::failed(
                "etcdserver: can only promote a learner member which is in sync with leader",
            ));
        }
        seat.member.learner = false;
        Ok(())
    }

    async fn transfer_leadership(&self, to: u64) -> Result<()> {
        let mut state = self.state();
        state.agrees()?;
        if !state.voters().any(|seat| seat.member.id == to && seat.up) {
            return Err(Error::failed("etcdserver: bad leader transferee"));
        }
        state.leader = Some(to);
        Ok(())
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        let mut state = self.state();
        state.agrees()?;
        state.maintained.push(format!("compact {revision}"));
        for seat in &mut state.seats {
            seat.database.in_use = seat.live;
        }
        Ok(())
    }

    async fn defragment(&self, member: &Member) -> Result<()> {
        self.status(member).await?;
        let mut state = self.state();
        state.maintained.push(format!("defragment {}", member.id));
        let defragmented = |seat: &&mut Seat| seat.member.id == member.id;
        if let Some(seat) = state.seats.iter_mut().find(defragmented) {
            seat.database.bytes = seat.database.in_use;
        }
        Ok(())
    }

    async fn disarm(&self, alarm: RaisedAlarm) -> Result<()> {
        let mut state = self.state();
        state.agrees()?;
        let RaisedAlarm {
            member,
            alarm: word,
        } = alarm;
        state
            .maintained
            .push(format!("disarm {member} {}", word.as_str()));
        state.alarms.remove(&alarm);
        Ok(())
    }

    async fn snapshot(&self, file: &Path) -> Result<Snapshot> {
        self.state().answers()?;
        let content = sealed(&[7; 4096]);
        self.files.put(file, &content);
        Ok(Snapshot {
            bytes: content.len() as u64,
            sha256: hex::encode(Sha256::digest(&content)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster_of(names: &[&str]) -> (FakeEtcd, Vec<Member>) {
        let etcd = FakeEtcd::on(Arc::new(Files::none()));
        let members = (11..).zip(names).map(|(last, name)| etcd.voter(name, last));
        let members = members.collect();
        (etcd, members)
    }

    #[tokio::test]
    async fn a_removal_never_costs_the_majority() {
        let (etcd, members) = cluster_of(&["a", "b", "c"]);
        etcd.stop(members[2].id);
        assert!(etcd.remove(members[1].id).await.is_err());
        etcd.remove(members[2].id).await.unwrap();
        etcd.remove(members[2].id).await.unwrap();
        etcd.remove(members[1].id).await.unwrap();
        assert!(etcd.remove(members[0].id).await.is_err());
        assert_eq!(etcd.members().await.unwrap(), members[..1]);
    }

    #[tokio::test]
    async fn without_a_majority_nothing_changes_and_the_members_can_be_listed() {
        let (etcd, members) = cluster_of(&["a", "b", "c"]);
        let learner = etcd.learner("d", 14);
        etcd.stop(members[0].id);
        assert_eq!(etcd.leader().await.unwrap(), Some(members[1].id));
        etcd.stop(members[2].id);
        assert_eq!(etcd.leader().await.unwrap(), None);
        assert!(!etcd.status(&members[1]).await.unwrap().in_step);
        assert!(etcd.remove(members[0].id).await.is_err());
        assert!(etcd.promote(learner.id).await.is_err());
        assert_eq!(etcd.members().await.unwrap().len(), 4);
        etcd.start(members[0].id);
        assert!(etcd.status(&members[1]).await.unwrap().in_step);
    }

    #[tokio::test]
    async fn a_learner_votes_once_it_has_caught_up() {
        let (etcd, members) = cluster_of(&["a"]);
        let learner = etcd.learner("b", 12);
        etcd.behind(learner.id, true);
        assert!(etcd.promote(learner.id).await.is_err());
        assert!(etcd.transfer_leadership(learner.id).await.is_err());
        etcd.behind(learner.id, false);
        etcd.promote(learner.id).await.unwrap();
        etcd.promote(learner.id).await.unwrap();
        etcd.transfer_leadership(learner.id).await.unwrap();
        assert_eq!(etcd.leader().await.unwrap(), Some(learner.id));
        etcd.remove(learner.id).await.unwrap();
        assert_eq!(etcd.leader().await.unwrap(), Some(members[0].id));
    }
}
