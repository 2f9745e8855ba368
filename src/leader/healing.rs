//! Removes what dead instances left in the cluster: their etcd members and their Nodes.
//!
//! Only EC2 decides that an instance is dead. A node that does not answer may be cut off for a
//! while, and a stopped instance comes back with its disk: both keep their places. Only a stopped
//! learner loses its place: it has no vote, and nobody else can join meanwhile.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tracing::{info, warn};

use super::maintenance::{Asked, acts, ask_all, is_alarmed, name_of};
use crate::{
    error::Result,
    identity::Identity,
    kubernetes::node,
    ports::{Instance, InstanceState, Member, Role, World},
};

/// How long every answer of EC2 must lack an instance before it counts as terminated. It was listed
/// before it joined, so it is terminated now, or the answer is incomplete.
const FORGOTTEN: Duration = Duration::from_mins(15);

/// The same for a learner: it has no vote to lose, and none can join while it is there.
const FORGOTTEN_LEARNER: Duration = Duration::from_mins(2);

/// How long a learner may be stopped. If its instance comes back later, it joins from the start.
const STOPPED_LEARNER: Duration = Duration::from_mins(10);

/// What is known of the cluster and its instances at one time.
#[derive(Debug, Clone, Default)]
struct Survey {
    members: Vec<Seen>,
    nodes: Vec<Node>,
    instances: Vec<Instance>,
}

/// An etcd member, and whether it answers and votes, regardless of alarms.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    member: Member,
    healthy: bool,
}

impl Seen {
    fn of(asked: &Asked) -> Self {
        Self {
            member: asked.member.clone(),
            healthy: asked.is_in_step(),
        }
    }
}

/// The relevant fields of a Node.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    name: String,
    instance: Option<String>,
    ready: bool,
    object: Value,
}

impl Node {
    fn of(object: &Value) -> Self {
        let node = node::Node(object);
        Self {
            name: node.name().to_owned(),
            instance: node.instance().map(str::to_owned),
            ready: node.is_ready(),
            object: object.clone(),
        }
    }
}

/// An action to take.
#[derive(Debug, Clone, PartialEq)]
enum Act {
    /// Remove this member from etcd.
    RemoveMember { id: u64, name: String, why: String },
    /// Delete this Node.
    DeleteNode {
        name: String,
        why: String,
        object: Value,
    },
}

/// The result of a cycle.
#[derive(Debug, Clone, Default, PartialEq)]
struct Findings {
    acts: Vec<Act>,
    /// What only a person can fix.
    troubles: Vec<String>,
}

/// Since when each instance or address has been in that state in every cycle; on the monotonic
/// clock.
type Since = BTreeMap<String, Duration>;

/// How long instances have been away.
#[derive(Debug, Clone, Default)]
struct Absences {
    /// EC2 does not list them.
    missing: Since,
    /// EC2 says that they are stopped, or about to be.
    stopped: Since,
}

impl Absences {
    /// Adds the observations of one cycle.
    fn note(&mut self, survey: &Survey, now: Duration) {
        note(&mut self.missing, survey.missing_now().collect(), now);
        note(&mut self.stopped, survey.stopped_now().collect(), now);
    }
}

/// Keeps those that are still there and starts the time of new ones.
fn note(since: &mut Since, there: Vec<String>, now: Duration) {
    since.retain(|id, _| there.contains(id));
    for id in there {
        since.entry(id).or_insert(now);
    }
}

/// Whether the state has lasted for this limit.
fn lasted(since: &Since, instance: &str, now: Duration, limit: Duration) -> bool {
    since
        .get(instance)
        .is_some_and(|since| now.saturating_sub(*since) >= limit)
}

/// Whether an instance can ever come back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It exists, or may come back.
    Alive,
    /// EC2 says that it is terminated.
    Terminated(String),
    /// EC2 has reported it as away for long enough; believed only if nothing of it answers either.
    Away(String),
}

