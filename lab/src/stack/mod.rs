//! A CloudFormation stack of a whole cluster: moto creates it, and the lab boots a machine for each
//! instance that its Auto Scaling groups want.
//!
//! The machines get what the stack's launch templates say: user-data, tags, instance profile and
//! security groups.

mod template;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ec2::client::Aws;
use crate::ec2::stacks::IMAGE_PARAMETER;
use crate::layout::Layout;
use crate::lifecycle::{self, Image, Options};
use crate::machine::cgroups::CgroupVersion;
use crate::network::VPC_CIDR;
use crate::state::{CLUSTER_TAG, Group, Kind, Machine, Stack, State};
use crate::{firewall, process, status, userdata};
use template::Template;

/// The template of a stack in the lab, as the agent's own command makes it: with the lab's settings,
/// mirrors and range.
pub fn render(layout: &Layout, arguments: &[String]) -> Result<String> {
    let image = Image::load(layout)?;
    let state = State::require(layout)?;
    // Two clusters must not write the same record set.
    let apart = "dns.enabled = false\n";
    let settings = userdata::settings(
        Kind::Container,
        CgroupVersion::here(),
        &image.pins,
        &state.zone,
        apart,
    )?;
    let file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    std::fs::write(file.path(), settings).context("cannot write the settings")?;
    let output = Command::new(&image.agent.binary)
        .args(["cloudformation", "--vpc-cidr", VPC_CIDR])
        .args(["--url", &image.agent.url, "--config"])
        .arg(file.path())
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", image.agent.binary.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("the template is no text")
}

/// Checks a template with cfn-lint, which moto brings along.
pub fn lint(layout: &Layout, file: &Path) -> Result<()> {
    let program = layout.cache().join("moto/bin/cfn-lint");
    let file = file.to_string_lossy();
    let words = ["--regions", crate::network::REGION, "--", &*file];
    process::run(&program.to_string_lossy(), &words).map(drop)
}

/// Creates a stack and boots its machines.
pub async fn create(layout: &Layout, name: &str, text: &str) -> Result<Vec<Machine>> {
    let template = Template::parse(text)?;
    let aws = Aws::over_socket(layout)?;
    let ids = aws
        .create_stack(name, &template.for_moto(IMAGE_PARAMETER))
        .await?;
    let id = |name: &str| {
        let id = ids.get(name);
        id.with_context(|| format!("the stack has no {name}"))
    };
    for (role, policy) in template.policies() {
        aws.put_role_policy(id(&role)?, &policy).await?;
    }
    for (address, clients) in template.identity_providers(&ids)? {
        aws.create_identity_provider(&address, &clients).await?;
    }
    for (bucket, policy) in template.bucket_policies(&ids)? {
        aws.put_bucket_policy(&bucket, policy).await?;
    }
    let mut stack = Stack {
        name: name.to_owned(),
        groups: Vec::new(),
        rules: template.rules(&ids)?,
    };
    let mut desired = Vec::new();
    for group in template.groups()? {
        for (hook, seconds) in &group.hooks {
            aws.put_hook(&group.name, hook, *seconds).await?;
        }
        stack.groups.push(Group {
            name: group.name.clone(),
            launch_template: id(&group.launch_template)?.clone(),
            heartbeat: group
                .hooks
                .iter()
                .map(|(_, seconds)| *seconds)
                .min()
                .unwrap_or(0),
        });
        desired.push(group.desired);
    }
    let groups = stack.groups.clone();
    State::update(layout, |state| {
        state.stacks.push(stack);
        Ok(())
    })?;
    let mut machines = Vec::new();
    for (group, count) in groups.iter().zip(desired) {
        machines.extend(launch(layout, group, count).await?);
    }
    Ok(machines)
}

