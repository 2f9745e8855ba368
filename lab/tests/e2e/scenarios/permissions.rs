//! Every node has the policy of its role in docs/iam and no other, checked by the AWS API at
//! each call. Here one action after the other is missing.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, text, until};

/// Launches a machine into a cluster of its own, and takes each action out of its role's policy
/// for a while: the agent's status names it.
fn each_is_named(stage: &Stage, role: &str, actions: &[&str]) -> Result<(), Failed> {
    let cluster = format!("k8s-bootstrap:cluster=permissions-{role}");
    // Denied from the start: it never comes to an act, and the next action has its turn.
    stage.lab(&["policy", "--role", role, "--without", actions[0]])?;
    let machine = stage.launch_as(role, &["--tag", &cluster])?;
    let outcome = actions.iter().try_for_each(|action| {
        let mut policy = vec!["policy", "--role", role, "--without", action];
        if *action != actions[0] {
            policy.extend(["--without", actions[0]]);
        }
        stage.lab(&policy)?;
        until(120, action, || {
            let said = text(&stage.agent(&machine)?["message"]);
            ensure(said.contains(action), said)
        })
    });
    stage.lab(&["policy", "--role", role])?;
    stage.lab(&["terminate", &machine, "--hard"])?;
    outcome
}

pub fn a_worker_names_each_action_that_its_policy_lacks(stage: &Stage) -> Result<(), Failed> {
    each_is_named(
        stage,
        "worker",
        &[
            "ssm:GetParameter",
            "ec2:DescribeInstances",
            "ssm:GetParametersByPath",
        ],
    )
}

/// A founder: in an empty cluster it claims, which is its one write before it founds.
pub fn a_control_plane_names_each_action_that_its_policy_lacks(
    stage: &Stage,
) -> Result<(), Failed> {
    each_is_named(
        stage,
        "control-plane",
        &[
            "ssm:PutParameter",
            "ssm:GetParameter",
            "ec2:DescribeInstances",
            "ssm:GetParametersByPath",
        ],
    )
}