impl Survey {
    /// What identifies a member's instance: its id, or only its address.
    ///
    /// EC2 reuses addresses, and with them names. A started member has a Node, which is created
    /// before it and deleted after it. If a person has deleted that Node, a member that does not
    /// answer may belong to an earlier instance with the same address, not to the one running now.
    fn instance_of(&self, seen: &Seen) -> String {
        let member = &seen.member;
        let is_worker = |id: &String| {
            let mut instances = self.instances.iter();
            instances.any(|i| i.id == *id && i.role == Some(Role::Worker))
        };
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|node| {
            // A worker that has the name now has no member.
            node.name == member.name && !node.instance.as_ref().is_some_and(is_worker)
        });
        if let Some(instance) = node.and_then(|node| node.instance.clone()) {
            return instance;
        }
        let is_tied = node.is_some() || member.name.is_empty() || seen.healthy;
        let holder = self.instances.iter().find(|i| {
            i.private_ip == Some(member.address)
                && i.role != Some(Role::Worker)
                && (is_tied || i.state != InstanceState::Running)
        });
        holder.map_or_else(|| member.address.to_string(), |holder| holder.id.clone())
    }

    fn fate(&self, instance: &str, absences: &Absences, now: Duration, learner: bool) -> Fate {
        let limit = if learner {
            FORGOTTEN_LEARNER
        } else {
            FORGOTTEN
        };
        let minutes = |limit: Duration| limit.as_secs() / 60;
        let listed = self.instances.iter().find(|i| i.id == instance);
        match listed.map(|i| i.state) {
            Some(InstanceState::Terminated) => {
                Fate::Terminated(format!("{instance} is terminated"))
            }
            Some(_) if learner && lasted(&absences.stopped, instance, now, STOPPED_LEARNER) => {
                Fate::Away(format!(
                    "{instance} has been stopped for {} minutes and has no vote",
                    minutes(STOPPED_LEARNER)
                ))
            }
            None if lasted(&absences.missing, instance, now, limit) => Fate::Away(format!(
                "EC2 has not listed {instance} for {} minutes",
                minutes(limit)
            )),
            _ => Fate::Alive,
        }
    }

    /// Adds instances that have lost their tags, as terminated ones soon do: EC2 then lists them by
    /// id, not with the cluster.
    async fn find_untagged(&mut self, world: &World) -> Result<()> {
        let ids: Vec<String> = self
            .missing_now()
            .filter(|id| id.starts_with("i-"))
            .collect();
        if !ids.is_empty() {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            self.instances.extend(world.ec2.by_ids(&ids).await?);
        }
        Ok(())
    }

    /// All instances that members and Nodes belong to, and that EC2 does not list now.
    fn missing_now(&self) -> impl Iterator<Item = String> {
        let members = self.members.iter().map(|seen| self.instance_of(seen));
        let nodes = self.nodes.iter().filter_map(|node| node.instance.clone());
        members
            .chain(nodes)
            .filter(|id| !self.instances.iter().any(|i| i.id == *id))
    }

    /// All instances that are stopped or stopping and may come back.
    fn stopped_now(&self) -> impl Iterator<Item = String> {
        use InstanceState::{Stopped, Stopping};
        let stopped = self
            .instances
            .iter()
            .filter(|i| matches!(i.state, Stopped | Stopping));
        stopped.map(|i| i.id.clone())
    }
}

