//! What pods may not reach: the instance metadata service, through which they could act as the
//! node, and the ports for joining and between control planes.
//!
//! The rules see forwarded packets and packets to this machine before anybody else's rules. Packets
//! of pods on the host's network have the node's address; with cgroup v2 they are recognized by
//! their control group, and kept from the metadata service.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    files::{self, File},
    units,
};
use crate::{
    config::Settings,
    error::Result,
    kubernetes::{CONTROLLER_MANAGER_PORT, ETCD_PEER_PORT, ETCD_PORT, SCHEDULER_PORT},
    ports::{Command, World},
    steps::{State, Step},
    wait::Notes,
};

const UNIT: &str = "k8s-bootstrap-pod-limits.service";

const UNIT_FILE: &str = "/etc/systemd/system/k8s-bootstrap-pod-limits.service";

/// The rules as `nft` reads them.
const RULES: &str = "/etc/k8s-bootstrap/pod-limits.nft";

/// A digest of the loaded rules and of how the kernel lists them.
const LOADED: &str = "/run/k8s-bootstrap/pod-limits.loaded";

/// The metadata service.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>
const METADATA: [&str; 2] = ["ip daddr 169.254.169.254", "ip6 daddr fd00:ec2::254"];

/// The control group of all pods, with the cgroup driver `systemd`. nftables finds it by its inode
/// number when it loads the rules, so it must exist before them.
const PODS: &str = "kubepods.slice";

/// The ports of a control plane that no pod needs.
const CONTROL: [u16; 4] = [
    ETCD_PORT,
    ETCD_PEER_PORT,
    CONTROLLER_MANAGER_PORT,
    SCHEDULER_PORT,
];

/// The rules of this node, and the unit that loads them before containers start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodLimits {
    /// Rules for packets from the pod network; none if pods may reach everything.
    rules: Vec<String>,
    /// Rules for packets from pods on the host's network, with cgroup v2.
    host_network: Vec<String>,
}

impl PodLimits {
    /// From the settings.
    pub fn wanted(settings: &Settings) -> Self {
        Self {
            rules: rules(settings),
            host_network: host_network(settings),
        }
    }

    /// Whether there is anything that pods may not reach.
    pub fn are_needed(settings: &Settings) -> bool {
        !rules(settings).is_empty()
    }

    /// The rules and the unit that loads them; `None` if pods may reach everything.
    fn files(&self, cgroup_version: u8) -> Option<[File; 2]> {
        if self.rules.is_empty() {
            return None;
        }
        let host_network = match cgroup_version {
            2 => self.host_network.as_slice(),
            _ => &[],
        };
        let unit = include_str!("../../../systemd/k8s-bootstrap-pod-limits.service");
        Some([
            (PathBuf::from(RULES), table(&self.rules, host_network)),
            (PathBuf::from(UNIT_FILE), unit.to_owned()),
        ])
    }
}

fn rules(settings: &Settings) -> Vec<String> {
    let mut rules = Vec::new();
    if !settings.pods.metadata {
        rules.extend(METADATA.map(no_metadata));
    }
    if !settings.pods.control_ports {
        let ports: BTreeSet<u16> = CONTROL.into_iter().chain([settings.join.port]).collect();
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let (pods, ports) = (&settings.cluster.pod_cidr, ports.join(", "));
        rules.push(format!(
            "ip saddr {pods} ip daddr != {pods} tcp dport {{ {ports} }} counter reject with tcp reset"
        ));
    }
    rules
}

fn host_network(settings: &Settings) -> Vec<String> {
    let pods = &settings.pods;
    let driver = settings.kubelet.config.get("cgroupDriver");
    let is_systemd = driver.is_none_or(|driver| driver.as_str() == Some("systemd"));
    if pods.metadata || pods.host_network_metadata || !is_systemd {
        return Vec::new();
    }
    let from = format!("socket cgroupv2 level 1 \"{PODS}\"");
    METADATA
        .map(|to| format!("{from} {}", no_metadata(to)))
        .into()
}

fn no_metadata(to: &str) -> String {
    format!("{to} counter reject with icmpx admin-prohibited")
}

/// The table; loading it replaces the existing one in one transaction.
fn table(rules: &[String], host_network: &[String]) -> String {
    let lines =
        |rules: &[String]| -> String { rules.iter().map(|rule| format!("\t\t{rule}\n")).collect() };
    let hook = |name: &str, rules: &str| {
        format!(
            "\tchain {name} {{\n\t\ttype filter hook {name} priority filter - 10; policy accept;\n{rules}\t}}\n"
        )
    };
    let mut chains = format!("\tchain limits {{\n{}\t}}\n", lines(rules));
    for name in ["forward", "input"] {
        chains += &hook(name, "\t\tjump limits\n");
    }
    if !host_network.is_empty() {
        chains += &hook("output", &lines(host_network));
    }
    format!(
        "{}table inet k8s-bootstrap\ndelete table inet k8s-bootstrap\n\
         table inet k8s-bootstrap {{\n{chains}}}\n",
        files::HEADER,
    )
}

/// The digest to record for loaded rules; `None` if none are loaded.
async fn loaded(world: &World, rules: &str) -> Result<Option<String>> {
    let list = ["--stateless", "list", "table", "inet", "k8s-bootstrap"];
    let shown = world.commands.run(Command::new("nft", list)).await?;
    let digest = Sha256::new_with_prefix(rules).chain_update(&shown.stdout);
    Ok((shown.status == 0).then(|| hex::encode(digest.finalize())))
}

