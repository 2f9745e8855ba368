//! What the agent and kubeadm made on this machine goes.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::Result,
    kubernetes::paths,
    ports::{Command, World},
    runner::Phase,
    steps::{State, Step},
    wait::Notes,
};

const KUBEADM: &str = "/usr/local/bin/kubeadm";

/// One part of the removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "removal", rename_all = "kebab-case")]
pub enum Removal {
    /// `kubeadm reset`: containers, certificates, static pods, etcd's data.
    Kubeadm,
    /// Units that run no more and are not started at boot.
    Units {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// Files and folders that are not there.
    Files {
        /// Their paths.
        paths: Vec<PathBuf>,
    },
    /// kube-proxy's packet rules. Another kube-proxy that finds them does not fill its own in,
    /// and then no Service answers on the node.
    Rules,
    /// Calico's tunnel.
    Tunnel,
}

const TUNNEL: &str = "/sys/class/net/vxlan.calico";

impl Removal {
    /// All of it, in order: the agent first, which would put back what goes.
    pub fn plan() -> Vec<Phase<Self>> {
        let agent = phase(
            "agent",
            200,
            "it would put back what goes",
            Self::Units {
                names: vec!["k8s-bootstrap.service"],
            },
        );
        [agent].into_iter().chain(Self::of_the_cluster()).collect()
    }

    /// The same where the agent goes on, as one that never joined the cluster. There is no API
    /// of it any more.
    pub fn to_start_over() -> Vec<Phase<Self>> {
        let credentials = phase(
            "credentials",
            20,
            "kubeadm would wait for an API that never answers",
            Self::Files {
                paths: vec![paths::ADMIN_CONF.into()],
            },
        );
        let rest = Self::of_the_cluster();
        [credentials].into_iter().chain(rest).collect()
    }

    fn of_the_cluster() -> Vec<Phase<Self>> {
        let files = [
            paths::KUBERNETES,
            paths::ETCD_MEMBER,
            "/var/lib/kubelet/pki",
            "/etc/cni/net.d",
            "/var/lib/cni",
            "/var/lib/calico",
            "/etc/sysctl.d/90-k8s-bootstrap.conf",
        ];
        vec![
            phase(
                "kubeadm",
                300,
                "containers, certificates, data",
                Self::Kubeadm,
            ),
            phase(
                "units",
                200,
                "nothing of the cluster runs",
                Self::Units {
                    names: vec![
                        "kubelet.service",
                        "containerd.service",
                        "k8s-bootstrap-pod-limits.service",
                    ],
                },
            ),
            phase(
                "rules",
                20,
                "another kube-proxy begins with none",
                Self::Rules,
            ),
            phase("tunnel", 20, "no way to pods of others", Self::Tunnel),
            phase(
                "files",
                60,
                "another cluster finds nothing of this one",
                Self::Files {
                    paths: files.map(PathBuf::from).into(),
                },
            ),
        ]
    }

    /// What is still there, if anything.
    async fn left(&self, world: &World) -> Result<Option<String>> {
        match self {
            Self::Kubeadm => {
                for path in [paths::KUBELET_CONF, paths::MANIFESTS] {
                    let there = match world.host.list(path.as_ref()).await {
                        Ok(Some(entries)) => !entries.is_empty(),
                        _ => world.host.read(path.as_ref()).await?.is_some(),
                    };
                    if there {
                        return Ok(Some(path.to_owned()));
                    }
                }
                Ok(None)
            }
            Self::Units { names } => {
                for name in names {
                    let asked = Command::new(
                        "systemctl",
                        ["show", "--property=ActiveState,UnitFileState", *name],
                    );
                    let said = world.commands.run(asked.clone()).await?.success(&asked)?;
                    let runs = said.stdout.contains("ActiveState=active");
                    if runs || said.stdout.contains("UnitFileState=enabled") {
                        return Ok(Some((*name).to_owned()));
                    }
                }
                Ok(None)
            }
            Self::Files { paths } => {
                for path in paths {
                    if world.host.exists(path).await? {
                        return Ok(Some(path.display().to_string()));
                    }
                }
                Ok(None)
            }
            Self::Rules => {
                let asked = Command::new("nft", ["list", "tables"]);
                // Where there is no nft, kube-proxy's rules are of the kind that it clears itself.
                let Ok(said) = world.commands.run(asked).await else {
                    return Ok(None);
                };
                let mut tables = said.stdout.lines();
                let ours = tables.find(|line| line.ends_with(" kube-proxy"));
                Ok(ours.map(str::to_owned))
            }
            Self::Tunnel => {
                let there = world.host.exists(TUNNEL.as_ref()).await?;
                Ok(there.then(|| "vxlan.calico".to_owned()))
            }
        }
    }

