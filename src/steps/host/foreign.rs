//! Makes network daemons leave foreign routes and interfaces alone: systemd-networkd removes
//! unknown routes and rules when it restarts, `NetworkManager` takes over interfaces that appear.
//! <https://github.com/systemd/systemd/issues/20201>

use std::path::Path;

use async_trait::async_trait;
use serde::Serialize;

use super::{
    files::{self, File, HEADER},
    units,
};
use crate::{
    error::Result,
    ports::World,
    steps::{State, Step},
    wait::Notes,
};

/// Exists from the file's change until the reload. Under /run, since a boot also reads the file.
const PENDING: &str = "/run/k8s-bootstrap/network.reload";

/// The interfaces that Calico creates.
const INTERFACES: &str = "interface-name:cali*;interface-name:vxlan.calico";

/// A daemon and its configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Daemon {
    unit: &'static str,
    file: File,
    /// Whether it reads the file on reload. Otherwise it reads it at its next start, which is when
    /// it would remove foreign routes.
    reloads: bool,
}

/// The daemons that manage a node's network, each configured to ignore what is not its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForeignNetworks {
    daemons: [Daemon; 2],
}

impl ForeignNetworks {
    /// The configuration of the daemons, for those that run on the node.
    pub fn wanted() -> Self {
        let networkd = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n";
        let manager = format!("[keyfile]\nunmanaged-devices={INTERFACES}\n");
        Self {
            daemons: [
                Daemon {
                    unit: "systemd-networkd.service",
                    file: (
                        "/etc/systemd/networkd.conf.d/90-k8s-bootstrap.conf".into(),
                        format!("{HEADER}{networkd}"),
                    ),
                    reloads: false,
                },
                Daemon {
                    unit: "NetworkManager.service",
                    file: (
                        "/etc/NetworkManager/conf.d/90-k8s-bootstrap.conf".into(),
                        format!("{HEADER}{manager}"),
                    ),
                    reloads: true,
                },
            ],
        }
    }
}

impl Daemon {
    async fn runs(&self, world: &World) -> Result<bool> {
        let unit = units::show(world.commands.as_ref(), self.unit).await?;
        Ok(unit.active == "active")
    }

    async fn check(&self, world: &World) -> Result<State> {
        let host = world.host.as_ref();
        let mut state = files::check(host, std::slice::from_ref(&self.file)).await?;
        if self.reloads && host.exists(Path::new(PENDING)).await? {
            state = State::Differs(format!("{} runs with older settings", self.unit));
        }
        if state == State::AsWanted || !self.runs(world).await? {
            return Ok(State::AsWanted);
        }
        Ok(state)
    }
}

#[async_trait]
impl Step for ForeignNetworks {
    async fn check(&self, world: &World) -> Result<State> {
        for daemon in &self.daemons {
            let state = daemon.check(world).await?;
            if state != State::AsWanted {
                return Ok(state);
            }
        }
        Ok(State::AsWanted)
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        for daemon in &self.daemons {
            if daemon.check(world).await? == State::AsWanted {
                continue;
            }
            let (host, pending) = (world.host.as_ref(), Path::new(PENDING));
            if daemon.reloads {
                host.write(pending, b"", 0o600).await?;
            }
            files::write(host, std::slice::from_ref(&daemon.file)).await?;
            if daemon.reloads {
                world.commands.systemctl(&["reload", daemon.unit]).await?;
                host.remove(pending).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorld, output};

    const NETWORKD: &str = "/etc/systemd/networkd.conf.d/90-k8s-bootstrap.conf";
    const MANAGER: &str = "/etc/NetworkManager/conf.d/90-k8s-bootstrap.conf";

    /// A machine on which this unit runs.
    fn with(running: &'static str) -> FakeWorld {
        let machine = FakeWorld::new();
        machine.on("systemctl show", move |command, _| {
            let is = command.args.iter().any(|argument| argument == running);
            let state = if is { "active" } else { "inactive" };
            output(0, &format!("ActiveState={state}\n"), "")
        });
        machine
    }

    #[tokio::test(start_paused = true)]
    async fn networkd_keeps_foreign_routes_and_rules_at_its_next_start() {
        let machine = with("systemd-networkd.service");
        machine.carry_out(&ForeignNetworks::wanted()).await;
        let text = machine.files.get(NETWORKD).unwrap();
        assert!(text.contains("\nManageForeignRoutes=no\n"), "{text}");
        assert!(
            text.contains("\nManageForeignRoutingPolicyRules=no\n"),
            "{text}"
        );
        assert_eq!(machine.files.get(MANAGER), None);
        // A restart would remove the machine's own addresses for a moment.
        assert!(
            !machine
                .commands
                .ran()
                .iter()
                .any(|line| line.contains("restart"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn network_manager_does_not_manage_the_interfaces_of_pods() {
        let machine = with("NetworkManager.service");
        machine.carry_out(&ForeignNetworks::wanted()).await;
        let text = machine.files.get(MANAGER).unwrap();
        assert!(
            text.ends_with("unmanaged-devices=interface-name:cali*;interface-name:vxlan.calico\n"),
            "{text}"
        );
        let reload = "systemctl reload NetworkManager.service".to_owned();
        assert!(machine.commands.ran().contains(&reload));
        assert_eq!(machine.files.get(NETWORKD), None);
        // The agent ended between the file's change and the reload.
        machine.files.put(PENDING, "");
        machine.carry_out(&ForeignNetworks::wanted()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn if_neither_runs_nothing_is_written() {
        with("nothing").holds(&ForeignNetworks::wanted()).await;
    }
}
