//! Launching, stopping, starting and terminating machines, as EC2's calls do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::bundle;
use crate::components::{self, VmImage};
use crate::ec2::client::{Aws, Wish};
use crate::firewall;
use crate::forward_proxy;
use crate::layout::{Layout, namespace};
use crate::machine::cgroups::CgroupVersion;
use crate::machine::{disk, enter, supervisor, vm};
use crate::network::{self, SUBNETS, Subnet};
use crate::state::{
    CLUSTER_TAG, Egress, Kind, Machine, MetadataOptions, Notice, Phase, State, now,
};
use crate::userdata::{self, Agent};

/// How often to check whether a hook is completed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What `up` prepared and `launch` needs; stored next to the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// The machines' root file system: the read-only lower folder of their overlays.
    pub rootfs: PathBuf,
    /// The agent that machines get.
    pub agent: Agent,
    /// TOML with versions and digests of the served files, merged into the agent's defaults.
    pub pins: String,
    /// kubectl for `lab kubectl`.
    pub kubectl: PathBuf,
    /// The folder of what virtual machines boot, once there was one.
    #[serde(default)]
    pub vm: Option<PathBuf>,
}

impl Image {
    fn path(layout: &Layout) -> PathBuf {
        layout.run().join("image.json")
    }

    /// Stores it for later commands.
    pub fn store(&self, layout: &Layout) -> Result<()> {
        std::fs::write(Self::path(layout), serde_json::to_vec_pretty(self)?)
            .context("cannot store the image's description")
    }

    /// What machines of this kind boot.
    fn boots(&self, kind: Kind) -> Result<PathBuf> {
        match kind {
            Kind::Container => Ok(self.rootfs.clone()),
            Kind::Vm => self
                .vm
                .clone()
                .context("no virtual machine was launched here yet"),
        }
    }

    /// Loads what `up` stored.
    pub fn load(layout: &Layout) -> Result<Self> {
        let bytes = std::fs::read(Self::path(layout))
            .context("no lab is up here: start one with `lab up`")?;
        serde_json::from_slice(&bytes)
            .context("the image's description is damaged: `lab down`, then `lab up`")
    }
}

/// How a machine differs from the defaults.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the machines are on the host.
    pub kind: Kind,
    /// What the metadata service answers, and to which requests.
    pub metadata: MetadataOptions,
    /// Additional tags; an empty value removes a default one.
    pub tags: BTreeMap<String, String>,
    /// TOML that is merged into the agent's settings.
    pub settings: String,
    /// User-data to use instead of the lab's.
    pub user_data: Option<String>,
    /// The instance profile; empty for the lab's own.
    pub profile: String,
    /// Ids of security groups.
    pub security_groups: Vec<String>,
    /// The availability zone; empty for the first one.
    pub zone: String,
    /// How it reaches what is outside of the VPC.
    pub egress: Egress,
}

/// Launches machines of these roles at nearly the same time: they decide among themselves which one
/// founds the cluster.
pub async fn launch(layout: &Layout, roles: &[&str], options: &Options) -> Result<Vec<Machine>> {
    if options.kind == Kind::Vm {
        let mut image = Image::load(layout)?;
        image.vm = Some(components::ensure_vm(layout).await?);
        image.store(layout)?;
    }
    let mut machines = Vec::new();
    for role in roles {
        machines.push(prepare(layout, role, options).await?);
    }
    firewall::apply(&State::require(layout)?)?;
    let rootfs = Image::load(layout)?.boots(options.kind)?;
    let names: Vec<&str> = machines.iter().map(|m| m.name.as_str()).collect();
    supervisor::start(layout, &names, &rootfs)?;
    Ok(machines)
}

