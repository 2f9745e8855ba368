//! What must hold, checked against what is really so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::Serialize;

use super::scene::{Flaw, Machine};
use crate::{
    observe::{Claim, Membership, Origin},
    ports::{InstanceState, Role},
};

/// A founder that is stopped for so long, and has recorded no cluster, may be followed, and a
/// member that is, and had no vote yet, taken out: the ten minutes of those who look begin with
/// a look that takes its time.
pub const STOPPED: Duration = Duration::from_mins(9);

/// A law of founding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// A claim follows a terminated holder's, or one's that was stopped for long before it
    /// recorded a cluster, and no member of a cluster makes one.
    ClaimsInTurn,
    /// The holder of the last claim founds, alone, and nobody once another cluster is settled.
    OneFounder,
    /// Clusters are recorded by the holder of the last claim, and all end up in the same one.
    OneCluster,
    /// A cluster is thrown away only if it is not settled and its founder is terminated, and a
    /// voter's data of it only once another one was claimed.
    NothingLost,
    /// The membership is on the disk before anything is done for it.
    MembershipFirst,
    /// What the disk says of the membership does not change, until nothing of it is left.
    MembershipKept,
    /// A node that ever joined never founds, nor does a worker.
    JoinersNeverFound,
    /// No removal and no reset leaves etcd with less than a majority of healthy voters.
    MajorityKept,
    /// Nobody takes the member of another out whose instance lives, unless it is stopped for long
    /// and had no vote.
    LivingStay,
    /// No voter that had data starts without it.
    DataKept,
    /// One control plane after the other starts its API server again for a renewed certificate.
    RenewedInTurn,
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
            Self::MajorityKept => "etcd keeps its majority",
            Self::LivingStay => "members of living instances stay",
            Self::DataKept => "a voter starts with its data",
            Self::RenewedInTurn => "certificates are renewed in turn",
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
    /// Instances on which a person brings a cluster back.
    pub restoring: BTreeSet<usize>,
    /// Those, and the ones on which that came to its end.
    pub brought_back: BTreeSet<usize>,
    /// Whether certificates are renewed that are still good.
    pub renews_in_turn: bool,
    /// Whether the store's answers may be older than anybody allows for.
    pub store_lags: bool,
}

impl Laws {
    /// A law did not hold.
    pub fn broke(&mut self, law: Law, what: impl Into<String>) {
        let what = what.into();
        self.broken.get_or_insert(Violation { law, what });
    }

    /// A claim was written, for the first time or again after the store had lost it.
    pub fn claimed(&mut self, by: usize, claim: Claim, now: Duration, machines: &[Machine]) {
        if self.claims.iter().any(|(_, before)| *before == claim) {
            return self.written_again(by, &claim.cluster_uid, machines);
        }
        let me = &machines[by];
        let number = claim.number;
        if me.flaw == Flaw::Astray {
            let what = format!("{me} claims in a store of its own");
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
                let may = state == InstanceState::Terminated
                    || machines[*holder].is_stopped_for(STOPPED, now)
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
            let what = format!("{} wrote over {before:?} with {membership:?}", machines[by]);
            self.broke(Law::MembershipKept, what);
        }
        if let Some(membership) = membership {
            self.memberships.insert(by, membership);
        }
    }

    /// Whether a person brings the settled cluster back there: it founds it, whoever it was.
    fn may_found_again(&self, by: usize, membership: Option<&Membership>) -> bool {
        let uid = membership.map(|membership| membership.cluster_uid.as_str());
        self.brought_back.contains(&by) && uid.is_some() && uid == self.settled.as_deref()
    }

    /// The journal was removed; `traces` says that something of the cluster is still there.
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

    /// A machine is rid of its cluster.
    fn threw_away(&mut self, by: usize, uid: &str, machines: &[Machine]) {
        if !self.is_given_up(uid, machines) {
            let claim = self
                .claims
                .iter()
                .rev()
                .find(|(_, claim)| claim.cluster_uid == uid);
            let founder = claim.map(|(holder, _)| machines[*holder].state());
            let what = format!(
                "{} throws {uid} away, whose founder is {founder:?}; settled is {:?}",
                machines[by], self.settled
            );
            self.broke(Law::NothingLost, what);
        }
    }

    /// Something is done to found or to join.
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
            self.settled.is_some() && mine.is_some_and(|uid| self.is_given_up(uid, machines));
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

    /// Whoever is up in the end is in the same cluster.
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

    /// Whether this instance was to found a cluster before another one was to found one.
    fn was_taken_over(&self, by: usize) -> bool {
        let membership = self.memberships.get(&by);
        let founds = membership.filter(|membership| membership.origin == Origin::Founded);
        let last = self.claims.last();
        founds.is_some_and(|membership| {
            last.is_some_and(|(_, last)| last.cluster_uid != membership.cluster_uid)
        })
    }

    /// Whether this cluster has no future: it is not settled, and its founder is gone or was
    /// taken over from.
    pub fn is_given_up(&self, uid: &str, machines: &[Machine]) -> bool {
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
