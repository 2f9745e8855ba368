//! Auto Scaling groups. moto has them and their hooks, but terminates an instance without waiting
//! for a hook, and lacks `CompleteLifecycleAction`. The lab edits moto's answers to show that an
//! instance waits, and handles the call that ends the wait.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::Response;

use super::client::{Aws, element, owned};
use super::replay::Call;
use crate::layout::Layout;
use crate::state::{CLUSTER_TAG, Machine, Notice, State};

/// How long a group waits for its hook.
pub const HEARTBEAT: Duration = Duration::from_mins(2);
/// The hook of every group.
const HOOK: &str = "drain";

/// The group of a cluster's machines with the same role.
fn name(machine: &Machine) -> String {
    let cluster = machine.tags.get(CLUSTER_TAG);
    format!(
        "{}-{}s",
        cluster.map_or("lab", String::as_str),
        machine.role
    )
}

impl Aws {
    /// Puts a machine into its group; creates the group, with a termination hook, if it does not
    /// exist.
    pub async fn put_into_group(&self, machine: &Machine, subnet: &str) -> Result<()> {
        let group = name(machine);
        let described = self
            .scaling(
                "DescribeAutoScalingGroups",
                &[("AutoScalingGroupNames.member.1", &group)],
            )
            .await?;
        if element(&described, "AutoScalingGroupName").is_none() {
            let parameters = [
                ("AutoScalingGroupName", group.as_str()),
                ("InstanceId", machine.id.as_str()),
                ("VPCZoneIdentifier", subnet),
                ("MinSize", "0"),
                ("MaxSize", "100"),
                // Otherwise moto would launch instances without machines.
                ("DesiredCapacity", "0"),
            ];
            self.scaling("CreateAutoScalingGroup", &parameters).await?;
            self.put_hook(&group, HOOK, HEARTBEAT.as_secs()).await?;
        }
        // One that a stack's group launched is in it.
        if described.contains(&format!("<InstanceId>{}</InstanceId>", machine.id)) {
            return Ok(());
        }
        self.attach_to_group(&group, machine).await
    }

    /// Adds a hook that delays terminations for this many seconds at most.
    pub async fn put_hook(&self, group: &str, hook: &str, seconds: u64) -> Result<()> {
        let seconds = seconds.to_string();
        let parameters = [
            ("AutoScalingGroupName", group),
            ("LifecycleHookName", hook),
            (
                "LifecycleTransition",
                "autoscaling:EC2_INSTANCE_TERMINATING",
            ),
            ("HeartbeatTimeout", &seconds),
            ("DefaultResult", "CONTINUE"),
        ];
        self.scaling("PutLifecycleHook", &parameters)
            .await
            .map(drop)
    }

    /// Puts a machine into a group that is there.
    pub async fn attach_to_group(&self, group: &str, machine: &Machine) -> Result<()> {
        let parameters = [
            ("AutoScalingGroupName", group),
            ("InstanceIds.member.1", &machine.id),
        ];
        self.scaling("AttachInstances", &parameters).await.map(drop)
    }

    /// Removes a machine from its group, so that moto does not launch a replacement.
    pub async fn take_out_of_group(&self, machine: &Machine) -> Result<()> {
        let group = name(machine);
        let parameters = [
            ("AutoScalingGroupName", group.as_str()),
            ("InstanceIds.member.1", &machine.id),
            ("ShouldDecrementDesiredCapacity", "true"),
        ];
        self.scaling("DetachInstances", &parameters).await.map(drop)
    }

    async fn scaling(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        self.call("autoscaling", action, &owned(parameters)).await
    }
}

/// The answer to `DescribeAutoScalingInstances`, with the states of machines that their group is
/// terminating.
pub fn waiting(xml: &str, state: &State) -> String {
    const STATE: (&str, &str) = ("<LifecycleState>", "</LifecycleState>");
    let members = xml.split_inclusive("</member>").map(|member| {
        let id = element(member, "InstanceId");
        let machine = state.machines.iter().find(|m| Some(&m.id) == id.as_ref());
        let said = match machine.and_then(|m| m.notice) {
            Some(Notice::Group { proceeds: true }) => "Terminating:Proceed",
            Some(Notice::Group { proceeds: false }) => "Terminating:Wait",
            _ => return member.to_owned(),
        };
        let parts = member
            .split_once(STATE.0)
            .and_then(|(before, rest)| Some((before, rest.split_once(STATE.1)?.1)));
        parts.map_or(member.to_owned(), |(before, after)| {
            [before, STATE.0, said, STATE.1, after].concat()
        })
    });
    members.collect()
}

