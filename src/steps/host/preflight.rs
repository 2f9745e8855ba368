//! Requirements that this machine must meet before anything is changed on it.

use std::path::Path;

use async_trait::async_trait;
use serde::Serialize;

use super::PodLimits;
use crate::{
    config::{Network, Settings},
    error::{Error, Kind, Result},
    identity::Identity,
    kubernetes::{
        API_PORT, CONTROLLER_MANAGER_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT, SCHEDULER_PORT,
    },
    ports::{Host, MachineFacts, Metadata, Role, World},
    steps::{State, Step},
    wait::Notes,
};

/// kubeadm's own minimum for a control plane.
const CONTROL_PLANE_CPUS: usize = 2;
/// kubeadm's own minimum for a control plane, in bytes.
const CONTROL_PLANE_MEMORY: u64 = 1_700_000_000;
/// Programs, their archives and the first images, in bytes.
const DISK: u64 = 2 << 30;

/// What listens on a control plane.
const CONTROL_PLANE_PORTS: [u16; 6] = [
    API_PORT,
    ETCD_PORT,
    ETCD_PEER_PORT,
    KUBELET_PORT,
    CONTROLLER_MANAGER_PORT,
    SCHEDULER_PORT,
];
/// What listens on a worker.
const WORKER_PORTS: [u16; 1] = [KUBELET_PORT];

/// CNI's portmap needs one of these.
const PACKET_FILTERS: [&str; 2] = ["nft", "iptables"];
/// Where systemd's units look for programs.
const PROGRAMS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];

/// If one of these files exists, this node itself uses the ports.
const SET_UP: [&str; 2] = [
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
];