/// Creates an instance in EC2 with its disk, not booted yet.
async fn prepare(layout: &Layout, role: &str, options: &Options) -> Result<Machine> {
    if !matches!(role, "control-plane" | "worker") {
        bail!("unknown role {role:?}: a role is control-plane or worker");
    }
    let image = Image::load(layout)?;
    let zone = State::require(layout)?.zone;
    let user_data = if let Some(given) = &options.user_data {
        given.clone()
    } else {
        let settings = userdata::settings(
            options.kind,
            CgroupVersion::here(),
            &image.pins,
            &zone,
            &options.settings,
        )?;
        let (url, settings) = match options.egress {
            Egress::Open => (image.agent.url.clone(), settings),
            Egress::Proxy => (
                forward_proxy::outside(&image.agent.url),
                forward_proxy::outside(&settings) + &forward_proxy::settings(),
            ),
            Egress::Bundle => {
                let bundle = bundle::settings(layout, &image.agent, &settings)?;
                let settings = userdata::from_bundle(&settings, &bundle)?;
                (image.agent.url.clone(), settings)
            }
        };
        userdata::compose(&image.agent.binary, &url, &settings)?
    };
    // Name and address are reserved in the state before EC2 is called, so that two concurrent
    // commands never take the same.
    let (mut machine, subnet) = State::update(layout, |state| {
        let machine = describe(state, role, options)?;
        let subnet = state.subnet_of(machine.address)?.to_owned();
        state.machines.push(machine.clone());
        Ok((machine, subnet))
    })?;
    let tags: Vec<(String, String)> = machine.tags.clone().into_iter().collect();
    let wish = Wish {
        subnet: &subnet,
        address: machine.address,
        profile: &machine.iam_role(),
        tags: &tags,
        user_data: &user_data,
        metadata: machine.metadata,
        security_groups: &machine.security_groups,
    };
    machine.id = Aws::over_socket(layout)?.run_instance(&wish).await?;
    machine.phase = Phase::Running;
    State::update(layout, |state| {
        let slot = state.machines.iter_mut().find(|m| m.name == machine.name);
        slot.map(|slot| *slot = machine.clone())
            .context("the machine disappeared from the state during its launch")
    })?;
    disk::create(layout, &machine, &image.rootfs, &user_data)?;
    if machine.kind == Kind::Vm {
        let image = VmImage::at(&image.boots(Kind::Vm)?);
        vm::write_disks(&layout.machine(&machine.name), &image)?;
    }
    Ok(machine)
}

fn describe(state: &State, role: &str, options: &Options) -> Result<Machine> {
    let name = state.next_name(role);
    let address = state.next_address(subnet(options)?)?;
    let mut tags = BTreeMap::from([
        ("Name".to_owned(), name.clone()),
        (CLUSTER_TAG.to_owned(), state.cluster.clone()),
        ("k8s-bootstrap:role".to_owned(), role.to_owned()),
    ]);
    for (key, value) in &options.tags {
        if value.is_empty() {
            tags.remove(key);
        } else {
            tags.insert(key.clone(), value.clone());
        }
    }
    Ok(Machine {
        id: String::new(),
        mac: network::mac(address),
        name,
        kind: options.kind,
        role: role.to_owned(),
        address,
        phase: Phase::Pending,
        tags,
        metadata: MetadataOptions {
            tokens_required: options.metadata.tokens_required || options.kind == Kind::Vm,
            ..options.metadata
        },
        launched: now(),
        notice: None,
        profile: options.profile.clone(),
        security_groups: options.security_groups.clone(),
        egress: options.egress,
    })
}

fn subnet(options: &Options) -> Result<Subnet> {
    let [first, ..] = SUBNETS;
    if options.zone.is_empty() {
        return Ok(first);
    }
    let subnet = Subnet::in_zone(&options.zone).with_context(|| {
        let known = SUBNETS.map(|subnet| subnet.zone).join(", ");
        format!("there is no zone {:?}: the zones are {known}", options.zone)
    })?;
    if options.kind == Kind::Vm && subnet != first {
        bail!(
            "virtual machines are in {} only: the lab's DHCP serves that subnet",
            first.zone
        );
    }
    Ok(subnet)
}

fn set_phase(layout: &Layout, name: &str, phase: Phase) -> Result<()> {
    State::update(layout, |state| {
        for machine in state.machines.iter_mut().filter(|m| m.name == name) {
            machine.phase = phase;
        }
        Ok(())
    })
}

/// Powers a machine off and keeps its disk; `hard` cuts the power.
pub async fn stop(layout: &Layout, wanted: &str, hard: bool) -> Result<Machine> {
    let machine = State::require(layout)?.find(wanted)?.clone();
    set_phase(layout, &machine.name, Phase::Stopping)?;
    enter::power_off(layout, &machine.name, hard)?;
    Aws::over_socket(layout)?
        .change_instance("StopInstances", &machine.id)
        .await?;
    set_phase(layout, &machine.name, Phase::Stopped)?;
    Ok(machine)
}

/// Boots a stopped machine with its old disk.
pub async fn start(layout: &Layout, wanted: &str) -> Result<Machine> {
    let machine = State::require(layout)?.find(wanted)?.clone();
    if machine.phase != Phase::Stopped {
        bail!(
            "{} is {}: only a stopped machine can be started",
            machine.name,
            machine.phase.name()
        );
    }
    Aws::over_socket(layout)?
        .change_instance("StartInstances", &machine.id)
        .await?;
    set_phase(layout, &machine.name, Phase::Running)?;
    let rootfs = Image::load(layout)?.boots(machine.kind)?;
    supervisor::start(layout, &[&machine.name], &rootfs)?;
    supervisor::wait_bus(layout, &machine)?;
    Ok(machine)
}