/// `CompleteLifecycleAction` of a machine, which ends the wait for it.
/// <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html>
pub fn complete(layout: &Layout, call: &Call) -> Result<Response> {
    let asked = |name| call.parameter(name).unwrap_or_default();
    let completed = State::update(layout, |state| {
        let waits = state.machines.iter_mut().find(|machine| {
            machine.id == asked("InstanceId")
                && name(machine) == asked("AutoScalingGroupName")
                && machine.notice == Some(Notice::Group { proceeds: false })
        });
        let machine = waits.filter(|_| asked("LifecycleHookName") == HOOK);
        let machine = machine.ok_or_else(|| {
            anyhow!(
                "No active Lifecycle Action found with instance ID {}",
                asked("InstanceId")
            )
        })?;
        machine.notice = Some(Notice::Group { proceeds: true });
        Ok(())
    });
    let (status, xml) = match completed {
        Ok(()) => (
            StatusCode::OK,
            "<CompleteLifecycleActionResponse><CompleteLifecycleActionResult/></CompleteLifecycleActionResponse>".to_owned(),
        ),
        Err(error) => (
            StatusCode::BAD_REQUEST,
            format!("<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code><Message>{error}</Message></Error></ErrorResponse>"),
        ),
    };
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/xml")
        .body(Body::from(xml))
        .context("cannot answer CompleteLifecycleAction")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::body::Bytes;
    use axum::http::{HeaderMap, Method};

    use super::*;
    use crate::state::tests::machine;

    const WAITS: Option<Notice> = Some(Notice::Group { proceeds: false });

    #[test]
    fn only_a_machine_that_its_group_terminates_is_reported_as_waiting() {
        let (w1, mut w2, mut w3) = (machine("w1", 10), machine("w2", 11), machine("w3", 12));
        w2.notice = WAITS;
        w3.notice = Some(Notice::Group { proceeds: true });
        let member = |machine: &Machine, state: &str| {
            format!(
                "<member><InstanceId>{}</InstanceId><LifecycleState>{state}</LifecycleState><HealthStatus>Healthy</HealthStatus></member>",
                machine.id
            )
        };
        let list = |states: [&str; 3]| {
            let members: String = [&w1, &w2, &w3]
                .into_iter()
                .zip(states)
                .map(|(m, s)| member(m, s))
                .collect();
            format!("<AutoScalingInstances>{members}</AutoScalingInstances>")
        };
        let moto = list(["InService"; 3]);
        let ours = list(["InService", "Terminating:Wait", "Terminating:Proceed"]);
        let machines = vec![w1.clone(), w2.clone(), w3.clone()];
        assert_eq!(
            waiting(
                &moto,
                &State {
                    machines,
                    ..State::default()
                }
            ),
            ours
        );
    }

    #[test]
    fn the_wait_ends_once_and_by_its_own_machine_group_and_hook() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let mut waits = machine("w1", 10);
        waits.notice = WAITS;
        let id = waits.id.clone();
        State::update(&layout, |state| {
            state.machines = vec![waits, machine("w2", 11)];
            Ok(())
        })
        .unwrap();
        let complete = |id: &str, group: &str, hook: &str| {
            let body = format!(
                "Action=CompleteLifecycleAction&AutoScalingGroupName={group}&LifecycleHookName={hook}&InstanceId={id}"
            );
            let call = Call {
                method: Method::POST,
                path: "/".into(),
                headers: HeaderMap::new(),
                body: Bytes::from(body),
            };
            complete(&layout, &call).unwrap().status().as_u16()
        };
        let group = "lab-workers";
        let other = machine("w2", 11).id;
        assert_eq!(complete(&other, group, HOOK), 400);
        assert_eq!(complete(&id, "lab-control-planes", HOOK), 400);
        assert_eq!(complete(&id, group, "hello"), 400);
        assert_eq!(complete(&id, group, HOOK), 200);
        assert_eq!(complete(&id, group, HOOK), 400);
        let state = State::require(&layout).unwrap();
        assert_eq!(
            state.machines[0].notice,
            Some(Notice::Group { proceeds: true })
        );
        assert_eq!(state.machines[1].notice, None);
    }
}
