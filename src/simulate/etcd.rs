//! etcd of the simulated clusters: its members, their votes, and which processes run.
//!
//! A member's process runs while its machine is on and has the member's data on its disk, as a
//! static pod does without any agent. Without a majority of the voters nothing can be changed.

use std::{net::Ipv4Addr, path::Path};

use async_trait::async_trait;

use super::{
    absent::absent,
    joining,
    laws::{Law, STOPPED},
    place::Place,
    scene::Scene,
    services::API,
};
use crate::{
    error::{Error, Result},
    identity::Identity,
    ports::{Etcd, Member, MemberStatus, RaisedAlarm, Snapshot},
};

/// A member, and the machine that it was added for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The member as etcd lists it.
    pub member: Member,
    /// Its index in [`Scene::machines`].
    pub owner: usize,
}

impl Seat {
    /// Whether it ever ran.
    fn has_started(&self) -> bool {
        !self.member.name.is_empty()
    }
}

/// The members of one cluster's etcd.
#[derive(Debug, Default)]
pub struct Quorum {
    /// The members that were added and not removed.
    pub seats: Vec<Seat>,
    /// The last id that was given.
    last: u64,
}

impl Quorum {
    /// Makes one machine the only member; returns the member's id.
    pub fn begins_with(&mut self, me: &Identity, owner: usize) -> u64 {
        self.last += 1;
        let member = Member {
            id: self.last,
            name: String::new(),
            address: me.private_ip,
            learner: false,
        };
        self.seats = vec![Seat { member, owner }];
        self.last
    }

    /// The members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| !seat.member.learner)
    }
}

/// etcd's data on a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// The uid of the cluster whose data it is.
    pub uid: String,
    /// The id of the member that wrote it.
    pub id: u64,
    /// Whether the member never ran with other data. A learner that did waits for a log that it
    /// never gets.
    pub whole: bool,
}

fn refused(why: &str) -> Error {
    Error::failed(format!("etcdserver: {why}"))
}

impl Scene {
    /// Whether one machine can reach the other.
    pub fn reach(&self, one: usize, other: usize) -> bool {
        one == other || self.cut.contains(&one) == self.cut.contains(&other)
    }

    /// The member whose data is on this machine, if it is still a member.
    pub fn seat_of(&self, index: usize) -> Option<&Seat> {
        let data = self.machines[index].data.as_ref()?;
        let seats = &self.etcd.get(&data.uid)?.seats;
        seats.iter().find(|seat| seat.member.id == data.id)
    }

    fn has_data(&self, uid: &str, seat: &Seat) -> bool {
        let data = self.machines[seat.owner].data.as_ref();
        data.is_some_and(|data| data.uid == uid && data.id == seat.member.id)
    }

    /// Whether the member's process runs.
    fn runs(&self, uid: &str, seat: &Seat) -> bool {
        self.runs_etcd(seat.owner) && self.has_data(uid, seat)
    }

    /// Whether a process of etcd runs on this machine, as a static pod.
    pub fn runs_etcd(&self, index: usize) -> bool {
        let machine = &self.machines[index];
        let manifest = machine.disk.contains_key(Path::new(joining::MANIFEST));
        machine.is_on() && manifest && machine.data.is_some()
    }

    /// Whether the member runs and this machine can reach it.
    fn answers(&self, uid: &str, seat: &Seat, from: usize) -> bool {
        self.runs(uid, seat) && self.reach(from, seat.owner)
    }

    /// The leader among the voters that this machine can reach: any of them, but always the same
    /// one.
    fn leader(&self, uid: &str, from: usize) -> Option<u64> {
        let quorum = self
            .etcd
            .get(uid)
            .filter(|_| self.has_majority(uid, from))?;
        let mut voters = quorum.voters();
        let leader = voters.find(|seat| self.answers(uid, seat, from));
        leader.map(|seat| seat.member.id)
    }