    fn command(&self) -> Command {
        match self {
            Self::Kubeadm => Command::new(
                KUBEADM,
                ["reset", "--force", "--cri-socket", paths::CRI_SOCKET],
            )
            .within(Duration::from_secs(290)),
            Self::Units { names } => {
                let args = ["disable", "--now"].iter().chain(names).copied();
                Command::new("systemctl", args).within(Duration::from_secs(190))
            }
            Self::Files { paths } => {
                let paths = paths.iter().map(|path| path.display().to_string());
                let options = ["-rf", "--"].map(str::to_owned);
                Command::new("rm", options.into_iter().chain(paths))
            }
            Self::Rules => {
                // What is added first is there to be deleted.
                let both = ["ip", "ip6"].map(|family| {
                    format!("add table {family} kube-proxy; delete table {family} kube-proxy; ")
                });
                Command::new("nft", [both.concat()])
            }
            Self::Tunnel => Command::new("ip", ["link", "delete", "vxlan.calico"]),
        }
    }
}

fn phase(name: &str, seconds: u64, why: &str, step: Removal) -> Phase<Removal> {
    Phase {
        name: format!("reset-{name}"),
        why: why.to_owned(),
        after: Vec::new(),
        deadline_seconds: seconds,
        step,
    }
}

#[async_trait]
impl Step for Removal {
    async fn check(&self, world: &World) -> Result<State> {
        let left = self.left(world).await?;
        Ok(left.map_or(State::AsWanted, |left| {
            State::Differs(format!("{left} is there"))
        }))
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let command = self.command();
        world
            .commands
            .run(command.clone())
            .await?
            .success(&command)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{FakeWorld, output};

    #[tokio::test(start_paused = true)]
    async fn a_reset_removes_what_is_there_in_order_and_a_second_one_nothing() {
        let fake = FakeWorld::new();
        for file in [
            paths::KUBELET_CONF,
            "/etc/cni/net.d/10-calico.conflist",
            TUNNEL,
        ] {
            fake.files.put(file, "x");
        }
        fake.on(
            "systemctl show --property=ActiveState,UnitFileState",
            |command, files| {
                let unit = command.args.last().unwrap();
                let off = files.has(format!("/off/{unit}"));
                output(
                    0,
                    if off {
                        "ActiveState=inactive\n"
                    } else {
                        "ActiveState=active\n"
                    },
                    "",
                )
            },
        );
        fake.on("systemctl disable --now", |command, files| {
            for unit in &command.args[2..] {
                files.put(format!("/off/{unit}"), "");
            }
            output(0, "", "")
        });
        fake.on("/usr/local/bin/kubeadm reset --force", |_, files| {
            files.delete(paths::KUBELET_CONF);
            output(0, "", "")
        });
        fake.on("nft list tables", |_, files| {
            let left = !files.has("/no-rules");
            let tables = "table ip filter\ntable ip kube-proxy\ntable ip6 kube-proxy\n";
            output(0, if left { tables } else { "table ip filter\n" }, "")
        });
        fake.on("nft add table ip kube-proxy; delete table", |_, files| {
            files.put("/no-rules", "");
            output(0, "", "")
        });
        fake.on("ip link delete", |_, files| {
            files.delete(TUNNEL);
            output(0, "", "")
        });
        fake.on("rm -rf", |command, files| {
            for path in &command.args[2..] {
                let _ = std::fs::remove_dir_all(files.root().join(path.trim_start_matches('/')));
            }
            output(0, "", "")
        });
        for phase in Removal::plan() {
            fake.carry_out(&phase.step).await;
        }
        assert!(!fake.files.has("/etc/cni/net.d"));
        let ran = fake.commands.ran();
        let at = |start: &str| ran.iter().position(|line| line.starts_with(start));
        assert!(at("systemctl disable --now k8s-bootstrap") < at("/usr/local/bin/kubeadm reset"));
        assert!(at("/usr/local/bin/kubeadm reset") < at("systemctl disable --now kubelet"));
        for phase in Removal::plan() {
            fake.holds(&phase.step).await;
        }
    }
}
