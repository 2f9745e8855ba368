//! What must hold, checked against what is really so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use super::scene::{Machine, Process};
use crate::{
    journal::{Course, Membership},
    observe::Claim,
    ports::{InstanceState, Role},
};

/// A law of founding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// A claim follows a terminated holder's, and no member of a cluster makes one.
    ClaimsInTurn,
    /// The holder of the last claim founds, alone, and nobody once another cluster is settled.
    OneFounder,
    /// Clusters are recorded by the holder of the last claim, and all end up in the same one.
    OneCluster,
    /// A cluster is thrown away only if it is not settled and its founder is terminated.
    NothingLost,
    /// The membership is on the disk before anything is done for it.
    MembershipFirst,
    /// What the disk says of the membership does not change, until nothing of it is left.
    MembershipKept,
    /// A node that ever joined never founds, nor does a worker.
    JoinersNeverFound,
    /// Each wait ends by itself.
    BoundedWaits,
    /// Whoever stops for a person has a reason.
    TrueRefusals,
    /// Once nothing goes wrong any more, every instance becomes a member.
    Convergence,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClaimsInTurn => "claims are made in turn",
            Self::OneFounder => "there is one founder",
            Self::OneCluster => "there is one cluster",
            Self::NothingLost => "no settled cluster is thrown away",
            Self::MembershipFirst => "membership is written down first",
            Self::MembershipKept => "membership is kept",
            Self::JoinersNeverFound => "joiners never found",
            Self::BoundedWaits => "every wait has an end",
            Self::TrueRefusals => "refusals are true",
            Self::Convergence => "every instance becomes a member",
        })
    }
}

/// A law that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub law: Law,
    /// What happened.
    pub what: String,
}

/// What is really so, which no instance sees whole.
#[derive(Default)]
pub struct Laws {
    /// The first law that did not hold.
    pub broken: Option<Violation>,
    /// Instances that began to found, by index, with their clusters.
    pub founders: BTreeMap<usize, String>,
    /// Instances that began to join.
    pub joiners: BTreeMap<usize, String>,
    /// What each disk says.
    pub memberships: BTreeMap<usize, Membership>,
    /// The claims in the store, with the indexes of their holders.
    pub claims: Vec<(usize, Claim)>,
    /// The clusters that the store says exist.
    pub initialized: BTreeSet<String>,
    /// The one of them that it says is settled.
    pub settled: Option<String>,
    /// The members of each cluster's etcd, dead ones included until they are taken out.
    pub members: BTreeMap<String, Vec<usize>>,
}

impl Laws {
    /// A law did not hold.
    pub fn broke(&mut self, law: Law, what: impl Into<String>) {
        let what = what.into();
        self.broken.get_or_insert(Violation { law, what });
    }

    /// A claim was written, for the first time or again after the store had lost it.
    pub fn claimed(&mut self, by: usize, claim: Claim, machines: &[Machine]) {
        if self.claims.iter().any(|(_, before)| *before == claim) {
            return self.written_again(by, &claim.cluster_uid, machines);
        }
        let me = &machines[by];
        let number = claim.number;
        if me.me.role == Role::Worker || self.joiners.contains_key(&by) {
            self.broke(Law::JoinersNeverFound, format!("{me} makes claim {number}"));
        }
        if self.memberships.contains_key(&by) {
            self.broke(
                Law::ClaimsInTurn,
                format!("{me} makes claim {number} and belongs to a cluster already"),
            );
        }
        if let Some(settled) = self.settled.clone() {
            let what = format!("{me} makes claim {number} while {settled} is settled");
            self.broke(Law::NothingLost, what);
        }
        match self.claims.last() {
            Some((holder, last)) => {
                let state = machines[*holder].state();
                if last.number + 1 != number || state != InstanceState::Terminated {
                    self.broke(
                        Law::ClaimsInTurn,
                        format!(
                            "{me} makes claim {number} while {}, the holder of claim {}, is {state:?}",
                            machines[*holder], last.number
                        ),
                    );
                }
            }
            None if number != 1 => self.broke(
                Law::ClaimsInTurn,
                format!("{me} makes claim {number} as the first one"),
            ),
            None => {}
        }
        self.claims.push((by, claim));
    }

    /// The store says from now on that this cluster exists.
    pub fn initialized(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        if self.initialized.contains(uid) {
            return self.written_again(by, uid, machines);
        }
        let last = self.claims.last();
        if last.is_none_or(|(holder, last)| *holder != by || last.cluster_uid != uid) {
            self.broke(
                Law::OneCluster,
                format!(
                    "{} records cluster {uid} without the last claim",
                    machines[by]
                ),
            );
        }
        self.initialized.insert(uid.to_owned());
    }