/// Decides. At most one member is removed at a time; the next cycle sees the result.
fn heal(me: &str, survey: &Survey, absences: &Absences, now: Duration) -> Findings {
    let mut findings = Findings::default();
    let voters: Vec<&Seen> = survey
        .members
        .iter()
        .filter(|s| !s.member.learner)
        .collect();
    let healthy = voters.iter().filter(|seen| seen.healthy).count();
    let has_quorum = healthy * 2 > voters.len();
    let mut staying = Vec::new();
    for seen in &survey.members {
        let Seen {
            member,
            healthy: answers,
        } = seen;
        let instance = survey.instance_of(seen);
        let why = match survey.fate(&instance, absences, now, member.learner) {
            Fate::Terminated(why) => why,
            Fate::Away(why) if !answers => why,
            Fate::Alive | Fate::Away(_) => continue,
        };
        staying.push(member.name.clone());
        if instance == me {
            continue;
        }
        let left = voters.iter().filter(|s| s.member.id != member.id);
        let (left, left_healthy) = left.fold((0, 0), |(all, up), s| {
            (all + 1, up + usize::from(s.healthy))
        });
        if !has_quorum || left_healthy * 2 <= left {
            findings.troubles.push(format!(
                "etcd member {} cannot be removed although {why}: only {healthy} of {} voters answer; \
                 start the others again, or restore a backup",
                name_of(member),
                voters.len()
            ));
        } else if findings.acts.is_empty() {
            findings.acts.push(Act::RemoveMember {
                id: member.id,
                name: name_of(member),
                why,
            });
        }
    }
    for node in &survey.nodes {
        let Some(instance) = &node.instance else {
            continue;
        };
        let why = match survey.fate(instance, absences, now, false) {
            Fate::Terminated(why) => why,
            Fate::Away(why) if !node.ready => why,
            Fate::Alive | Fate::Away(_) => continue,
        };
        // The Node links a member to its instance, so it is deleted after the member.
        if !staying.contains(&node.name) {
            findings.acts.push(Act::DeleteNode {
                name: node.name.clone(),
                why,
                object: node.object.clone(),
            });
        }
    }
    findings
}

/// Reports that etcd has lost its quorum, if so.
fn lost_quorum(members: &[Seen]) -> Option<String> {
    let voters: Vec<&Seen> = members.iter().filter(|s| !s.member.learner).collect();
    let silent: Vec<String> = voters
        .iter()
        .filter(|seen| !seen.healthy)
        .map(|seen| name_of(&seen.member))
        .collect();
    let lost = (voters.len() - silent.len()) * 2 <= voters.len() && !voters.is_empty();
    lost.then(|| {
        format!(
            "etcd has lost its majority: {} of {} members do not answer ({}). The API is read-only. \
             Start those instances again, or restore a backup",
            silent.len(),
            voters.len(),
            silent.join(", ")
        )
    })
}

/// What one control plane remembers from cycle to cycle.
#[derive(Debug, Default)]
pub struct Healing {
    absences: Absences,
}

impl Healing {
    /// One cycle and its actions. Returns what only a person can repair.
    pub async fn cycle(&mut self, world: &World, me: &Identity) -> Result<Vec<String>> {
        let asked = ask_all(world.etcd.as_ref()).await?;
        let members: Vec<Seen> = asked.iter().map(Seen::of).collect();
        if let Some(trouble) = lost_quorum(&members) {
            return Ok(vec![trouble]);
        }
        if !acts(world, me, &asked).await? {
            self.absences = Absences::default();
            return Ok(Vec::new());
        }
        let nodes = match world.cluster.list("v1", "Node", None).await {
            Ok(nodes) => nodes,
            // An alarm may keep the API from serving; members must be removed all the same.
            Err(_) if is_alarmed(&asked) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut survey = Survey {
            members,
            nodes: nodes.iter().map(Node::of).collect(),
            instances: world.ec2.instances(&me.cluster).await?,
        };
        survey.find_untagged(world).await?;
        let now = world.clock.elapsed();
        self.absences.note(&survey, now);
        let findings = heal(&me.instance_id, &survey, &self.absences, now);
        for act in findings.acts {
            // Another control plane may have become leader between the check and the action.
            if !acts(world, me, &asked).await? {
                return Ok(Vec::new());
            }
            carry_out(world, act).await?;
        }
        for trouble in &findings.troubles {
            warn!("{trouble}");
        }
        Ok(findings.troubles)
    }
}

async fn carry_out(world: &World, act: Act) -> Result<()> {
    match act {
        Act::RemoveMember { id, name, why } => {
            world.etcd.remove(id).await?;
            info!("removed the etcd member {name}, because {why}");
        }
        Act::DeleteNode { name, why, object } => {
            if world.cluster.delete_seen(&object).await? {
                info!("deleted the Node {name}, because {why}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
