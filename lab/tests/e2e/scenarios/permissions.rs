//! Every node has the policy of its role in docs/iam and no other, checked by the AWS API at
//! each call. Here one action after the other is missing.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, text, until};

/// Launches a machine into a cluster of its own, and takes each action out of its role's policy
/// for a while: the agent's status names it. `never` is missing all the time, so that the
/// machine does not come to an act.
fn each_is_named(
    stage: &Stage,
    role: &str,
    actions: &[&str],
    never: Option<&str>,
) -> Result<(), Failed> {
    let cluster = format!("k8s-bootstrap:cluster=permissions-{role}");
    let policy = |more: &[&str]| {
        let mut policy = vec!["policy", "--role", role];
        for action in more.iter().copied().chain(never) {
            policy.extend(["--without", action]);
        }
        stage.lab(&policy)
    };
    policy(&actions[..1])?;
    let machine = stage.launch_as(role, &["--tag", &cluster])?;
    let outcome = actions.iter().try_for_each(|action| {
        policy(&[action])?;
        until(120, action, || {
            let said = text(&stage.agent(&machine)?["message"]);
            ensure(said.contains(action), said)
        })
    });
    stage.lab(&["policy", "--role", role])?;
    stage.lab(&["terminate", &machine, "--hard"])?;
    outcome
}

/// A worker in an empty cluster looks for its founder for as long as there is none.
pub fn a_worker_names_each_action_that_its_policy_lacks(stage: &Stage) -> Result<(), Failed> {
    let actions = [
        "ssm:GetParameter",
        "ec2:DescribeInstances",
        "ssm:GetParametersByPath",
    ];
    each_is_named(stage, "worker", &actions, None)
}

/// A control plane in an empty cluster claims it, which is its one write before it founds.
pub fn a_control_plane_names_each_action_that_its_policy_lacks(
    stage: &Stage,
) -> Result<(), Failed> {
    let claim = "ssm:PutParameter";
    let actions = [
        claim,
        "ssm:GetParameter",
        "ec2:DescribeInstances",
        "ssm:GetParametersByPath",
    ];
    each_is_named(stage, "control-plane", &actions, Some(claim))
}
