//! How a node goes: why, by when, and what it does before.
//!
//! A notice is any word that this node is about to end; [`plan`] turns it into phases. A
//! goodbye never gives up as a whole: a phase that is not done in its time leaves the rest
//! to the next, since the machine ends anyway.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::{
    boot::Agent,
    config::Settings,
    identity::Identity,
    ports::{Command, Commands, Ec2, Hook, Interruption, Notices, Role},
    report::Stage,
    runner::Phase,
    steps::{
        Action,
        leaving::{CompleteHooks, Cordon, Evict, LeaveEtcd, Left, Linger, Unready},
    },
};

/// How often the metadata service is asked for notices, as EC2's documentation advises.
pub const POLL: Duration = Duration::from_secs(5);

/// What a goodbye keeps free of the time that others give, for its last phases.
const MARGIN: Duration = Duration::from_secs(15);

/// How long a small change at the API may take.
const BRIEF: u64 = 20;

/// Longest until the record set no longer names a cordoned worker: two looks of the leader,
/// and a write.
const RECORD: u64 = 25;

/// EC2 says within this what becomes of this instance; else it counts as coming back.
const EC2_PATIENCE: Duration = Duration::from_secs(10);

/// Why a node goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The machine goes down and may come back with the same disk: a reboot, a stop.
    Pause,
    /// EC2 terminates the instance, whose system is shutting down.
    Termination,
    /// Its Auto Scaling group wants to terminate it and waits.
    Group,
    /// The spot market takes the instance back for good.
    Spot,
    /// The spot market stops the instance, which may come back.
    SpotStop,
    /// A person takes the node out of the cluster.
    Reset,
}

impl Why {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "the machine goes down and may come back",
            Self::Termination => "EC2 terminates this instance",
            Self::Group => "the Auto Scaling group terminates this instance",
            Self::Spot => "this spot instance is taken back",
            Self::SpotStop => "this spot instance is stopped",
            Self::Reset => "this node is taken out of its cluster",
        }
    }

    /// Whether the node can never come back as the one that it is.
    fn is_for_good(self) -> bool {
        !matches!(self, Self::Pause | Self::SpotStop)
    }
}

/// That this node goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Why.
    pub why: Why,
    /// How long the goodbye may take, in seconds.
    pub seconds: u64,
}

/// What a node does before it goes.
#[rustfmt::skip] // one phase a line, to be read as a list
pub fn plan(notice: &Notice, settings: &Settings, me: &Identity) -> Vec<Phase<Action>> {
    let node = || me.node_name.clone();
    let mut phases = Vec::new();
    let mut add = |name: &str, seconds: u64, why: &str, step: Action| {
        phases.push(Phase {
            name: format!("goodbye-{name}"),
            why: why.to_owned(),
            after: Vec::new(),
            deadline_seconds: seconds,
            step,
        });
    };
    add("cordon", BRIEF, "no new pods, and no place in the record set", Cordon { node: node() }.into());
    if notice.why == Why::Pause {
        add("unready", BRIEF, "services send no more requests to pods that are about to end", Unready { node: node() }.into());
        return phases;
    }
    add("evict", notice.seconds, "pods start elsewhere before they end here", Evict { node: node(), seconds: notice.seconds }.into());
    if settings.dns.enabled && me.role == Role::Worker {
        let seconds = (RECORD + u64::from(settings.dns.ttl)).min(notice.seconds);
        add("linger", notice.seconds, "visitors who know this address are served", Linger { node: node(), seconds }.into());
    }
    if notice.why.is_for_good() {
        if me.role == Role::ControlPlane {
            add("etcd", BRIEF, "the others keep their majority without this member", LeaveEtcd::new(&me.cluster, &me.instance_id, &me.node_name).into());
        }
        add("left", BRIEF, "the leader deletes the Node", Left { node: node(), instance: me.instance_id.clone() }.into());
    }
    if notice.why == Why::Group {
        add("hooks", BRIEF, "the group goes on", CompleteHooks { instance: me.instance_id.clone() }.into());
    }
    phases
}