    /// How many of these members answer this machine, and how many there are.
    fn count<'a>(
        &self,
        uid: &str,
        from: usize,
        seats: impl Iterator<Item = &'a Seat>,
    ) -> (usize, usize) {
        seats.fold((0, 0), |(up, all), seat| {
            (up + usize::from(self.answers(uid, seat, from)), all + 1)
        })
    }

    /// Whether most voters of the cluster answer this machine.
    pub fn has_majority(&self, uid: &str, from: usize) -> bool {
        self.etcd.get(uid).is_some_and(|quorum| {
            let (up, all) = self.count(uid, from, quorum.voters());
            up * 2 > all
        })
    }

    /// Whether a settled cluster has permanently lost its majority: a person must restore it.
    pub fn is_lost(&self) -> bool {
        let Some(uid) = &self.laws.settled else {
            return false;
        };
        self.etcd.get(uid).is_some_and(|quorum| {
            let (left, all) = quorum.voters().fold((0, 0), |(left, all), seat| {
                let gone = self.machines[seat.owner].state().is_gone() || !self.has_data(uid, seat);
                (left + usize::from(!gone), all + 1)
            });
            left * 2 <= all
        })
    }

    /// Whether the settled cluster's record is complete, and no Node or member of a dead instance
    /// is left.
    pub fn is_whole(&self) -> bool {
        let Some(uid) = &self.laws.settled else {
            return true;
        };
        let lives = |index: usize| !self.machines[index].state().is_gone();
        let seats = self.etcd.get(uid).map_or(&[][..], |quorum| &quorum.seats);
        let nodes = self.nodes(uid).all(|id| {
            let mut machines = self.machines.iter();
            machines.any(|m| m.me.instance_id == id && !m.state().is_gone())
        });
        self.lost_keys.is_empty()
            && nodes
            && seats
                .iter()
                .all(|seat| lives(seat.owner) && !seat.member.learner)
    }

    /// Adds a member for this machine, or reuses the one with its address, as kubeadm does.
    pub fn add_learner(&mut self, by: usize, uid: &str) -> Result<()> {
        if self.server_for(by, uid).is_none() {
            return Err(Error::failed("no etcd endpoint answers"));
        }
        let address = self.machines[by].me.private_ip;
        let Some(quorum) = self.etcd.get_mut(uid) else {
            return Err(Error::failed("no etcd endpoint answers"));
        };
        if quorum
            .seats
            .iter()
            .any(|seat| seat.member.address == address)
        {
            return Ok(());
        }
        if quorum.seats.iter().any(|seat| seat.member.learner) {
            return Err(refused("too many learner members in cluster"));
        }
        quorum.last += 1;
        let member = Member {
            id: quorum.last,
            name: String::new(),
            address,
            learner: true,
        };
        quorum.seats.push(Seat { member, owner: by });
        self.note_of(by, || "is added to etcd".to_owned());
        Ok(())
    }

    /// etcd starts on an empty disk: as the first member of its cluster, or as the member with this
    /// machine's address.
    pub fn begins_data(&mut self, by: usize, uid: &str) {
        let me = self.machines[by].me.clone();
        let quorum = self.etcd.entry(uid.to_owned()).or_default();
        if quorum.seats.is_empty() {
            quorum.begins_with(&me, by);
        }
        let mut seats = quorum.seats.iter_mut();
        let seat = seats.find(|seat| seat.member.address == me.private_ip);
        let Some(seat) = seat else {
            let what = format!("{} founds {uid} over members of it", self.machines[by]);
            self.laws.broke(Law::DataKept, what);
            return;
        };
        let id = seat.member.id;
        let whole = !seat.has_started();
        if !whole && !seat.member.learner {
            let what = format!(
                "{} starts with an empty disk as member {id} of {}, which had data",
                self.machines[by], self.machines[seat.owner]
            );
            self.laws.broke(Law::DataKept, what);
            return;
        }
        seat.member.name.clone_from(&me.node_name);
        let uid = uid.to_owned();
        self.machines[by].data = Some(Data { uid, id, whole });
    }

    /// The data is removed from the disk.
    pub fn ends_data(&mut self, by: usize) {
        let seat = self.seat_of(by).cloned();
        let Some(Data { uid, .. }) = self.machines[by].data.take() else {
            return;
        };
        let Some(seat) = seat.filter(|seat| !seat.member.learner) else {
            return;
        };
        if self.laws.is_abandoned(&uid, &self.machines) {
            let last = self.laws.claims.last();
            if last.is_some_and(|(_, claim)| claim.cluster_uid == uid) {
                let what = format!("{} deletes etcd's data of {uid}", self.machines[by]);
                self.laws.broke(Law::NothingLost, what);
            }
            return;
        }
        let Some(quorum) = self.etcd.get(&uid) else {
            return;
        };
        // The member still counts as a voter, one that does not answer.
        let (up, all) = self.count(&uid, by, quorum.voters());
        if up * 2 <= all {
            let what = format!(
                "{} deletes the data of voter {} while {up} of {all} voters have theirs",
                self.machines[by], seat.member.id
            );
            self.laws.broke(Law::MajorityKept, what);
        }
    }

    /// etcd's own rule, `--strict-reconfig-check`.
    fn may_lose(&self, uid: &str, from: usize, leaving: &Seat) -> Result<()> {
        let Some(quorum) = self.etcd.get(uid).filter(|_| !leaving.member.learner) else {
            return Ok(());
        };
        let left = || quorum.voters().filter(|seat| *seat != leaving);
        let majority = left().count() / 2 + 1;
        if left().filter(|seat| seat.has_started()).count() < majority {
            return Err(refused(
                "re-configuration failed due to not enough started members",
            ));
        }
        let (up, _) = self.count(uid, from, left());
        if self.runs(uid, leaving) && up < majority {
            return Err(refused("unhealthy cluster"));
        }
        Ok(())
    }

    /// Removes a member at this machine's request.
    pub fn remove_member(&mut self, by: usize, uid: &str, id: u64) -> Result<()> {
        let quorum = self.etcd.get(uid).filter(|_| self.has_majority(uid, by));
        let Some(quorum) = quorum else {
            return Err(refused("request timed out"));
        };
        let Some(seat) = quorum.seats.iter().find(|seat| seat.member.id == id) else {
            return Ok(());
        };
        let seat = seat.clone();
        self.may_lose(uid, by, &seat)?;
        if let Some(quorum) = self.etcd.get_mut(uid) {
            quorum.seats.retain(|seat| seat.member.id != id);
        }
        self.note_of(by, || format!("removes member {id} ({})", seat.member.name));
        self.counts.healed += usize::from(seat.owner != by);
        let owner = &self.machines[seat.owner];
        // A learner whose instance is stopped blocks the others only for a limited time.
        let blocks = seat.member.learner && owner.is_stopped_for(STOPPED, self.timeline.now());
        if seat.owner != by && !owner.state().is_gone() && !blocks {
            let what = format!("{} removes {owner}, which is alive", self.machines[by]);
            self.laws.broke(Law::LivingStay, what);
        }
        if !seat.member.learner && !self.has_majority(uid, by) {
            let what = format!("{} removes {owner} from {uid}", self.machines[by]);
            self.laws.broke(Law::MajorityKept, what);
        }
        Ok(())
    }

    /// Gives a learner its vote.
    pub fn promote_member(&mut self, by: usize, uid: &str, id: u64) -> Result<()> {
        if !self.has_majority(uid, by) {
            return Err(refused("request timed out"));
        }
        let quorum = self.etcd.get(uid);
        let seat = quorum.and_then(|q| q.seats.iter().find(|seat| seat.member.id == id));
        let Some(seat) = seat else {
            return Err(refused("member not found"));
        };
        let data = self.machines[seat.owner].data.as_ref();
        let in_sync = self.runs(uid, seat)
            && self.reach(by, seat.owner)
            && data.is_some_and(|data| data.whole);
        if seat.member.learner && !in_sync {
            return Err(refused(
                "can only promote a learner member which is in sync with leader",
            ));
        }
        if let Some(quorum) = self.etcd.get_mut(uid) {
            let mut seats = quorum.seats.iter_mut();
            if let Some(seat) = seats.find(|seat| seat.member.id == id) {
                seat.member.learner = false;
            }
        }
        Ok(())
    }

    /// The member list as the member on this machine returns it.
    fn members_by(&self, index: usize) -> Result<Vec<Member>> {
        let machine = &self.machines[index];
        let data = machine.data.as_ref().filter(|_| self.runs_etcd(index));
        let seats = data.filter(|_| self.seat_of(index).is_some());
        let seats = seats.and_then(|data| self.etcd.get(&data.uid));
        let Some(quorum) = seats else {
            return Err(Error::failed("cannot call etcd: connection refused"));
        };
        Ok(quorum
            .seats
            .iter()
            .map(|seat| seat.member.clone())
            .collect())
    }

    /// The uid of the cluster whose member answers on this machine.
    pub fn own_uid(&self, index: usize) -> Result<String> {
        self.members_by(index)?;
        let data = self.machines[index].data.as_ref();
        Ok(data.map(|data| data.uid.clone()).unwrap_or_default())
    }
}

