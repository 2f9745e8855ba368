//! What a node does before it leaves, depending on the reason.

use serde::Serialize;

use super::{Phase, phase::Plan};
use crate::{
    config::Settings,
    identity::Identity,
    ports::Role,
    steps::{
        Action,
        decommission::{CompleteHooks, Cordon, Evict, LeaveEtcd, MarkLeft, Unready, WaitForDns},
    },
};

/// How long a small change through the API may take.
const BRIEF: u64 = 20;

/// Longest time until the record set no longer names a cordoned worker: two cycles of the leader
/// and a write.
const RECORD: u64 = 25;

/// Why a node leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The machine goes down and may come back with the same disk: a reboot, a stop.
    Pause,
    /// EC2 terminates the instance; its system is shutting down.
    Termination,
    /// Its Auto Scaling group wants to terminate it and waits.
    Group,
    /// The spot market takes the instance back for good.
    Spot,
    /// The spot market stops the instance; it may come back.
    SpotStop,
    /// A person takes the node out of the cluster.
    Reset,
}

impl Why {
    /// The reason as a person reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "the machine shuts down and may come back",
            Self::Termination => "EC2 terminates this instance",
            Self::Group => "the Auto Scaling group terminates this instance",
            Self::Spot => "this spot instance is interrupted",
            Self::SpotStop => "this spot instance is stopped",
            Self::Reset => "a person removes this node from its cluster",
        }
    }

    /// Whether the node can never come back as the same node.
    fn is_for_good(self) -> bool {
        !matches!(self, Self::Pause | Self::SpotStop)
    }
}

/// The notice that this node is about to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// What ends it; this determines which phases run.
    pub why: Why,
    /// How long leaving may take, in seconds.
    pub seconds: u64,
}

/// The phases of a node that leaves.
#[rustfmt::skip] // one phase a line, to be read as a list
pub fn decommission(notice: &Notice, settings: &Settings, me: &Identity) -> Vec<Phase<Action>> {
    let node = || me.node_name.clone();
    let mut plan = Plan::new();
    let mut add = |name: &str, seconds: u64, why: &str, step: Action| {
        plan.add(&format!("leave-{name}"), seconds, &[], why, step);
    };
    add("cordon", BRIEF, "no new pods, and no address in the DNS record set", Cordon { node: node() }.into());
    if notice.why == Why::Pause {
        add("unready", BRIEF, "services send no more requests to pods that are about to end", Unready { node: node() }.into());
        return plan.0;
    }
    add("evict", notice.seconds, "pods start elsewhere before they end here", Evict { node: node(), seconds: notice.seconds }.into());
    if settings.dns.enabled && me.role == Role::Worker {
        let seconds = (RECORD + u64::from(settings.dns.ttl)).min(notice.seconds);
        add("dns", notice.seconds, "clients that still use this address are served", WaitForDns { node: node(), seconds }.into());
    }
    if notice.why.is_for_good() {
        if me.role == Role::ControlPlane {
            add("etcd", BRIEF, "the others keep their majority without this member", LeaveEtcd::new(&me.cluster, &me.instance_id, &me.node_name).into());
        }
        add("node", BRIEF, "the leader deletes the Node", MarkLeft { node: node(), instance: me.instance_id.clone() }.into());
    }
    if notice.why == Why::Group {
        add("hooks", BRIEF, "the Auto Scaling group continues", CompleteHooks { instance: me.instance_id.clone() }.into());
    }
    plan.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{control_plane, settings, worker};

    fn with_a_name() -> Settings {
        let mut settings = settings();
        settings.dns.enabled = true;
        settings
    }

    fn names(why: Why, settings: &Settings, me: &Identity) -> Vec<String> {
        let notice = Notice { why, seconds: 90 };
        let phases = decommission(&notice, settings, me).into_iter();
        phases
            .map(|phase| phase.name.replace("leave-", ""))
            .collect()
    }

    #[test]
    fn the_table_of_reasons_and_phases() {
        let (worker, control_plane) = (worker("i-1"), control_plane("i-1"));
        let named = with_a_name();
        for (why, me, settings, expected) in [
            (Why::Pause, &worker, &named, &["cordon", "unready"][..]),
            (Why::Pause, &control_plane, &named, &["cordon", "unready"]),
            (
                Why::Termination,
                &worker,
                &named,
                &["cordon", "evict", "dns", "node"],
            ),
            (
                Why::Termination,
                &worker,
                &self::settings(),
                &["cordon", "evict", "node"],
            ),
            (
                Why::Termination,
                &control_plane,
                &named,
                &["cordon", "evict", "etcd", "node"],
            ),
            (
                Why::Group,
                &worker,
                &named,
                &["cordon", "evict", "dns", "node", "hooks"],
            ),
            (
                Why::Group,
                &control_plane,
                &named,
                &["cordon", "evict", "etcd", "node", "hooks"],
            ),
            (
                Why::Spot,
                &worker,
                &named,
                &["cordon", "evict", "dns", "node"],
            ),
            (Why::SpotStop, &worker, &named, &["cordon", "evict", "dns"]),
            (Why::SpotStop, &control_plane, &named, &["cordon", "evict"]),
            (
                Why::Reset,
                &worker,
                &named,
                &["cordon", "evict", "dns", "node"],
            ),
        ] {
            assert_eq!(
                names(why, settings, me),
                expected,
                "{why:?} of a {}",
                me.role
            );
        }
    }

    #[test]
    fn the_wait_for_dns_is_no_longer_than_the_notice() {
        let seconds = |notice: u64, ttl: u32| {
            let mut settings = with_a_name();
            settings.dns.ttl = ttl;
            let notice = Notice {
                why: Why::Spot,
                seconds: notice,
            };
            let phases = decommission(&notice, &settings, &worker("i-1"));
            let wait = phases.into_iter().find_map(|phase| match phase.step {
                Action::WaitForDns(wait) => Some(wait.seconds),
                _ => None,
            });
            wait.unwrap()
        };
        assert_eq!(seconds(90, 5), 30);
        assert_eq!(seconds(90, 300), 90);
    }
}
