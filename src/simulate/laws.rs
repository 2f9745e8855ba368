//! The invariants, checked against the true state.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::Serialize;

use super::scene::{Flaw, Machine};
use crate::{
    observe::{Claim, Membership, Origin},
    ports::{Instance, InstanceState, Role},
};

/// After a founder that has recorded no cluster is stopped for this long, another instance may take
/// over; after a learner is stopped for this long, others may remove it. The agents wait ten
/// minutes, counted from the start of their first observation, which takes time itself.
pub const STOPPED: Duration = Duration::from_mins(9);

/// A law of founding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// A claim follows another one only if that one's holder is terminated, or was stopped for long
    /// before it recorded a cluster; and no member of a cluster claims.
    ClaimsInTurn,
    /// Only the holder of the last claim founds, and nobody does once another cluster is settled.
    OneFounder,
    /// Only the holder of the last claim records a cluster, and all instances end up in the same
    /// one.
    OneCluster,
    /// A cluster is abandoned only if it is not settled and its founder is terminated; a voter's
    /// data of it is deleted only after another cluster was claimed.
    NothingLost,
    /// The membership is on the disk before any act for it.
    MembershipFirst,
    /// The membership on the disk does not change until every trace of it is removed.
    MembershipKept,
    /// A node that ever joined never founds, nor does a worker.
    JoinersNeverFound,
    /// No removal and no reset leaves etcd without a majority of healthy voters.
    MajorityKept,
    /// Nobody removes another instance's member while that instance exists, unless it is a learner
    /// and has been stopped for long.
    LivingStay,
    /// No voter that had data starts without it.
    DataKept,
    /// Control planes restart their static pods for a renewed certificate one after the other.
    RenewedInTurn,
    /// Every wait has a deadline.
    BoundedWaits,
    /// An agent refuses, and so stops for a person, only with a reason.
    TrueRefusals,
    /// Once the faults are over, every instance becomes a member.
    Convergence,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClaimsInTurn => "claims are made in turn",
            Self::OneFounder => "there is one founder",
            Self::OneCluster => "there is one cluster",
            Self::NothingLost => "no settled cluster is abandoned",
            Self::MembershipFirst => "the membership is recorded first",
            Self::MembershipKept => "the membership is kept",
            Self::JoinersNeverFound => "a node that joined never founds",
            Self::MajorityKept => "etcd keeps its majority",
            Self::LivingStay => "members of living instances stay",
            Self::DataKept => "a voter starts with its data",
            Self::RenewedInTurn => "certificates are renewed in turn",
            Self::BoundedWaits => "every wait has a deadline",
            Self::TrueRefusals => "refusals have a reason",
            Self::Convergence => "every instance becomes a member",
        })
    }
}

/// A broken law.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The law that does not hold.
    pub law: Law,
    /// What happened, and on which instances.
    pub what: String,
}

/// The true state, which no single instance sees completely.
#[derive(Default)]
pub struct Laws {
    /// The first broken law.
    pub broken: Option<Violation>,
    /// Instances that began to found, by index, with their clusters.
    pub founders: BTreeMap<usize, String>,
    /// Instances that began to join.
    pub joiners: BTreeMap<usize, String>,
    /// The membership on each disk.
    pub memberships: BTreeMap<usize, Membership>,
    /// The claims in the store, with the indexes of their holders.
    pub claims: Vec<(usize, Claim)>,
    /// When an instance last received a list that did not show the holder of the last claim as
    /// stopped, by the indexes of both.
    pub not_stopped: BTreeMap<(usize, usize), Duration>,
    /// The clusters that are initialized according to the store.
    pub initialized: BTreeSet<String>,
    /// The cluster that is settled according to the store.
    pub settled: Option<String>,
    /// Instances on which a person is restoring a cluster.
    pub restoring: BTreeSet<usize>,
    /// Instances on which a person is restoring or has restored a cluster.
    pub restored: BTreeSet<usize>,
    /// Whether certificates are renewed before they expire.
    pub renews_in_turn: bool,
    /// Whether the store's answers may be older than the agents allow for.
    pub store_lags: bool,
}

