//! The lab's state between commands: written as a whole, atomically, under a lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::network::Subnet;

mod stacks;

pub use stacks::{Group, Peers, Rule, Stack};

/// First host number that machines get; below it are the VPC's own servers.
const FIRST_HOST: u8 = 10;

/// The tag with the name of a machine's cluster.
pub const CLUSTER_TAG: &str = "k8s-bootstrap:cluster";

/// The whole lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The cluster's name, the default [`CLUSTER_TAG`] of machines.
    pub cluster: String,
    /// The id of the VPC.
    pub vpc: String,
    /// The ids of the subnets by availability zone.
    pub subnets: BTreeMap<String, String>,
    /// The id of the hosted zone.
    pub zone: String,
    /// Every machine ever launched; terminated ones stay listed, as in EC2 for an hour.
    pub machines: Vec<Machine>,
    /// CloudFormation stacks.
    #[serde(default)]
    pub stacks: Vec<Stack>,
}

/// A phase of a machine's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Launched, not yet started.
    Pending,
    /// Its supervisor runs it.
    Running,
    /// Being stopped: it powers off.
    Stopping,
    /// Powered off; the disk is kept.
    Stopped,
    /// Being terminated: it powers off and does not come back.
    ShuttingDown,
    /// Removed, with its disk.
    Terminated,
}

impl Phase {
    /// EC2's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
        }
    }
}

/// EC2's instance metadata options, and other settings that affect a machine's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // each is an option of its own
pub struct MetadataOptions {
    /// `HttpEndpoint`: false answers 403 to everything.
    pub enabled: bool,
    /// `HttpTokens=required`: no answer without a token.
    pub tokens_required: bool,
    /// `HttpPutResponseHopLimit`, 1 to 64.
    pub hop_limit: u8,
    /// `InstanceMetadataTags`: false answers 404 below tags/.
    pub tags: bool,
    /// The VPC's DHCP options set a custom domain: host names are not private DNS names.
    #[serde(default)]
    pub own_domain: bool,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            // cloud-init in a container cannot detect EC2 and asks without a token.
            tokens_required: false,
            hop_limit: 1,
            tags: true,
            own_domain: false,
        }
    }
}

/// What a machine is on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A container: it shares the host's kernel and boots in a second.
    #[default]
    Container,
    /// A virtual machine with a kernel of its own.
    Vm,
}

/// How a machine reaches what is outside of its VPC: artifacts, images and AWS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// By itself.
    #[default]
    Open,
    /// Only through the forward proxy.
    Proxy,
    /// No registry at all: everything is in the lab's bundle.
    Bundle,
}

/// One machine, an EC2 instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// EC2's instance id, `i-0123456789abcdef0`.
    pub id: String,
    /// Short name and tag `Name`: cp1, w1.
    pub name: String,
    /// What it is on the host.
    #[serde(default)]
    pub kind: Kind,
    /// `control-plane` or `worker`, the tag `k8s-bootstrap:role`.
    pub role: String,
    /// Private address in one of the lab's subnets.
    pub address: Ipv4Addr,
    /// Hardware address of eth0.
    pub mac: String,
    /// The phase of its life.
    pub phase: Phase,
    /// EC2 tags by key, among them `Name`.
    pub tags: BTreeMap<String, String>,
    /// What its metadata service answers, and to which requests.
    pub metadata: MetadataOptions,
    /// Launch time, seconds since the epoch.
    pub launched: u64,
    /// The termination notice in its metadata.
    #[serde(default)]
    pub notice: Option<Notice>,
    /// The name of its instance profile and of the role in it; empty for the lab's own.
    #[serde(default)]
    pub profile: String,
    /// Ids of its security groups; without any, everything can reach it.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// How it reaches what is outside of the VPC.
    #[serde(default)]
    pub egress: Egress,
}

/// EC2's notice to an instance before it is terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// Its Auto Scaling group terminates it.
    Group {
        /// Whether its hook is completed; until then the group waits.
        proceeds: bool,
    },
    /// A spot interruption at this time, seconds since the epoch.
    Spot(u64),
}

impl Machine {
    /// `ip-10-42-0-10`, EC2's name by address.
    pub fn hostname(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("ip-{a}-{b}-{c}-{d}")
    }

    /// The private DNS name, which is also the node's name.
    pub fn private_dns(&self) -> String {
        format!(
            "{}.{}.compute.internal",
            self.hostname(),
            crate::network::REGION
        )
    }

