//! Keeps etcd's database below its quota, and reports its members' alarms.
//!
//! The API server compacts old revisions every five minutes, but the file keeps its size. A member
//! whose file is mostly empty is defragmented: one at a time, etcd's leader last, and only while
//! all members vote and none has an alarm.
//!
//! Once a file has reached its quota, etcd accepts no writes but deletions, so no Lease can be
//! taken either. Then the agent on the node of etcd's leader acts: it compacts up to now,
//! defragments each full member, and disarms the alarm.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use jiff::Timestamp;
use tracing::{info, warn};

use super::{Leader, lead};
use crate::{
    error::{Error, Result},
    identity::Identity,
    ports::{Alarm, Database, Etcd, Member, MemberStatus, RaisedAlarm, World},
    report::{EtcdReport, MemberReport, MemberState},
    wait::schedules::AFTER_DEFRAGMENTATION,
};

/// Files smaller than this, or than half of their quota, are not defragmented.
const WORTHWHILE: u64 = 100 << 20;

/// A member and its answer to a status request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The member as etcd lists it.
    pub member: Member,
    /// Its status; `None` if it does not answer.
    pub answer: Option<MemberStatus>,
}

/// Asks all members at once.
pub async fn ask_all(etcd: &dyn Etcd) -> Result<Vec<Asked>> {
    let members = etcd.members().await?;
    Ok(join_all(members.into_iter().map(async |member| Asked {
        answer: etcd.status(&member).await.ok(),
        member,
    }))
    .await)
}

/// The name for people: a member that was added and never started has only an address.
pub(super) fn name_of(member: &Member) -> String {
    if member.name.is_empty() {
        format!("at {} (never started)", member.address)
    } else {
        member.name.clone()
    }
}

impl Asked {
    /// Whether it answers, follows the leader and keeps up.
    pub fn is_in_step(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.in_step)
    }

    /// Whether it is etcd's leader.
    pub fn leads(&self) -> bool {
        let answer = self.answer.as_ref();
        answer.is_some_and(|answer| answer.leader == Some(self.member.id))
    }

    /// Its own alarms; every member knows them.
    pub fn alarms(&self, among: &[Self]) -> Vec<Alarm> {
        let own = |raised: RaisedAlarm| (raised.member == self.member.id).then_some(raised.alarm);
        raised(among).into_iter().filter_map(own).collect()
    }

    fn database(&self) -> Option<Database> {
        self.answer.as_ref().map(|answer| answer.database)
    }
}

impl MemberReport {
    fn of(asked: &Asked, among: &[Asked]) -> Self {
        Self {
            name: name_of(&asked.member),
            state: state_of(asked),
            leader: asked.leads(),
            learner: asked.member.learner,
            alarms: asked.alarms(among),
            database: asked.database(),
        }
    }
}

impl MemberReport {
    /// For people: `healthy, leads, 24 of 8192 MiB, 12 in use`.
    pub fn line(&self) -> String {
        let mut parts = vec![self.state.as_str().to_owned()];
        parts.extend(self.alarms.iter().map(|a| format!("alarm {}", a.as_str())));
        parts.extend(self.leader.then(|| "leads".to_owned()));
        parts.extend(self.learner.then(|| "no vote yet".to_owned()));
        if let Some(database) = self.database {
            let [bytes, in_use, quota] =
                [database.bytes, database.in_use, database.quota].map(|bytes| bytes >> 20);
            parts.push(format!("{bytes} of {quota} MiB, {in_use} in use"));
        }
        parts.join(", ")
    }
}

/// The alarms that any member reports.
fn raised(members: &[Asked]) -> BTreeSet<RaisedAlarm> {
    let answers = members.iter().filter_map(|asked| asked.answer.as_ref());
    answers.flat_map(|a| a.alarms.iter().copied()).collect()
}

/// Whether any alarm is raised.
pub fn is_alarmed(members: &[Asked]) -> bool {
    !raised(members).is_empty()
}

/// A file larger than this will soon reach its quota. No limit if the member does not report its
/// quota.
fn limit(database: Database) -> u64 {
    match database.quota {
        0 => u64::MAX,
        quota => quota / 10 * 9,
    }
}

