//! Every node has only its role's policy from docs/iam, which the AWS API checks at each call. Here
//! one action after the other is missing.

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::{
    scenarios::control_planes::LONE,
    stage::{Stage, ensure, text, until},
};

/// Removes each action from a role's policy for a while: the machine's status must name it. `never`
/// is missing all the time, so that the machine does not begin to act.
fn names_each(
    stage: &Stage,
    role: &str,
    machine: &str,
    actions: &[&str],
    never: Option<&str>,
) -> Result<(), Failed> {
    let outcome = actions.iter().try_for_each(|action| {
        without(stage, role, [*action].into_iter().chain(never))?;
        until(120, action, || {
            let said = text(&stage.agent(machine)?["message"]);
            ensure(said.contains(action), said)
        })
    });
    without(stage, role, None)?;
    outcome
}

/// Sets a role's policy without some actions.
fn without<'a>(
    stage: &Stage,
    role: &str,
    actions: impl IntoIterator<Item = &'a str>,
) -> Result<(), Failed> {
    let mut policy = vec!["policy", "--role", role];
    for action in actions {
        policy.extend(["--without", action]);
    }
    stage.lab(&policy).map(drop)
}

/// [`names_each`] for a machine that is launched into a separate cluster and terminated afterwards.
fn each_is_named(
    stage: &Stage,
    role: &str,
    options: &[&str],
    actions: &[&str],
    never: Option<&str>,
) -> Result<(), Failed> {
    let cluster = format!("k8s-bootstrap:cluster=permissions-{role}");
    let options = [&["--tag", &cluster], options].concat();
    without(
        stage,
        role,
        actions.first().copied().into_iter().chain(never),
    )?;
    let machine = stage.launch_as(role, &options)?;
    let outcome = names_each(stage, role, &machine, actions, never);
    stage.lab(&["terminate", &machine, "--hard"])?;
    outcome
}

/// A worker in an empty cluster looks for its founder until there is one.
pub fn a_worker_names_each_action_that_its_policy_lacks(stage: &Stage) -> Result<(), Failed> {
    let actions = ["ec2:DescribeInstances", "ssm:GetParametersByPath"];
    each_is_named(stage, "worker", &[], &actions, None)
}

/// A control plane in an empty cluster claims it, which is its only write before it founds.
pub fn a_control_plane_names_each_action_that_its_policy_lacks(
    stage: &Stage,
) -> Result<(), Failed> {
    let claim = "ssm:PutParameter";
    let actions = [claim, "ec2:DescribeInstances", "ssm:GetParametersByPath"];
    each_is_named(stage, "control-plane", &[], &actions, Some(claim))
}

/// A settings file for a scenario's machines, deleted when this is dropped.
fn settings(text: &str) -> Result<tempfile::TempPath, Failed> {
    let file = tempfile::NamedTempFile::new()?.into_temp_path();
    std::fs::write(&file, text)?;
    Ok(file)
}

/// Without a store the claim is written to the instance's tags.
pub fn a_control_plane_names_the_action_that_a_record_in_tags_needs(
    stage: &Stage,
) -> Result<(), Failed> {
    let settings = settings("store = { kind = \"none\", control_planes = 1 }\n")?;
    let options = ["--settings", &settings.to_string_lossy()];
    let claim = "ec2:CreateTags";
    each_is_named(stage, "control-plane", &options, &[claim], Some(claim))
}

/// A record in a bucket is listed and written, and read as soon as there is something to read.
pub fn nodes_name_each_action_that_a_record_in_a_bucket_needs(stage: &Stage) -> Result<(), Failed> {
    let settings = settings("store = { kind = \"s3\", bucket = \"k8s-bootstrap-backups\" }\n")?;
    let settings = settings.to_string_lossy();
    let (list, read, claim) = ("s3:ListBucket", "s3:GetObject", "s3:PutObject");
    let options = ["--settings", &settings];
    each_is_named(
        stage,
        "control-plane",
        &options,
        &[claim, list],
        Some(claim),
    )?;

    let cluster = "k8s-bootstrap:cluster=permissions-bucket";
    let options = ["--settings", &settings, "--tag", cluster];
    let founder = stage.launch_as("control-plane", &options)?;
    until(120, "a claim in the bucket", || {
        let keys = stage.lab(&["bucket", "k8s-bootstrap/permissions-bucket/"])?;
        ensure(!keys.is_empty(), "the bucket has no record")
    })?;
    stage.exec(&founder, &["systemctl", "stop", "k8s-bootstrap"])?;
    let worker = stage.launch(&options)?;
    let outcome = names_each(stage, "worker", &worker, &[list, read], None);
    stage.lab(&["terminate", &worker, "--hard"])?;
    let outcome = outcome.and_then(|()| {
        let without = Without::action(stage, "control-plane", read)?;
        stage.start_agent(&founder)?;
        let outcome = names_each(stage, "control-plane", &founder, &[read], None);
        drop(without);
        outcome
    });
    stage.lab(&["terminate", &founder, "--hard"])?;
    outcome
}

/// Restores the whole policy of a role when this is dropped.
struct Without<'a> {
    stage: &'a Stage,
    role: &'a str,
}

impl<'a> Without<'a> {
    fn action(stage: &'a Stage, role: &'a str, action: &str) -> Result<Self, Failed> {
        without(stage, role, [action])?;
        Ok(Self { stage, role })
    }
}

