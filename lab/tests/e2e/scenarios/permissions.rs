//! Every node has the policy of its role in docs/iam and no other, checked by the AWS API at
//! each call. Here one action after the other is missing.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::{
    scenarios::control_planes::LONE,
    stage::{Stage, ensure, text, until},
};

/// Launches a machine into a cluster of its own, and takes each action out of its role's policy
/// for a while: the agent's status names it. `never` is missing all the time, so that the
/// machine does not come to an act.
fn each_is_named(
    stage: &Stage,
    role: &str,
    options: &[&str],
    actions: &[&str],
    never: Option<&str>,
) -> Result<(), Failed> {
    let cluster = format!("k8s-bootstrap:cluster=permissions-{role}");
    let options = [&["--tag", &cluster], options].concat();
    let policy = |more: &[&str]| {
        let mut policy = vec!["policy", "--role", role];
        for action in more.iter().copied().chain(never) {
            policy.extend(["--without", action]);
        }
        stage.lab(&policy)
    };
    policy(&actions[..1])?;
    let machine = stage.launch_as(role, &options)?;
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
    let actions = ["ec2:DescribeInstances", "ssm:GetParametersByPath"];
    each_is_named(stage, "worker", &[], &actions, None)
}

/// A control plane in an empty cluster claims it, which is its one write before it founds.
pub fn a_control_plane_names_each_action_that_its_policy_lacks(
    stage: &Stage,
) -> Result<(), Failed> {
    let claim = "ssm:PutParameter";
    let actions = [claim, "ec2:DescribeInstances", "ssm:GetParametersByPath"];
    each_is_named(stage, "control-plane", &[], &actions, Some(claim))
}

/// Without a store the claim is written into the instance's tags, and with a bucket into that,
/// which is listed before.
pub fn a_control_plane_names_the_action_that_another_store_needs(
    stage: &Stage,
) -> Result<(), Failed> {
    let stores = [
        (
            "kind = \"none\"\ncontrol_planes = 1",
            &["ec2:CreateTags"][..],
        ),
        (
            "kind = \"s3\"\nbucket = \"k8s-bootstrap-backups\"",
            &["s3:PutObject", "s3:ListBucket"],
        ),
    ];
    for (store, actions) in stores {
        let settings = tempfile::NamedTempFile::new()?;
        std::fs::write(settings.path(), format!("[store]\n{store}\n"))?;
        let path = settings.path().display().to_string();
        let options = ["--settings", &path];
        let claim = actions.first().copied();
        each_is_named(stage, "control-plane", &options, actions, claim)?;
    }
    Ok(())
}

/// Restores the whole policy of a role when this is dropped.
struct Without<'a> {
    stage: &'a Stage,
    role: &'a str,
}

impl<'a> Without<'a> {
    fn action(stage: &'a Stage, role: &'a str, action: &str) -> Result<Self, Failed> {
        stage.lab(&["policy", "--role", role, "--without", action])?;
        Ok(Self { stage, role })
    }
}

impl Drop for Without<'_> {
    fn drop(&mut self) {
        let _ = self.stage.try_lab(&["policy", "--role", self.role]);
    }
}

/// The workers' record set is read all the time, and written when a worker leaves it.
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

/// A backup is written, and then read again; what is beyond `snapshots.keep` is removed.
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

/// What a node asks of its Auto Scaling group that ends it.
const GROUP: [&str; 3] = [
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeLifecycleHooks",
    "autoscaling:CompleteLifecycleAction",
];

/// Tells a machine that its group ends it while its role lacks an action, until its journal
/// names that, and `gone` holds.
fn the_journal_names(
    stage: &Stage,
    role: &str,
    machine: &str,
    action: &str,
    gone: impl Fn() -> Result<(), Failed>,
) -> Result<(), Failed> {
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
    until(60, "the node to leave", gone)?;
    drop(without);
    stage.lab(&["terminate", machine, "--hard"]).map(drop)
}

/// A node that may not learn of its group's hooks, or not complete them, leaves all the same,
/// and says what it lacks.
pub fn nodes_that_their_group_ends_leave_and_name_each_action_that_their_policy_lacks(
    stage: &Stage,
) -> Result<(), Failed> {
    let count = GROUP.len();
    stage.lab(&["launch", "--role", "worker", "--count", &count.to_string()])?;
    let machines = stage.machines()?;
    for (machine, action) in machines[machines.len() - count..].iter().zip(GROUP) {
        let (name, node) = (text(&machine["name"]), text(&machine["node"]));
        let gone = || stage.has_no_node(&node);
        the_journal_names(stage, "worker", &name, action, gone)?;
    }
    Ok(())
}

/// The same of control planes, each the only one of its cluster: they have said goodbye.
pub fn control_planes_that_their_group_ends_name_each_action_that_their_policy_lacks(
    stage: &Stage,
) -> Result<(), Failed> {
    for (cluster, action) in LONE.into_iter().zip(GROUP) {
        let machines = stage.control_planes_of(cluster)?;
        let [machine] = &machines[..] else {
            return Err(format!("in {cluster} are {machines:?}").into());
        };
        until(180, cluster, || {
            let status = stage.agent(machine)?;
            ensure(status["stage"] == "ready", text(&status["message"]))
        })?;
        let gone = || {
            let goodbye = |e: &Value| e["MESSAGE"] == "goodbye";
            let said = stage.journal(machine)?.iter().any(goodbye);
            ensure(said, format!("{machine} has not said goodbye"))
        };
        the_journal_names(stage, "control-plane", machine, action, gone)?;
    }
    Ok(())
}