/// Launches instances as a group does.
async fn launch(layout: &Layout, group: &Group, count: usize) -> Result<Vec<Machine>> {
    let aws = Aws::over_socket(layout)?;
    let template = aws.launch_template(&group.launch_template).await?;
    let role = template.tags.get("k8s-bootstrap:role");
    let role = role.context("the launch template has no tag k8s-bootstrap:role")?;
    let roles = vec![role.as_str(); count];
    let options = Options {
        tags: template.tags.clone(),
        user_data: Some(template.user_data),
        profile: template.profile,
        security_groups: template.security_groups,
        ..Options::default()
    };
    let machines = lifecycle::launch(layout, &roles, &options).await?;
    for machine in &machines {
        aws.attach_to_group(&group.name, machine).await?;
    }
    firewall::apply(&State::require(layout)?)?;
    Ok(machines)
}

fn group(state: &State, name: &str) -> Result<Group> {
    let mut groups = state.stacks.iter().flat_map(|stack| &stack.groups);
    let found = groups.find(|group| group.name == name).cloned();
    found.with_context(|| format!("no stack has a group {name}"))
}

/// The group's machines, oldest first.
fn members(state: &State, name: &str) -> Vec<Machine> {
    let of = |machine: &&Machine| {
        let cluster = machine.tags.get(CLUSTER_TAG).map_or("", String::as_str);
        format!("{cluster}-{}s", machine.role) == name
    };
    state.present().filter(of).cloned().collect()
}

/// Launches or terminates machines until a group has this many. The oldest go first, and a group
/// waits for their hooks. Returns those that it launched.
pub async fn scale(layout: &Layout, name: &str, count: usize) -> Result<Vec<Machine>> {
    let state = State::require(layout)?;
    let (group, members) = (group(&state, name)?, members(&state, name));
    let launched = launch(layout, &group, count.saturating_sub(members.len())).await?;
    for machine in &launched {
        println!("{} {} launched", machine.name, machine.id);
    }
    for machine in members.iter().take(members.len().saturating_sub(count)) {
        terminate(layout, &group, machine).await?;
    }
    Ok(launched)
}

/// Replaces every machine of a group, one after the other: the next one is Ready before the old one
/// goes, as in an instance refresh with `MinHealthyPercentage` 100.
pub async fn refresh(layout: &Layout, name: &str, deadline: Duration) -> Result<()> {
    let state = State::require(layout)?;
    let group = group(&state, name)?;
    for old in members(&state, name) {
        for new in launch(layout, &group, 1).await? {
            let ready = || status::agent_is_ready(layout, &new.name);
            if !process::wait_until(deadline, ready) {
                bail!("{} is not Ready within {} s", new.name, deadline.as_secs());
            }
            println!("{} {} ready", new.name, new.id);
        }
        terminate(layout, &group, &old).await?;
    }
    Ok(())
}

async fn terminate(layout: &Layout, group: &Group, machine: &Machine) -> Result<()> {
    let heartbeat = Duration::from_secs(group.heartbeat);
    let (machine, completed) =
        lifecycle::terminate_by_group(layout, &machine.name, heartbeat).await?;
    firewall::apply(&State::require(layout)?)?;
    let how = if completed { "completed" } else { "timed out" };
    println!(
        "{} {} terminated, its hook was {how}",
        machine.name, machine.id
    );
    Ok(())
}

/// Deletes a stack: its groups terminate their instances, then the rest goes. Workers go first, so
/// that control planes can remove their Nodes.
pub async fn delete(layout: &Layout, name: &str) -> Result<()> {
    let state = State::require(layout)?;
    let stack = state.stacks.iter().find(|stack| stack.name == name);
    let stack = stack.with_context(|| format!("there is no stack {name}"))?;
    let of = |group| members(&state, group).into_iter();
    let mut machines: Vec<(&Group, Machine)> = stack
        .groups
        .iter()
        .flat_map(|group| of(&group.name).map(move |machine| (group, machine)))
        .collect();
    machines.sort_by_key(|(_, machine)| machine.role == "control-plane");
    for (group, machine) in &machines {
        terminate(layout, group, machine).await?;
    }
    Aws::over_socket(layout)?.delete_stack(name).await?;
    State::update(layout, |state| {
        state.stacks.retain(|stack| stack.name != name);
        Ok(())
    })
}