    /// The store says from now on that this cluster is settled.
    pub fn settled(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        if self.settled.as_deref() == Some(uid) {
            return self.written_again(by, uid, machines);
        }
        let is_last = self
            .claims
            .last()
            .is_some_and(|(_, l)| l.cluster_uid == uid);
        if !is_last || !self.initialized.contains(uid) {
            let what = format!("{} settles {uid}, which is not the one", machines[by]);
            self.broke(Law::OneCluster, what);
        }
        self.settled = Some(uid.to_owned());
    }

    /// Only a control plane of a settled cluster writes what the store had before.
    fn written_again(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        let me = &machines[by];
        let is_its = self
            .memberships
            .get(&by)
            .is_some_and(|m| m.cluster_uid == uid);
        if me.me.role == Role::Worker || !is_its || self.settled.as_deref() != Some(uid) {
            self.broke(Law::OneCluster, format!("{me} records {uid} again"));
        }
    }

    /// The journal was written.
    pub fn journaled(&mut self, by: usize, membership: Option<Membership>, machines: &[Machine]) {
        let before = self.memberships.get(&by);
        if let Some(before) = before
            && membership.as_ref() != Some(before)
        {
            let what = format!("{} wrote over {before:?} with {membership:?}", machines[by]);
            self.broke(Law::MembershipKept, what);
        }
        if let Some(membership) = membership {
            self.memberships.insert(by, membership);
        }
    }

    /// The journal was removed; `traces` says that something of the cluster is still there.
    pub fn forgot(&mut self, by: usize, traces: bool, machines: &[Machine]) {
        let Some(before) = self.memberships.remove(&by) else {
            return;
        };
        if traces || before.course == Course::Found {
            let what = format!("{} forgot {before:?} too early", machines[by]);
            self.broke(Law::MembershipKept, what);
        }
        self.threw_away(by, &before.cluster_uid, machines);
        self.joiners.remove(&by);
    }

    /// Something of a cluster was taken off a machine.
    pub fn threw_away(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        let claim = self.claims.iter().find(|(_, c)| c.cluster_uid == uid);
        let founder = claim.map(|(holder, _)| machines[*holder].state());
        if self.settled.as_deref() == Some(uid) || founder != Some(InstanceState::Terminated) {
            let what = format!(
                "{} throws {uid} away, whose founder is {founder:?}; settled is {:?}",
                machines[by], self.settled
            );
            self.broke(Law::NothingLost, what);
        }
        if let Some(members) = self.members.get_mut(uid) {
            if members.contains(&by)
                && self
                    .claims
                    .last()
                    .is_some_and(|(_, c)| c.cluster_uid == uid)
            {
                let what = format!("{} throws away what its member of etcd has", machines[by]);
                self.broken.get_or_insert(Violation {
                    law: Law::NothingLost,
                    what,
                });
            }
            members.retain(|member| *member != by);
        }
    }

    /// Something is done to found or to join.
    pub fn acts(&mut self, by: usize, course: Course, uid: &str, machines: &[Machine]) {
        let me = &machines[by];
        let membership = Membership {
            cluster_uid: uid.to_owned(),
            course,
        };
        if self.memberships.get(&by) != Some(&membership) {
            self.broke(
                Law::MembershipFirst,
                format!("{me} acts for {uid} ({course:?}), which its journal does not say"),
            );
        }
        match course {
            Course::Found => self.founds(by, uid, machines),
            Course::Join => {
                if !self.initialized.contains(uid) {
                    self.broke(
                        Law::OneCluster,
                        format!("{me} joins {uid}, which is none of {:?}", self.initialized),
                    );
                }
                if let Some(founded) = self.founders.get(&by) {
                    let what = format!("{me} joins {uid} and founded {founded}");
                    self.broke(Law::OneCluster, what);
                }
                self.joiners.insert(by, uid.to_owned());
            }
        }
    }

    fn founds(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        let me = &machines[by];
        if me.me.role == Role::Worker || self.joiners.contains_key(&by) {
            self.broke(Law::JoinersNeverFound, format!("{me} founds {uid}"));
        }
        let last = self.claims.last();
        if last.is_none_or(|(holder, last)| *holder != by || last.cluster_uid != uid) {
            self.broke(
                Law::OneFounder,
                format!("{me} founds {uid} without the last claim"),
            );
        }
        if let Some(there) = self.settled.clone().filter(|there| there != uid) {
            self.broke(
                Law::OneFounder,
                format!("{me} founds {uid} while {there} is settled"),
            );
        }
        let rival = self.founders.iter().find(|(other, founded)| {
            **other != by
                && *founded != uid
                && machines[**other].state() != InstanceState::Terminated
        });
        if let Some((other, founded)) = rival {
            let what = format!(
                "{me} founds {uid} while {} founds {founded}",
                machines[*other]
            );
            self.broke(Law::OneFounder, what);
        }
        self.founders.insert(by, uid.to_owned());
    }