    /// The instance profile's role.
    pub fn iam_role(&self) -> String {
        if !self.profile.is_empty() {
            return self.profile.clone();
        }
        format!("k8s-bootstrap-{}", self.role)
    }
}

impl State {
    /// The state on disk; `None` if no lab is up.
    pub fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.state();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is damaged: `lab down` cleans up", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The state of a lab that is up.
    pub fn require(layout: &Layout) -> Result<Self> {
        Self::load(layout)?.ok_or_else(|| anyhow!("no lab is up here: start one with `lab up`"))
    }

    /// Changes the state under the lock and writes it before the lock is released.
    pub fn update<T>(layout: &Layout, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let path = layout.dir().join("state.lock");
        let file =
            File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let _lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        let mut state = Self::load(layout)?.unwrap_or_default();
        let value = change(&mut state)?;
        state.store(layout)?;
        Ok(value)
    }

    /// Writes a temporary file, then renames it over the old one: a crash in between leaves the old
    /// state intact.
    fn store(&self, layout: &Layout) -> Result<()> {
        let mut file =
            tempfile::NamedTempFile::new_in(layout.dir()).context("cannot write the state")?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.as_file().sync_all()?;
        file.persist(layout.state())
            .context("cannot replace the state")?;
        File::open(layout.dir())?.sync_all()?;
        Ok(())
    }

    /// Machines that are not terminated.
    pub fn present(&self) -> impl Iterator<Item = &Machine> {
        self.machines
            .iter()
            .filter(|m| m.phase != Phase::Terminated)
    }

    /// The running control planes of the lab's own cluster: a tag can launch a machine into another
    /// cluster.
    pub fn control_planes(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|m| {
            m.role == "control-plane"
                && m.phase == Phase::Running
                && m.tags.get(CLUSTER_TAG) == Some(&self.cluster)
        })
    }

    /// The machine at an address, if it is not terminated.
    pub fn at(&self, address: Ipv4Addr) -> Option<&Machine> {
        self.present().find(|m| m.address == address)
    }

    /// Finds a machine by id, short name, host or node name, or the unique start
    /// of an id.
    pub fn find(&self, wanted: &str) -> Result<&Machine> {
        let exact = |m: &&Machine| {
            m.id == wanted
                || m.name == wanted
                || m.hostname() == wanted
                || m.private_dns() == wanted
        };
        if let Some(machine) = self.present().find(exact) {
            return Ok(machine);
        }
        let starts: Vec<&Machine> = self
            .present()
            .filter(|m| m.id.starts_with(wanted))
            .collect();
        match starts.as_slice() {
            [one] => Ok(one),
            [] => {
                let known: Vec<_> = self.present().map(|m| m.name.as_str()).collect();
                bail!(
                    "no machine has the name {wanted:?}; the machines are {}",
                    known.join(", ")
                )
            }
            several => {
                let ids: Vec<_> = several.iter().map(|m| m.id.as_str()).collect();
                bail!("several ids begin with {wanted:?}: {}", ids.join(", "))
            }
        }
    }

    /// The next free short name of a role: numbers are never reused.
    pub fn next_name(&self, role: &str) -> String {
        let stem = if role == "control-plane" { "cp" } else { "w" };
        let last = self
            .machines
            .iter()
            .filter_map(|m| m.name.strip_prefix(stem)?.parse::<u32>().ok())
            .max()
            .unwrap_or(0);
        format!("{stem}{}", last + 1)
    }

    /// The id of the subnet with this address.
    pub fn subnet_of(&self, address: Ipv4Addr) -> Result<&str> {
        let zone = Subnet::of(address).zone;
        let id = self.subnets.get(zone).map(String::as_str);
        id.with_context(|| format!("the lab has no subnet in {zone}"))
    }

    /// The next private address in a subnet: never reused either, because EC2's record of a
    /// terminated instance keeps its address.
    pub fn next_address(&self, subnet: Subnet) -> Result<Ipv4Addr> {
        let last = self.machines.iter().map(|m| m.address.octets()[3]).max();
        let host = match last {
            None => FIRST_HOST,
            Some(n) if n < 254 => n + 1,
            Some(_) => {
                bail!("the lab's addresses are used up: start again with `lab down`, `lab up`")
            }
        };
        Ok(subnet.host(host))
    }
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// The state on disk, read again when the file has changed.
pub struct StateReader {
    path: PathBuf,
    layout: Layout,
    kept: Mutex<(Option<SystemTime>, Arc<State>)>,
}