/// Whether defragmentation would shrink the file enough to be worth the pause.
fn would_gain(database: Database) -> bool {
    let Database {
        bytes,
        in_use,
        quota,
    } = database;
    let worthwhile = match quota {
        0 => WORTHWHILE,
        quota => WORTHWHILE.min(quota / 2),
    };
    let half_is_empty = bytes >= worthwhile && in_use <= bytes / 2;
    let near_the_quota = bytes > limit(database) && in_use <= limit(database);
    half_is_empty || near_the_quota
}

/// The member to defragment next in normal operation; `None` if there is none, or any member is
/// alarmed or behind.
fn due<'a>(members: &'a [Asked], resting: &BTreeSet<u64>) -> Option<&'a Member> {
    if !raised(members).is_empty() || !members.iter().all(Asked::is_in_step) {
        return None;
    }
    let gains = |asked: &&Asked| {
        !resting.contains(&asked.member.id) && asked.database().is_some_and(would_gain)
    };
    let next = members
        .iter()
        .filter(gains)
        .min_by_key(|asked| asked.leads());
    next.map(|asked| &asked.member)
}

/// The members whose files are near their quota and would shrink, etcd's leader last.
fn full(members: &[Asked]) -> Vec<Member> {
    let is_full = |asked: &&Asked| {
        asked
            .database()
            .is_some_and(|d| d.bytes > limit(d) && d.in_use <= limit(d))
    };
    let mut full: Vec<&Asked> = members.iter().filter(is_full).collect();
    full.sort_by_key(|asked| asked.leads());
    full.into_iter().map(|asked| asked.member.clone()).collect()
}

/// The first member whose file is still near its quota.
fn still_full(members: &[Asked]) -> Option<(&Member, Database)> {
    members.iter().find_map(|asked| {
        let database = asked.database()?;
        (database.bytes > limit(database)).then_some((&asked.member, database))
    })
}

/// Alarms of members that no longer exist: nothing else disarms them.
fn of_nobody(members: &[Asked]) -> Vec<RaisedAlarm> {
    let is_member = |id| members.iter().any(|asked| asked.member.id == id);
    let raised = raised(members).into_iter();
    raised.filter(|raised| !is_member(raised.member)).collect()
}

/// Whether etcd's leader runs on this node.
fn is_next_to_the_leader(members: &[Asked], me: &Identity) -> bool {
    let mut leader = members.iter().filter(|asked| asked.leads());
    leader.any(|asked| asked.member.address == me.private_ip)
}