#[async_trait]
impl Step for PodLimits {
    async fn check(&self, world: &World) -> Result<State> {
        let host = world.host.as_ref();
        let Some(wanted) = &self.files(host.machine().await?.cgroup_version) else {
            if host.exists(Path::new(UNIT_FILE)).await? {
                return Ok(State::Differs(format!("{UNIT} still exists")));
            }
            return Ok(State::AsWanted);
        };
        let state = files::check(host, wanted).await?;
        if state != State::AsWanted {
            return Ok(state);
        }
        let unit = units::show(world.commands.as_ref(), UNIT).await?;
        if let Some(lacks) = unit.lacks(UNIT) {
            return Ok(State::Differs(lacks));
        }
        let noted = files::text(host, Path::new(LOADED)).await?;
        if loaded(world, &wanted[0].1).await? == Some(noted) {
            return Ok(State::AsWanted);
        }
        Ok(State::Differs(
            "the nftables table inet k8s-bootstrap was changed".to_owned(),
        ))
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let (host, commands) = (world.host.as_ref(), world.commands.as_ref());
        let cgroup_version = host.machine().await?.cgroup_version;
        let Some(wanted) = &self.files(cgroup_version) else {
            commands.systemctl(&["disable", "--now", UNIT]).await?;
            // The unit's file last, since the check looks for it.
            for file in [RULES, LOADED, UNIT_FILE] {
                host.remove(Path::new(file)).await?;
            }
            return commands.systemctl(&["daemon-reload"]).await.map(drop);
        };
        files::write(host, wanted).await?;
        units::enable(commands, UNIT).await?;
        if cgroup_version == 2 && !self.host_network.is_empty() {
            commands.systemctl(&["start", PODS]).await?;
        }
        // Stopping the unit would leave a moment without rules; loading replaces the old ones.
        let load = Command::new("nft", ["-f", RULES]);
        commands.succeed(load).await?;
        commands.systemctl(&["start", UNIT]).await?;
        let digest = loaded(world, &wanted[0].1).await?.unwrap_or_default();
        host.write(Path::new(LOADED), digest.as_bytes(), 0o600)
            .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorld, settings};

    fn rules_with(settings: &Settings, cgroup_version: u8) -> String {
        let [(_, rules), _] = PodLimits::wanted(settings).files(cgroup_version).unwrap();
        rules
    }

    #[test]
    fn pods_on_the_hosts_network_are_kept_from_the_metadata_by_their_cgroup() {
        let chain = "\tchain output {\n\
             \t\ttype filter hook output priority filter - 10; policy accept;\n\
             \t\tsocket cgroupv2 level 1 \"kubepods.slice\" ip daddr 169.254.169.254 counter reject with icmpx admin-prohibited\n\
             \t\tsocket cgroupv2 level 1 \"kubepods.slice\" ip6 daddr fd00:ec2::254 counter reject with icmpx admin-prohibited\n\
             \t}\n";
        let mut settings = settings();
        assert!(rules_with(&settings, 2).contains(chain));
        assert!(!rules_with(&settings, 1).contains("output"));
        settings.pods.host_network_metadata = true;
        assert!(!rules_with(&settings, 2).contains("output"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_control_group_of_pods_exists_before_rules_that_name_it() {
        let fake = FakeWorld::new();
        fake.carry_out(&PodLimits::wanted(&settings())).await;
        let ran = fake.commands.ran();
        let at = |wanted: &str| {
            ran.iter()
                .position(|line| line.starts_with(wanted))
                .unwrap()
        };
        assert!(
            at("systemctl start kubepods.slice") < at("nft -f"),
            "{ran:?}"
        );
    }

    #[test]
    fn the_rules_of_a_node() {
        let rules = rules_with(&settings(), 1);
        assert_eq!(
            rules,
            "# Written by k8s-bootstrap; changes are overwritten.\n\
             table inet k8s-bootstrap\n\
             delete table inet k8s-bootstrap\n\
             table inet k8s-bootstrap {\n\
             \tchain limits {\n\
             \t\tip daddr 169.254.169.254 counter reject with icmpx admin-prohibited\n\
             \t\tip6 daddr fd00:ec2::254 counter reject with icmpx admin-prohibited\n\
             \t\tip saddr 192.168.0.0/16 ip daddr != 192.168.0.0/16 tcp dport { 2379, 2380, 7444, 10257, 10259 } counter reject with tcp reset\n\
             \t}\n\
             \tchain forward {\n\
             \t\ttype filter hook forward priority filter - 10; policy accept;\n\
             \t\tjump limits\n\
             \t}\n\
             \tchain input {\n\
             \t\ttype filter hook input priority filter - 10; policy accept;\n\
             \t\tjump limits\n\
             \t}\n\
             }\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_rules_are_loaded_again() {
        let fake = FakeWorld::new();
        let limits = PodLimits::wanted(&settings());
        fake.carry_out(&limits).await;
        for lost in [None, Some("table inet k8s-bootstrap {\n}\n".to_owned())] {
            fake.commands.state().rules = lost;
            assert_eq!(
                fake.differs(&limits).await,
                "the nftables table inet k8s-bootstrap was changed"
            );
            fake.carry_out(&limits).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changed_settings_change_the_rules_and_without_limits_the_unit_is_removed() {
        let fake = FakeWorld::new();
        let mut settings = settings();
        fake.carry_out(&PodLimits::wanted(&settings)).await;
        settings.pods.metadata = true;
        let limits = PodLimits::wanted(&settings);
        assert_eq!(fake.differs(&limits).await, format!("{RULES} differs"));
        fake.carry_out(&limits).await;
        settings.pods.control_ports = true;
        assert!(!PodLimits::are_needed(&settings));
        fake.carry_out(&PodLimits::wanted(&settings)).await;
        assert_eq!(fake.files.get(RULES), None);
        let stop = format!("systemctl disable --now {UNIT}");
        assert!(fake.commands.ran().contains(&stop));
    }
}