/// The notice in what the metadata service says, if there is one. `hooks` are those of the
/// group that waits.
fn heard(notices: &Notices, hooks: &[Hook], now: Timestamp, settings: &Settings) -> Option<Notice> {
    if let Some(Interruption { action, time }) = &notices.interruption {
        let left = Duration::try_from(time.duration_since(now)).unwrap_or_default();
        let why = match action.as_str() {
            "terminate" => Why::Spot,
            _ => Why::SpotStop,
        };
        let seconds = left.saturating_sub(MARGIN).as_secs();
        return Some(Notice { why, seconds });
    }
    notices.terminated_by_group.then(|| {
        let shortest = hooks.iter().map(|hook| hook.timeout).min();
        let seconds = shortest.map_or(settings.leaving.deadline, |timeout| {
            timeout.saturating_sub(MARGIN.as_secs())
        });
        Notice {
            why: Why::Group,
            seconds,
        }
    })
}

/// Why the agent is told to end, if the whole machine goes; `None` where a person or a failure
/// ends the agent alone.
async fn at_shutdown(commands: &dyn Commands, ec2: &dyn Ec2, me: &Identity) -> Option<Why> {
    let asked = Command::new("systemctl", ["is-system-running"]).within(Duration::from_secs(5));
    // Its exit status says no more than its word.
    let said = commands.run(asked).await.ok()?;
    if said.stdout.trim() != "stopping" {
        return None;
    }
    let instances = timeout(EC2_PATIENCE, ec2.instances(&me.cluster)).await;
    let gone = match instances {
        Ok(Ok(instances)) => instances
            .iter()
            .any(|i| i.id == me.instance_id && i.state.is_gone()),
        Ok(Err(error)) => {
            warn!(
                "cannot tell whether this instance is terminated: {}",
                error.one_line()
            );
            false
        }
        Err(_) => {
            warn!("cannot tell whether this instance is terminated: EC2 does not answer");
            false
        }
    };
    Some(if gone { Why::Termination } else { Why::Pause })
}

impl Agent {
    /// Listens until there is a notice.
    pub async fn await_notice(&self) -> Notice {
        let mut rebalance = false;
        let mut trouble = None;
        loop {
            let asked = self.world.metadata.notices().await;
            let now = self.world.clock.now();
            match asked {
                Ok(notices) => {
                    trouble = None;
                    if notices.rebalance && !rebalance {
                        info!("the spot market may take this instance back soon");
                    }
                    rebalance = notices.rebalance;
                    let hooks = if notices.terminated_by_group {
                        self.world.scaling.waiting_for(&self.me.instance_id).await
                    } else {
                        Ok(Vec::new())
                    };
                    let hooks = hooks.unwrap_or_else(|error| {
                        warn!(HINT = error.remedy(), "{}", error.one_line());
                        Vec::new()
                    });
                    if let Some(notice) = heard(&notices, &hooks, now, &self.settings) {
                        return notice;
                    }
                }
                Err(error) => {
                    let line = error.one_line();
                    if trouble.as_ref() != Some(&line) {
                        warn!(HINT = error.remedy(), "no notices: {line}");
                    }
                    trouble = Some(line);
                }
            }
            self.world.clock.sleep(POLL).await;
        }
    }

    /// What is left to do when the agent is told to end.
    pub async fn end(&self) {
        let (commands, ec2) = (self.world.commands.as_ref(), self.world.ec2.as_ref());
        // One that never joined has nobody to say goodbye to.
        if self.runner.membership().await.is_none() {
            return;
        }
        if let Some(why) = at_shutdown(commands, ec2, &self.me).await {
            let seconds = self.settings.leaving.deadline;
            self.say_goodbye(&Notice { why, seconds }).await;
        }
    }

    /// Carries a goodbye out, phase by phase, within its time as a whole.
    pub async fn say_goodbye(&self, notice: &Notice) {
        let why = notice.why.as_str();
        info!(
            "{why}: this node says goodbye, in {} s at most",
            notice.seconds
        );
        let clock = &self.world.clock;
        self.reporter.stage(Stage::Leaving, why, clock.now());
        let end = clock.elapsed() + Duration::from_secs(notice.seconds) + MARGIN;
        for mut phase in plan(notice, &self.settings, &self.me) {
            let left = end.saturating_sub(clock.elapsed()).as_secs();
            // At the very end each still gets its word in.
            let left = left.max(3);
            phase.deadline_seconds = phase.deadline_seconds.min(left);
            if let Err(error) = self.runner.run(&[phase]).await {
                warn!(HINT = error.remedy(), "{}", error.one_line());
            }
        }
        info!("goodbye");
    }
}

#[cfg(test)]
mod tests;