impl Drop for Without<'_> {
    fn drop(&mut self) {
        let _ = self.stage.try_lab(&["policy", "--role", self.role]);
    }
}

/// The workers' record set is read regularly, and written when a worker leaves.
pub fn the_leader_names_each_action_that_the_workers_name_needs(
    stage: &Stage,
) -> Result<(), Failed> {
    let says = |action: &str| {
        until(90, action, || {
            let said = stage.agent("cp1")?.to_string();
            ensure(said.contains(action), said)
        })
    };
    let (read, write) = (
        "route53:ListResourceRecordSets",
        "route53:ChangeResourceRecordSets",
    );
    let without = Without::action(stage, "control-plane", read)?;
    says(read)?;
    drop(without);
    let node = text(&stage.agent("w1")?["node"]);
    let without = Without::action(stage, "control-plane", write)?;
    stage.kubectl(&["cordon", &node])?;
    let said = says(write);
    drop(without);
    stage.kubectl(&["uncordon", &node])?;
    said?;
    until(90, "the agent to be content again", || {
        let said = stage.agent("cp1")?.to_string();
        ensure(!said.contains("route53:"), said)
    })
}

/// A backup is written and then read again; backups beyond `snapshots.keep` are removed.
pub fn a_backup_names_each_action_that_its_policy_lacks(stage: &Stage) -> Result<(), Failed> {
    let to = "s3://k8s-bootstrap-backups/permissions";
    let backup = ["k8s-bootstrap", "etcd", "snapshot", "--to", to];
    let refused = |action: &str| {
        let without = Without::action(stage, "control-plane", action)?;
        let refused = stage.try_lab(&[&["exec", "cp1", "--"][..], &backup].concat())?;
        drop(without);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure(!refused.status.success() && said.contains(action), said)
    };
    refused("s3:PutObject")?;
    refused("s3:GetObject")?;
    stage.exec("cp1", &backup)?;
    let settings = "/etc/k8s-bootstrap/config.toml";
    let keep_one = format!("mkdir -p /etc/k8s-bootstrap; echo 'snapshots.keep = 1' > {settings}");
    stage.shell("cp1", &keep_one)?;
    let outcome = refused("s3:ListBucket").and_then(|()| refused("s3:DeleteObject"));
    stage.exec("cp1", &["rm", settings])?;
    outcome
}

/// The actions that a node needs when its Auto Scaling group terminates it.
const GROUP: [&str; 3] = [
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeLifecycleHooks",
    "autoscaling:CompleteLifecycleAction",
];

/// Notifies machines one after the other that their group terminates them. Each time their role
/// lacks another action, until the machine's journal names it; `gone` checks that the machine has
/// left.
fn each_journal_names_one(
    stage: &Stage,
    role: &str,
    machines: &[String],
    gone: impl Fn(&str) -> Result<(), Failed>,
) -> Result<(), Failed> {
    ensure(machines.len() == GROUP.len(), format!("{machines:?}"))?;
    for (machine, action) in machines.iter().zip(GROUP) {
        let without = Without::action(stage, role, action)?;
        stage.lab(&["notice", "--group", machine])?;
        until(150, action, || {
            let entries = stage.journal(machine)?;
            let names = |field: &Value| field.as_str().is_some_and(|said| said.contains(action));
            let named = entries
                .iter()
                .any(|e| names(&e["MESSAGE"]) || names(&e["HINT"]));
            ensure(named, format!("the journal of {machine} does not name it"))
        })?;
        drop(without);
    }
    for machine in machines {
        until(120, "the node to leave", || gone(machine))?;
        stage.lab(&["terminate", machine, "--hard"])?;
    }
    Ok(())
}

/// A node without permission to describe or complete its group's hooks still leaves, and reports
/// the missing action.
pub fn nodes_that_their_group_ends_leave_and_name_each_action_that_their_policy_lacks(
    stage: &Stage,
) -> Result<(), Failed> {
    let count = GROUP.len();
    stage.lab(&["launch", "--role", "worker", "--count", &count.to_string()])?;
    let all = stage.machines()?;
    let nodes: BTreeMap<String, String> = all[all.len() - count..]
        .iter()
        .map(|machine| (text(&machine["name"]), text(&machine["node"])))
        .collect();
    let machines: Vec<String> = nodes.keys().cloned().collect();
    let gone = |machine: &str| stage.has_no_node(&nodes[machine]);
    each_journal_names_one(stage, "worker", &machines, gone)
}

/// Same, for control planes, each the only one of its cluster: they leave too.
pub fn control_planes_that_their_group_ends_name_each_action_that_their_policy_lacks(
    stage: &Stage,
) -> Result<(), Failed> {
    let mut machines = Vec::new();
    for cluster in LONE {
        let alone = stage.control_planes_of(cluster)?;
        for machine in &alone {
            until(180, cluster, || {
                let status = stage.agent(machine)?;
                ensure(status["stage"] == "ready", text(&status["message"]))
            })?;
        }
        machines.extend(alone);
    }
    let gone = |machine: &str| {
        let left = |e: &Value| e["MESSAGE"] == "this node has left the cluster";
        let said = stage.journal(machine)?.iter().any(left);
        ensure(said, format!("{machine} has not said that it left"))
    };
    each_journal_names_one(stage, "control-plane", &machines, gone)
}