/// Terminates a machine as its Auto Scaling group does: notifies it, and waits until its hook is
/// completed or times out. The second value is whether it was completed.
pub async fn terminate_by_group(
    layout: &Layout,
    wanted: &str,
    heartbeat: Duration,
) -> Result<(Machine, bool)> {
    let notice = Notice::Group { proceeds: false };
    let machine = notify(layout, wanted, notice).await?;
    let end = Instant::now() + heartbeat;
    let completed = loop {
        let notice = State::require(layout)?.find(&machine.name)?.notice;
        if notice == Some(Notice::Group { proceeds: true }) {
            break true;
        }
        if Instant::now() > end {
            break false;
        }
        sleep(LOOK_AGAIN).await;
    };
    let machine = terminate(layout, &machine.name, false).await?;
    Ok((machine, completed))
}

/// Notifies a machine of its end through its metadata.
pub async fn notify(layout: &Layout, wanted: &str, notice: Notice) -> Result<Machine> {
    if matches!(notice, Notice::Group { .. }) {
        let state = State::require(layout)?;
        let aws = Aws::over_socket(layout)?;
        let machine = state.find(wanted)?;
        aws.put_into_group(machine, state.subnet_of(machine.address)?)
            .await?;
    }
    State::update(layout, |state| {
        let name = state.find(wanted)?.name.clone();
        let machine = state.machines.iter_mut().find(|m| m.name == name);
        let machine = machine.context("the machine disappeared from the state")?;
        machine.notice = Some(notice);
        Ok(machine.clone())
    })
}

/// Changes a machine's metadata options, at once and without a restart.
pub fn modify_metadata(layout: &Layout, wanted: &str, options: MetadataOptions) -> Result<Machine> {
    State::update(layout, |state| {
        let name = state.find(wanted)?.name.clone();
        let machine = state.machines.iter_mut().find(|m| m.name == name);
        let machine = machine.context("the machine disappeared from the state")?;
        machine.metadata = options;
        Ok(machine.clone())
    })
}

/// Powers a machine off and removes it with its disk. EC2 remembers it as terminated.
pub async fn terminate(layout: &Layout, wanted: &str, hard: bool) -> Result<Machine> {
    let machine = State::require(layout)?.find(wanted)?.clone();
    // As in EC2, the metadata service answers the instance until it is off.
    set_phase(layout, &machine.name, Phase::ShuttingDown)?;
    enter::power_off(layout, &machine.name, hard)?;
    // A launch that failed early has no instance in EC2.
    if !machine.id.is_empty() {
        let aws = Aws::over_socket(layout)?;
        if matches!(machine.notice, Some(Notice::Group { .. })) {
            aws.take_out_of_group(&machine).await?;
        }
        aws.change_instance("TerminateInstances", &machine.id)
            .await?;
    }
    set_phase(layout, &machine.name, Phase::Terminated)?;
    let own = namespace(&machine.name);
    if network::namespaces().contains(&own) {
        network::remove(&own)?;
    }
    disk::remove(layout, &machine.name)?;
    Ok(machine)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_zone_that_is_not_there_is_refused_with_those_that_are() {
        let in_zone = |zone: &str, kind| {
            let zone = zone.to_owned();
            subnet(&Options {
                kind,
                zone,
                ..Options::default()
            })
        };
        let second = in_zone("eu-central-1b", Kind::Container).unwrap();
        assert_eq!(second.zone, "eu-central-1b");
        let unknown = in_zone("eu-central-1x", Kind::Container).unwrap_err();
        assert!(unknown.to_string().contains("eu-central-1a, eu-central-1b"));
        let vm = in_zone("eu-central-1b", Kind::Vm).unwrap_err().to_string();
        assert!(vm.contains("eu-central-1a only"), "{vm}");
    }

    #[test]
    fn a_tag_can_be_added_changed_or_left_out() {
        let state = State {
            cluster: "demo".into(),
            ..State::default()
        };
        let options = Options {
            tags: BTreeMap::from([
                (CLUSTER_TAG.to_owned(), String::new()),
                ("k8s-bootstrap:role".to_owned(), "wrong".to_owned()),
                ("k8s-bootstrap:label:tier".to_owned(), "web".to_owned()),
            ]),
            ..Options::default()
        };
        let machine = describe(&state, "worker", &options).unwrap();
        assert_eq!(machine.name, "w1");
        assert!(!machine.tags.contains_key(CLUSTER_TAG));
        assert_eq!(machine.tags["k8s-bootstrap:role"], "wrong");
        assert_eq!(machine.tags["k8s-bootstrap:label:tier"], "web");
        assert_eq!(machine.iam_role(), "k8s-bootstrap-worker");
    }
}