/// Whether this control plane acts for all: it leads, or etcd's leader is on this node while an
/// alarm keeps everybody from taking a Lease.
pub async fn acts(world: &World, me: &Identity, members: &[Asked]) -> Result<bool> {
    if !is_alarmed(members) {
        return Ok(lead(world, &me.instance_id).await? == Leader::Me);
    }
    Ok(is_next_to_the_leader(members, me))
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// What is wrong with the data, and what the agent does or a person must do about it.
fn troubles(members: &[Asked]) -> Vec<String> {
    let about = |alarm: Alarm| {
        let of_a_member = move |asked: &&Asked| asked.alarms(members).contains(&alarm);
        let names: Vec<String> = members
            .iter()
            .filter(of_a_member)
            .map(|asked| name_of(&asked.member))
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let mut troubles = Vec::new();
    if let Some(names) = about(Alarm::NoSpace) {
        troubles.push(match still_full(members) {
            Some((member, d)) if d.in_use > limit(d) => format!(
                "etcd's database has reached its quota (alarm NOSPACE of {names}) and accepts only deletions: \
                 on {}, {} of {} are in use. Delete objects that are not needed, or raise \
                 --quota-backend-bytes in the etcd manifest of every control plane",
                name_of(member),
                mebibytes(d.in_use),
                mebibytes(d.quota)
            ),
            _ => format!(
                "etcd's database has reached its quota (alarm NOSPACE of {names}) and accepts only deletions: \
                 the agent next to etcd's leader compacts and defragments it"
            ),
        });
    }
    if let Some(names) = about(Alarm::Corrupt) {
        troubles.push(format!(
            "etcd's data on {names} differ from the others' (alarm CORRUPT): etcd serves neither reads nor writes. \
             Terminate that instance: once EC2 no longer lists it, its member is removed and the alarm cleared. \
             If more than one differs, restore a backup"
        ));
    }
    troubles
}

/// What one control plane remembers from cycle to cycle.
#[derive(Debug, Default)]
pub struct Maintenance {
    defragmented: BTreeMap<u64, Timestamp>,
    defragmentations: u64,
    alarms_ended: u64,
}

impl Maintenance {
    /// One cycle and its actions. An error means that etcd on this machine does not answer.
    pub async fn cycle(&mut self, world: &World, me: &Identity) -> Result<EtcdReport> {
        let mut members = ask_all(world.etcd.as_ref()).await?;
        let acted = self.act(world, me, &members).await;
        let failure = match acted {
            Ok(false) => None,
            Ok(true) => {
                members = ask_all(world.etcd.as_ref()).await?;
                None
            }
            Err(error) => {
                warn!(HINT = error.remedy(), "{}", error.one_line());
                Some(error.one_line())
            }
        };
        let mut in_step = members.iter().filter(|asked| asked.is_in_step());
        let cluster = in_step.find_map(|asked| asked.answer.as_ref().map(|a| a.cluster));
        Ok(EtcdReport {
            cluster: cluster.map(|id| format!("{id:x}")),
            defragmentations: self.defragmentations,
            alarms_ended: self.alarms_ended,
            troubles: troubles(&members).into_iter().chain(failure).collect(),
            members: members
                .iter()
                .map(|asked| MemberReport::of(asked, &members))
                .collect(),
        })
    }

    /// Does what is due on this node; returns whether anything was.
    async fn act(&mut self, world: &World, me: &Identity, members: &[Asked]) -> Result<bool> {
        if !is_alarmed(members) {
            let now = world.clock.now();
            self.defragmented
                .retain(|_, at| now < *at + AFTER_DEFRAGMENTATION);
            let resting = self.defragmented.keys().copied().collect();
            let Some(member) = due(members, &resting) else {
                return Ok(false);
            };
            if !acts(world, me, members).await? {
                return Ok(false);
            }
            self.defragment(world, member).await?;
            return Ok(true);
        }
        if !acts(world, me, members).await? {
            return Ok(false);
        }
        for alarm in of_nobody(members) {
            self.end(world, alarm).await?;
        }
        if raised(members).iter().any(|r| r.alarm == Alarm::NoSpace) {
            self.make_room(world, members).await?;
        }
        Ok(true)
    }

    /// Compacts, defragments, and disarms the alarm if that freed space.
    async fn make_room(&mut self, world: &World, members: &[Asked]) -> Result<()> {
        let etcd = world.etcd.as_ref();
        let revisions = members
            .iter()
            .filter_map(|m| Some(m.answer.as_ref()?.revision));
        if let Some(newest) = revisions.max().filter(|revision| *revision > 0) {
            etcd.compact(newest).await?;
        }
        for member in full(&ask_all(etcd).await?) {
            self.defragment(world, &member).await?;
        }
        let members = ask_all(etcd).await?;
        if still_full(&members).is_some() {
            return Ok(());
        }
        for alarm in raised(&members) {
            if alarm.alarm == Alarm::NoSpace {
                self.end(world, alarm).await?;
            }
        }
        Ok(())
    }

    async fn defragment(&mut self, world: &World, member: &Member) -> Result<()> {
        let name = name_of(member);
        let begun = world.clock.now();
        self.defragmented.insert(member.id, begun);
        let defragmented = world.etcd.defragment(member).await;
        defragmented.map_err(|error: Error| {
            error.during(format!("cannot defragment etcd's database on {name}"))
        })?;
        self.defragmentations += 1;
        let took = world.clock.now().duration_since(begun);
        info!(
            "defragmented etcd's database on {name} in {} ms",
            took.as_millis()
        );
        Ok(())
    }

    async fn end(&mut self, world: &World, alarm: RaisedAlarm) -> Result<()> {
        world.etcd.disarm(alarm).await?;
        self.alarms_ended += 1;
        info!(
            "cleared the alarm {} of etcd member {:x}",
            alarm.alarm.as_str(),
            alarm.member
        );
        Ok(())
    }
}

/// Whether a member that was asked answered, and how.
pub fn state_of(asked: &Asked) -> MemberState {
    match &asked.answer {
        Some(answer) if answer.in_step => MemberState::Healthy,
        Some(_) => MemberState::Behind,
        None => MemberState::Silent,
    }
}

#[cfg(test)]
mod tests;