/// The requirements of this node's role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// What the node is for.
    pub role: Role,
    /// Processors that it needs.
    pub cpus: usize,
    /// Main memory that it needs, in bytes.
    pub memory_bytes: u64,
    /// Free disk that it needs, in bytes.
    pub disk_bytes: u64,
    /// TCP ports that must be free.
    pub ports: Vec<u16>,
    /// Whether the legacy cgroup hierarchy is accepted.
    pub allow_cgroup_v1: bool,
    /// The architecture of the pinned downloads.
    pub arch: String,
    /// The image must have one of these programs.
    pub packet_filters: Vec<&'static str>,
    /// The cluster's address ranges, each with the name of its setting.
    pub ranges: [(&'static str, String); 2],
}

/// A requirement that is not met.
struct Problem {
    kind: Kind,
    what: String,
    remedy: String,
}

impl Problem {
    fn for_a_person(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            kind: Kind::Refused,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl Preflight {
    /// The requirements of this node's role.
    pub fn wanted(settings: &Settings, identity: &Identity) -> Result<Self> {
        let (cpus, memory_bytes, ports) = match identity.role {
            Role::ControlPlane => (
                CONTROL_PLANE_CPUS,
                CONTROL_PLANE_MEMORY,
                CONTROL_PLANE_PORTS.to_vec(),
            ),
            Role::Worker => (1, 0, WORKER_PORTS.to_vec()),
        };
        Ok(Self {
            role: identity.role,
            cpus,
            memory_bytes,
            disk_bytes: DISK,
            ports,
            allow_cgroup_v1: settings.node.allow_cgroup_v1,
            arch: identity.arch.clone(),
            packet_filters: if PodLimits::are_needed(settings) {
                vec![PACKET_FILTERS[0]]
            } else {
                PACKET_FILTERS.to_vec()
            },
            ranges: [
                ("cluster.pod_cidr", settings.cluster.pod_cidr.clone()),
                (
                    "cluster.service_cidr",
                    settings.cluster.service_cidr.clone(),
                ),
            ],
        })
    }

    /// All problems, so that a person can fix them at once.
    async fn problems(&self, world: &World) -> Result<Vec<Problem>> {
        let host = world.host.as_ref();
        let machine = host.machine().await?;
        let mut problems = self.of_the_machine(&machine);
        for path in SET_UP {
            if host.exists(Path::new(path)).await? {
                // The node's own kubelet uses the ports, and evicts pods when the disk fills up.
                return Ok(problems);
            }
        }
        problems.extend(self.of_the_network(world.metadata.as_ref()).await?);
        problems.extend(self.of_the_image(host).await?);
        problems.extend(self.of_disk_and_ports(&machine, host).await?);
        Ok(problems)
    }

    /// If a range of the cluster overlaps the VPC, packets to the shared addresses never leave the
    /// node.
    async fn of_the_network(&self, metadata: &dyn Metadata) -> Result<Vec<Problem>> {
        let vpc = metadata.vpc_networks().await?;
        let mut problems = Vec::new();
        for (setting, range) in &self.ranges {
            let overlaps = |network: &&String| {
                let both = Network::parse(network).zip(Network::parse(range));
                both.is_some_and(|(network, range)| network.overlaps(range))
            };
            if let Some(network) = vpc.iter().find(overlaps) {
                problems.push(Problem::for_a_person(
                    format!("{setting} {range} overlaps the VPC's {network}"),
                    format!(
                        "give {setting} a private range that does not overlap the VPC's: {}",
                        vpc.join(", ")
                    ),
                ));
            }
        }
        Ok(problems)
    }

    async fn of_disk_and_ports(
        &self,
        machine: &MachineFacts,
        host: &dyn Host,
    ) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        if machine.disk_free_bytes < self.disk_bytes {
            problems.push(Problem {
                kind: Kind::Failed,
                what: format!(
                    "{} MiB are free under /var/lib, {} MiB are needed",
                    machine.disk_free_bytes >> 20,
                    self.disk_bytes >> 20
                ),
                remedy: "free some space or give the instance a larger root volume".to_owned(),
            });
        }
        for port in &self.ports {
            if host.port_in_use(*port).await? {
                problems.push(Problem::for_a_person(
                    format!("TCP port {port} is taken by another program"),
                    format!("find it with `ss -ltnp sport = :{port}` and stop it"),
                ));
            }
        }
        Ok(problems)
    }

    fn of_the_machine(&self, machine: &MachineFacts) -> Vec<Problem> {
        let role = self.role;
        let mut problems = Vec::new();
        if !machine.root {
            problems.push(Problem::for_a_person(
                "the agent does not run as root",
                "start it with `systemctl start k8s-bootstrap` or with sudo",
            ));
        }
        if machine.cpus < self.cpus {
            problems.push(Problem::for_a_person(
                format!(
                    "a {role} needs {} CPUs, this machine has {}",
                    self.cpus, machine.cpus
                ),
                "use an instance type with at least 2 vCPUs, such as c7i-flex.large",
            ));
        }
        if machine.memory_bytes < self.memory_bytes {
            problems.push(Problem::for_a_person(
                format!(
                    "a {role} needs {} MB of memory, this machine has {} MB",
                    self.memory_bytes / 1_000_000,
                    machine.memory_bytes / 1_000_000
                ),
                "use an instance type with at least 2 GiB of memory, such as c7i-flex.large",
            ));
        }
        if machine.cgroup_version < 2 && !self.allow_cgroup_v1 {
            problems.push(Problem::for_a_person(
                "this machine runs the legacy cgroup hierarchy, version 1",
                "use an image with cgroup v2 (Ubuntu 22.04 or later); only if that is impossible, set node.allow_cgroup_v1 = true",
            ));
        }
        if machine.arch != self.arch {
            problems.push(Problem::for_a_person(
                format!(
                    "EC2 reports {} for this instance, but the agent was built for {}",
                    self.arch, machine.arch
                ),
                "use the agent's binary for the instance's architecture",
            ));
        }
        problems
    }

    async fn require(&self, world: &World) -> Result<()> {
        let problems = self.problems(world).await?;
        if problems.is_empty() {
            return Ok(());
        }
        let refused = problems.iter().any(|p| p.kind == Kind::Refused);
        let (what, remedies): (Vec<_>, Vec<_>) = problems
            .into_iter()
            .map(|problem| (problem.what, problem.remedy))
            .unzip();
        let (what, remedy) = (what.join("; "), remedies.join("; "));
        Err(if refused {
            Error::refused(what).hint(remedy)
        } else {
            Error::failed(what).hint(remedy)
        })
    }

    /// Images such as Amazon Linux 2023 and Debian's minimal ones lack them.
    async fn of_the_image(&self, host: &dyn Host) -> Result<Option<Problem>> {
        for folder in PROGRAMS {
            for program in &self.packet_filters {
                if host.exists(&Path::new(folder).join(program)).await? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(Problem::for_a_person(
            format!(
                "this image has no {}, which pods with host ports need, and which blocks pods from the instance's metadata",
                self.packet_filters.join(" and no ")
            ),
            "use an image that has it, or install it first in the user-data: `apt-get install --yes nftables` or `dnf install --assumeyes nftables`",
        )))
    }
}

#[async_trait]
impl Step for Preflight {
    /// Returns `AsWanted` or an error: the agent cannot fix a requirement.
    async fn check(&self, world: &World) -> Result<State> {
        self.require(world).await?;
        Ok(State::AsWanted)
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        self.require(world).await
    }
}