    /// An agent stopped for a person.
    pub fn refused(&mut self, by: usize, why: &str, machines: &[Machine]) {
        if !self.is_lost(machines) && !self.has_data_of_another(by) {
            self.broke(Law::TrueRefusals, format!("{}: {why}", machines[by]));
        }
    }

    /// Whether this is a member of the etcd of a cluster that lost its founder, and another one
    /// was founded since.
    fn has_data_of_another(&self, by: usize) -> bool {
        let uid = self.memberships.get(&by).map(|m| &m.cluster_uid);
        let last = self.claims.last().map(|(_, claim)| &claim.cluster_uid);
        let members = uid.and_then(|uid| self.members.get(uid));
        uid != last && members.is_some_and(|members| members.contains(&by))
    }

    /// Whoever is up in the end is in the same cluster.
    pub fn ended(&mut self, machines: &[Machine]) {
        for (index, machine) in machines.iter().enumerate() {
            let uid = self.memberships.get(&index).map(|m| &m.cluster_uid);
            let is_up = machine.process == Process::Up && !machine.state().is_gone();
            if is_up && uid != self.settled.as_ref() {
                let what = format!("{machine} is up in {uid:?}, not in {:?}", self.settled);
                self.broken.get_or_insert(Violation {
                    law: Law::OneCluster,
                    what,
                });
            }
        }
    }

    /// Whether a cluster that has something to lose has lost its majority for good: a person must
    /// restore it.
    pub fn is_lost(&self, machines: &[Machine]) -> bool {
        let has_something = self
            .settled
            .as_ref()
            .or_else(|| self.left_to_a_voter(machines));
        has_something
            .is_some_and(|uid| !self.most(uid, |member| !machines[member].state().is_gone()))
    }

    /// The cluster whose founder is gone before it was settled, and of which a living member of
    /// etcd has the data.
    fn left_to_a_voter(&self, machines: &[Machine]) -> Option<&String> {
        let founded = |uid: &String| self.members.get(uid).filter(|members| !members.is_empty());
        let mut newest_first = self.claims.iter().rev();
        let (holder, claim) = newest_first.find(|(_, c)| founded(&c.cluster_uid).is_some())?;
        let members = founded(&claim.cluster_uid)?;
        let gone = |index: usize| machines[index].state().is_gone();
        let is_left = gone(*holder) && members.iter().any(|member| !gone(*member));
        is_left.then_some(&claim.cluster_uid)
    }

    /// Whether the cluster's API answers now.
    pub fn answers(&self, uid: &str, machines: &[Machine]) -> bool {
        self.most(uid, |member| {
            machines[member].state() == InstanceState::Running
        })
    }

    /// Whether most members of the cluster's etcd are like this.
    fn most(&self, uid: &str, like_this: impl Fn(usize) -> bool) -> bool {
        let members = self.members.get(uid).map_or(&[][..], Vec::as_slice);
        members.iter().filter(|m| like_this(**m)).count() * 2 > members.len()
    }

    /// An instance is about to be terminated and leaves its cluster's etcd, if that is there to
    /// let it go.
    pub fn leaves(&mut self, by: usize, machines: &[Machine]) {
        let Some(Membership { cluster_uid, .. }) = self.memberships.get(&by) else {
            return;
        };
        let uid = cluster_uid.clone();
        let serves =
            |member: usize| member == by || machines[member].state() == InstanceState::Running;
        let may = self.most(&uid, serves);
        if let Some(members) = self.members.get_mut(&uid)
            && may
            && members.len() > 1
        {
            members.retain(|member| *member != by);
        }
    }

    /// The leader takes the terminated out of etcd, wherever there is one.
    pub fn heal(&mut self, machines: &[Machine]) {
        let uids: Vec<String> = self.members.keys().cloned().collect();
        for uid in uids {
            while self.answers(&uid, machines)
                && let Some(members) = self.members.get_mut(&uid)
                && let Some(dead) = members
                    .iter()
                    .position(|m| machines[*m].state() == InstanceState::Terminated)
            {
                members.remove(dead);
            }
        }
    }
}