impl Laws {
    /// Records that a law was broken.
    pub fn broke(&mut self, law: Law, what: impl Into<String>) {
        let what = what.into();
        self.broken.get_or_insert(Violation { law, what });
    }

    /// An instance received EC2's list.
    pub fn listed(&mut self, to: usize, list: &[Instance], now: Duration, machines: &[Machine]) {
        let Some((holder, _)) = self.claims.last() else {
            return;
        };
        let id = &machines[*holder].me.instance_id;
        let stopped = |i: &Instance| i.id == *id && i.state == InstanceState::Stopped;
        if !list.iter().any(stopped) {
            self.not_stopped.insert((to, *holder), now);
        }
    }

    /// A claim was written, for the first time or again after the store had lost it.
    pub fn claimed(&mut self, by: usize, claim: Claim, now: Duration, machines: &[Machine]) {
        if self.claims.iter().any(|(_, before)| *before == claim) {
            return self.written_again(by, &claim.cluster_uid, machines);
        }
        let me = &machines[by];
        let number = claim.number;
        if me.flaw == Flaw::Astray {
            let what = format!("{me} claims in another store");
            self.broke(Law::OneCluster, what);
            return;
        }
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
                let cluster = &last.cluster_uid;
                // A run between two lists that arrived is one that the claimer cannot know of.
                let saw = self.not_stopped.get(&(by, *holder));
                let may = state == InstanceState::Terminated
                    || machines[*holder].was_stopped_before(STOPPED, now)
                        && saw.is_none_or(|last| *last + STOPPED <= now)
                        && !self.initialized.contains(cluster);
                if last.number + 1 != number || !may {
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

    /// The store records this cluster as initialized.
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

    /// The store records this cluster as settled.
    pub fn settled(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        if self.settled.as_deref() == Some(uid) {
            return self.written_again(by, uid, machines);
        }
        let is_last = self
            .claims
            .last()
            .is_some_and(|(_, l)| l.cluster_uid == uid);
        if !is_last || !self.initialized.contains(uid) {
            let what = format!(
                "{} settles {uid}, which is not the cluster of the last claim",
                machines[by]
            );
            self.broke(Law::OneCluster, what);
        }
        self.settled = Some(uid.to_owned());
    }

    /// Only a control plane of a settled cluster writes keys again that the store has lost.
    fn written_again(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        let me = &machines[by];
        let belongs = self.memberships.get(&by);
        let is_its = belongs.is_some_and(|membership| membership.cluster_uid == uid);
        if me.me.role == Role::Worker || !is_its || self.settled.as_deref() != Some(uid) {
            self.broke(Law::OneCluster, format!("{me} records {uid} again"));
        }
    }

    /// The journal was written.
    pub fn journaled(&mut self, by: usize, membership: Option<Membership>, machines: &[Machine]) {
        let before = self.memberships.get(&by);
        if let Some(before) = before
            && membership.as_ref() != Some(before)
            && !self.may_found_again(by, membership.as_ref())
        {
            let what = format!("{} replaced {before:?} with {membership:?}", machines[by]);
            self.broke(Law::MembershipKept, what);
        }
        if let Some(membership) = membership {
            self.memberships.insert(by, membership);
        }
    }

    /// Whether a person restores the settled cluster on this instance, which then founds it,
    /// whatever the instance was before.
    fn may_found_again(&self, by: usize, membership: Option<&Membership>) -> bool {
        let uid = membership.map(|membership| membership.cluster_uid.as_str());
        self.restored.contains(&by) && uid.is_some() && uid == self.settled.as_deref()
    }

    /// The journal was removed; `traces` is true if files of the cluster are still there.
    pub fn forgot(&mut self, by: usize, traces: bool, machines: &[Machine]) {
        let Some(before) = self.memberships.remove(&by) else {
            return;
        };
        if traces || before.origin == Origin::Founded {
            let what = format!("{} forgot {before:?} too early", machines[by]);
            self.broke(Law::MembershipKept, what);
        }
        self.threw_away(by, &before.cluster_uid, machines);
        self.joiners.remove(&by);
    }

    /// A machine has removed its cluster.
    fn threw_away(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        if !self.is_abandoned(uid, machines) {
            let claim = self
                .claims
                .iter()
                .rev()
                .find(|(_, claim)| claim.cluster_uid == uid);
            let founder = claim.map(|(holder, _)| machines[*holder].state());
            let what = format!(
                "{} removes {uid}, whose founder is {founder:?}; settled is {:?}",
                machines[by], self.settled
            );
            self.broke(Law::NothingLost, what);
        }
    }

    /// An instance acts to found or to join.
    pub fn acts(&mut self, by: usize, origin: Origin, uid: &str, machines: &[Machine]) {
        let me = &machines[by];
        let membership = Membership {
            cluster_uid: uid.to_owned(),
            origin,
        };
        if self.memberships.get(&by) != Some(&membership) {
            self.broke(
                Law::MembershipFirst,
                format!("{me} acts for {uid} ({origin:?}), which its journal does not say"),
            );
        }
        match origin {
            Origin::Founded => self.founds(by, uid, machines),
            Origin::Joined => {
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
        if self.may_found_again(by, self.memberships.get(&by)) {
            return;
        }
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
            let last = self.claims.iter().rfind(|(holder, _)| holder == *other);
            let followed = last
                .is_some_and(|(_, l)| self.claims.last().is_some_and(|(_, c)| c.number > l.number));
            **other != by
                && *founded != uid
                && machines[**other].state() != InstanceState::Terminated
                && !followed
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
    pub fn refused(&mut self, by: usize, why: &str, is_lost: bool, machines: &[Machine]) {
        let me = &machines[by];
        let mine = self.memberships.get(&by).map(|m| &m.cluster_uid);
        let is_left_behind =
            self.settled.is_some() && mine.is_some_and(|uid| self.is_abandoned(uid, machines));
        let has_reason = me.flaw != Flaw::None
            || self.restoring.contains(&by)
            || is_lost
            || self.store_lags
            || self.was_taken_over(by)
            || is_left_behind;
        if !has_reason {
            self.broke(Law::TrueRefusals, format!("{me}: {why}"));
        }
    }

    /// An agent that keeps running has reported to a person that its cluster has no future.
    pub fn reported(&mut self, by: usize, why: &str, machines: &[Machine]) {
        let mine = self.memberships.get(&by).map(|m| &m.cluster_uid);
        if !mine.is_some_and(|uid| self.is_abandoned(uid, machines)) {
            self.broke(Law::TrueRefusals, format!("{}: {why}", machines[by]));
        }
    }

    /// At the end, all instances that are up are in the same cluster.
    pub fn ended(&mut self, machines: &[Machine]) {
        for (index, machine) in machines.iter().enumerate() {
            let uid = self.memberships.get(&index).map(|m| &m.cluster_uid);
            let is_up = machine.process.is_up() && !machine.state().is_gone();
            if is_up && uid != self.settled.as_ref() {
                let what = format!("{machine} is up in {uid:?}, not in {:?}", self.settled);
                self.broken.get_or_insert(Violation {
                    law: Law::OneCluster,
                    what,
                });
            }
        }
    }

    /// Whether another instance has claimed since this one was the founder.
    fn was_taken_over(&self, by: usize) -> bool {
        let membership = self.memberships.get(&by);
        let founds = membership.filter(|membership| membership.origin == Origin::Founded);
        let last = self.claims.last();
        founds.is_some_and(|membership| {
            last.is_some_and(|(_, last)| last.cluster_uid != membership.cluster_uid)
        })
    }

    /// Whether this cluster is abandoned: it is not settled, and its founder is terminated or
    /// another cluster was claimed after it.
    pub fn is_abandoned(&self, uid: &str, machines: &[Machine]) -> bool {
        let claim = self
            .claims
            .iter()
            .rev()
            .find(|(_, claim)| claim.cluster_uid == uid);
        let founder = claim.map(|(holder, _)| machines[*holder].state());
        self.settled.as_deref() != Some(uid)
            && (founder == Some(InstanceState::Terminated)
                || self
                    .claims
                    .last()
                    .is_some_and(|(_, last)| last.cluster_uid != uid))
    }
}