impl StateReader {
    /// Reads the layout's state.
    pub fn new(layout: &Layout) -> Self {
        Self {
            path: layout.state(),
            layout: layout.clone(),
            kept: Mutex::default(),
        }
    }

    /// The newest state; the previous one if the file cannot be read.
    pub fn get(&self) -> Arc<State> {
        let changed = std::fs::metadata(&self.path)
            .and_then(|about| about.modified())
            .ok();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != changed
            && let Ok(Some(state)) = State::load(&self.layout)
        {
            *kept = (changed, Arc::new(state));
        }
        Arc::clone(&kept.1)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::network::SUBNETS;

    pub(crate) fn machine(name: &str, host: u8) -> Machine {
        Machine {
            id: format!("i-0{host:016x}"),
            name: name.into(),
            kind: Kind::Container,
            role: "worker".into(),
            address: Ipv4Addr::new(10, 42, 0, host),
            mac: crate::network::mac(Ipv4Addr::new(10, 42, 0, host)),
            phase: Phase::Running,
            tags: BTreeMap::from([("Name".into(), name.into())]),
            metadata: MetadataOptions::default(),
            launched: 1_700_000_000,
            notice: None,
            profile: String::new(),
            security_groups: Vec::new(),
            egress: Egress::Open,
        }
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        State::update(&layout, |s| {
            s.machines.push(machine("w1", 10));
            Ok(())
        })
        .unwrap();
        // A crash leaves a half-written file that was never renamed.
        fs::write(dir.path().join(".tmpCRASH"), b"{\"machines\": [{").unwrap();
        let failed: Result<()> = State::update(&layout, |s| {
            s.machines.clear();
            bail!("killed here")
        });
        assert!(failed.is_err());
        assert_eq!(State::require(&layout).unwrap().machines.len(), 1);
    }

    #[test]
    fn a_damaged_state_names_the_file_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        fs::write(layout.state(), b"{\"machines\": [{").unwrap();
        let text = format!("{:#}", State::load(&layout).unwrap_err());
        assert!(
            text.contains("state.json") && text.contains("lab down"),
            "{text}"
        );
    }

    #[test]
    fn a_machine_is_found_by_any_of_its_names() {
        let state = State {
            machines: vec![machine("w1", 10), machine("w2", 11)],
            ..State::default()
        };
        for wanted in [
            "w2",
            "ip-10-42-0-11",
            "ip-10-42-0-11.eu-central-1.compute.internal",
            "i-0000000000000000b",
        ] {
            assert_eq!(state.find(wanted).unwrap().name, "w2", "{wanted}");
        }
        let text = format!("{:#}", state.find("i-0").unwrap_err());
        assert!(text.contains("several ids"), "{text}");
        let text = format!("{:#}", state.find("w9").unwrap_err());
        assert!(text.contains("w1, w2"), "{text}");
    }

    #[test]
    fn the_control_planes_are_those_of_the_labs_own_cluster_that_run() {
        let machines = [
            ("cp1", "demo", Phase::Terminated),
            ("cp2", "other", Phase::Running),
            ("w1", "demo", Phase::Running),
            ("cp3", "demo", Phase::Running),
            ("cp4", "demo", Phase::Stopped),
        ];
        let machines = machines.into_iter().zip(10..).map(|(which, last)| {
            let (name, cluster, phase) = which;
            let mut machine = machine(name, last);
            if name.starts_with("cp") {
                machine.role = "control-plane".into();
            }
            machine.tags.insert(CLUSTER_TAG.into(), cluster.into());
            machine.phase = phase;
            machine
        });
        let state = State {
            cluster: "demo".into(),
            machines: machines.collect(),
            ..State::default()
        };
        let names: Vec<&str> = state.control_planes().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["cp3"]);
    }

    #[test]
    fn names_and_addresses_of_terminated_machines_are_not_used_again() {
        let mut gone = machine("w2", 12);
        gone.phase = Phase::Terminated;
        let state = State {
            machines: vec![machine("w1", 10), gone],
            ..State::default()
        };
        assert_eq!(state.next_name("worker"), "w3");
        assert_eq!(state.next_name("control-plane"), "cp1");
        let [first, second] = SUBNETS.map(|subnet| state.next_address(subnet).unwrap());
        assert_eq!(first, Ipv4Addr::new(10, 42, 0, 13));
        assert_eq!(second, Ipv4Addr::new(10, 42, 16, 13));
        assert!(state.find("w2").is_err());
    }
}