impl Place {
    async fn change_etcd(
        &self,
        what: &str,
        change: impl FnOnce(&mut Scene, &str) -> Result<()> + Send,
    ) -> Result<()> {
        let asked = self.call(API, what, true, |scene| {
            let uid = scene.own_uid(self.index)?;
            change(scene, &uid)
        });
        asked.await?
    }
}

/// etcd as the member on this instance shows it. A member without a majority still knows as much as
/// the others.
#[async_trait]
impl Etcd for Place {
    async fn members(&self) -> Result<Vec<Member>> {
        self.scene().members_by(self.index)
    }

    async fn members_by(&self, other: Ipv4Addr) -> Result<Vec<Member>> {
        let scene = self.scene();
        let other = scene
            .living_at(other)
            .filter(|i| scene.reach(self.index, *i));
        other.map_or_else(|| absent("etcd there"), |other| scene.members_by(other))
    }

    async fn status(&self, member: &Member) -> Result<MemberStatus> {
        let scene = self.scene();
        let uid = scene.own_uid(self.index)?;
        let seats = scene.etcd.get(&uid).map_or(&[][..], |quorum| &quorum.seats);
        let seat = seats.iter().find(|seat| seat.member.id == member.id);
        if !seat.is_some_and(|seat| scene.answers(&uid, seat, self.index)) {
            return Err(Error::failed("cannot call etcd: connection refused"));
        }
        let leader = scene.leader(&uid, self.index);
        Ok(MemberStatus {
            leader,
            in_step: leader.is_some(),
            ..MemberStatus::default()
        })
    }

    async fn leader(&self) -> Result<Option<u64>> {
        let scene = self.scene();
        let uid = scene.own_uid(self.index)?;
        Ok(scene.leader(&uid, self.index))
    }

    async fn remove(&self, id: u64) -> Result<()> {
        let remove = |scene: &mut Scene, uid: &str| scene.remove_member(self.index, uid, id);
        self.change_etcd("remove a member", remove).await
    }

    async fn promote(&self, id: u64) -> Result<()> {
        let promote = |scene: &mut Scene, uid: &str| scene.promote_member(self.index, uid, id);
        self.change_etcd("promote a member", promote).await
    }

    async fn transfer_leadership(&self, _: u64) -> Result<()> {
        Ok(())
    }

    async fn compact(&self, _: u64) -> Result<()> {
        absent("quota of etcd")
    }

    async fn defragment(&self, _: &Member) -> Result<()> {
        absent("quota of etcd")
    }

    async fn disarm(&self, _: RaisedAlarm) -> Result<()> {
        absent("quota of etcd")
    }

    async fn snapshot(&self, file: &Path) -> Result<Snapshot> {
        self.take_snapshot(file).await
    }
}
