//! How a node leaves: on which notice, and by when.
//!
//! [`plan::decommission`] turns a notice into phases. Leaving never fails as a whole: if a phase
//! fails or runs out of time, the next one starts, since the machine ends anyway.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::Agent;
use crate::{
    config::Settings,
    identity::Identity,
    plan::{self, Notice, decommission::Why},
    ports::{Command, Hook, Interruption, Notices, World},
    report::Stage,
    wait::{schedules::NOTICES, within},
};

/// Reserved for the last phases, out of the time that a notice gives.
const MARGIN: Duration = Duration::from_secs(15);

/// How long to wait for EC2 to report this instance's state; without an answer the instance counts
/// as coming back.
const EC2_ANSWERS: Duration = Duration::from_secs(10);

/// The notice that the metadata service gives, if any. `hooks` are the lifecycle hooks that delay
/// the termination by the group.
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

/// Why the node leaves, if the whole machine shuts down; `None` if a person or a failure stops only
/// the agent.
async fn at_shutdown(world: &World, me: &Identity) -> Option<Why> {
    let asked = Command::systemctl(["is-system-running"]).within(Duration::from_secs(5));
    // Its exit status adds nothing to its output.
    let said = world.commands.run(asked).await.ok()?;
    if said.stdout.trim() != "stopping" {
        return None;
    }
    let instances = within(
        world.clock.as_ref(),
        EC2_ANSWERS,
        world.ec2.instances(&me.cluster),
    )
    .await;
    let gone = match instances {
        Some(Ok(instances)) => instances
            .iter()
            .any(|i| i.id == me.instance_id && i.state.is_gone()),
        Some(Err(error)) => {
            warn!(
                "cannot tell whether this instance is terminated: {}",
                error.one_line()
            );
            false
        }
        None => {
            warn!("cannot tell whether this instance is terminated: EC2 does not answer");
            false
        }
    };
    Some(if gone { Why::Termination } else { Why::Pause })
}

impl Agent {
    /// Polls until there is a notice.
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
                        info!(
                            "this spot instance may be interrupted soon: EC2 recommends rebalancing"
                        );
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
                        warn!(HINT = error.remedy(), "cannot read EC2's notices: {line}");
                    }
                    trouble = Some(line);
                }
            }
            self.world.clock.sleep(NOTICES).await;
        }
    }

    /// Leaves the cluster if the agent is stopped by a shutdown of the machine.
    pub async fn leave_at_shutdown(&self) {
        // A node that never joined has nothing to leave.
        if self.runner.membership().await.is_none() {
            return;
        }
        if let Some(why) = at_shutdown(&self.world, &self.me).await {
            let seconds = self.settings.leaving.deadline;
            self.leave(&Notice { why, seconds }).await;
        }
    }

    /// Drains and leaves, phase by phase, within the time that the notice gives.
    pub async fn leave(&self, notice: &Notice) {
        let why = notice.why.as_str();
        info!(
            "{why}: this node leaves the cluster within {} s",
            notice.seconds
        );
        let clock = &self.world.clock;
        self.reporter.stage(Stage::Leaving, why, clock.now());
        let end = clock.elapsed() + Duration::from_secs(notice.seconds) + MARGIN;
        for mut phase in plan::decommission(notice, &self.settings, &self.me) {
            let left = end.saturating_sub(clock.elapsed()).as_secs();
            // Even at the very end each phase gets a few seconds.
            let left = left.max(3);
            phase.deadline_seconds = phase.deadline_seconds.min(left);
            if let Err(error) = self.runner.run(&[phase]).await {
                warn!(HINT = error.remedy(), "{}", error.one_line());
            }
        }
        info!("this node has left the cluster");
    }
}

#[cfg(test)]
mod tests;
