//! What pods may not reach: the instance metadata service, through which they could act as the
//! node, and the ports for joining and between control planes.
//!
//! The rules see forwarded packets and packets to this machine before anybody else's rules. They do
//! not limit pods on the host's network, which count as the node.

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

/// etcd's clients and peers, the controller manager, the scheduler.
const CONTROL: [u16; 4] = [2379, 2380, 10257, 10259];

/// The rules of this node, and the unit that loads them before containers start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodLimits {
    /// Both files; `None` if pods may reach everything.
    files: Option<[File; 2]>,
}

impl PodLimits {
    /// From the settings.
    pub fn wanted(settings: &Settings) -> Self {
        let rules = rules(settings);
        let unit = include_str!("../../../systemd/k8s-bootstrap-pod-limits.service");
        let files = [
            (PathBuf::from(RULES), table(&rules)),
            (PathBuf::from(UNIT_FILE), unit.to_owned()),
        ];
        Self {
            files: (!rules.is_empty()).then_some(files),
        }
    }

    /// Whether there is anything that pods may not reach.
    pub fn are_needed(settings: &Settings) -> bool {
        !rules(settings).is_empty()
    }
}

fn rules(settings: &Settings) -> Vec<String> {
    let mut rules = Vec::new();
    if !settings.pods.metadata {
        rules.extend(METADATA.map(|to| format!("{to} counter reject with icmpx admin-prohibited")));
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

/// The table; loading it replaces the existing one in one transaction.
fn table(rules: &[String]) -> String {
    let rules: Vec<String> = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    let hook = |name| {
        format!(
            "\tchain {name} {{\n\t\ttype filter hook {name} priority filter - 10; policy accept;\n\t\tjump limits\n\t}}\n"
        )
    };
    format!(
        "{}table inet k8s-bootstrap\ndelete table inet k8s-bootstrap\n\
         table inet k8s-bootstrap {{\n\tchain limits {{\n{}\t}}\n{}{}}}\n",
        files::HEADER,
        rules.concat(),
        hook("forward"),
        hook("input"),
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
        let Some(wanted) = &self.files else {
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
        let Some(wanted) = &self.files else {
            units::systemctl(commands, &["disable", "--now", UNIT]).await?;
            // The unit's file last, since the check looks for it.
            for file in [RULES, LOADED, UNIT_FILE] {
                host.remove(Path::new(file)).await?;
            }
            return units::systemctl(commands, &["daemon-reload"])
                .await
                .map(drop);
        };
        files::write(host, wanted).await?;
        units::enable(commands, UNIT).await?;
        // Stopping the unit would leave a moment without rules; loading replaces the old ones.
        let load = Command::new("nft", ["-f", RULES]);
        commands.succeed(load).await?;
        units::systemctl(commands, &["start", UNIT]).await?;
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

    #[test]
    fn the_rules_of_a_node() {
        let [(_, rules), _] = PodLimits::wanted(&settings()).files.unwrap();
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
