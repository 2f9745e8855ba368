//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    ports::Role,
    stack::{Outbound, Size},
};

/// Turns EC2 instances into a Kubernetes cluster, and keeps it healthy.
#[derive(Debug, Parser)]
#[command(
    name = "k8s-bootstrap",
    version,
    after_help = "Exit status: 0 done, 1 failed (trying again may help), 2 wrong usage, 3 refused (a person must decide)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. Data goes to stdout, logs to stderr.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring this instance from first boot to a Ready node and keep it Ready. The systemd unit runs
    /// this.
    Run,
    /// Install, enable and start k8s-bootstrap.service. User-data runs this.
    Install,
    /// Print what `run` would do on this instance and why; change nothing.
    Plan {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the running agent's status.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print it again at each change, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Print the administrator's kubeconfig, with the administrator's key; on a control plane.
    Kubeconfig {
        /// The address at which its user reaches the API, `HOST` or `HOST:PORT`. Default: the load
        /// balancer of the settings, or this control plane's private address.
        #[arg(long, value_name = "HOST[:PORT]")]
        server: Option<String>,
    },
    /// Check a configuration file.
    CheckConfig {
        /// The TOML file; `-` for standard input.
        #[arg(required_unless_present = "defaults")]
        file: Option<PathBuf>,
        /// Print all settings with their meanings and defaults instead.
        #[arg(long)]
        defaults: bool,
    },
    /// Print user-data that downloads this binary and verifies its digest.
    UserData {
        /// The role. Default: the tag k8s-bootstrap:role of the instance.
        #[arg(long)]
        role: Option<Role>,
        /// Where instances get the agent and its settings.
        #[command(flatten)]
        agent: AgentArguments,
    },
    /// Print a CloudFormation template of all that a cluster needs in an AWS account: network,
    /// roles, Auto Scaling groups, a bucket for backups.
    Cloudformation(Box<CloudformationArguments>),
    /// Print sha256 and URL of each program, archive and manifest that nodes download.
    Artifacts {
        /// A TOML file with settings; `-` for standard input.
        #[arg(long)]
        config: Option<PathBuf>,
        /// The nodes' architecture.
        #[arg(long, default_value = "amd64")]
        arch: String,
    },
    /// Print each image that nodes and add-ons run. Fetches the add-ons' manifests.
    Images {
        /// A TOML file with settings; `-` for standard input.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Make one archive of all programs, manifests and images of a configuration, for nodes without
    /// the internet. Prints the settings that name it.
    Bundle {
        /// A TOML file with settings; `-` for standard input.
        #[arg(long)]
        config: Option<PathBuf>,
        /// The nodes' architecture.
        #[arg(long, default_value = "amd64")]
        arch: String,
        /// Where to write the archive.
        #[arg(long)]
        output: PathBuf,
    },
    /// Print the kubelet a login to a private registry. The kubelet runs this.
    CredentialProvider,
    /// Print version, commit, target, and where this binary is published.
    Version,
    /// Remove this node from its cluster for good: drain it, leave, remove what was created here.
    Reset {
        /// Confirm the removal.
        #[arg(long)]
        yes: bool,
    },
    /// List this node's certificates: when they expire, who renews them.
    Certificates {
        /// Renew them instead.
        #[command(subcommand)]
        command: Option<CertificatesCommand>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Inspect, back up and restore etcd, on a control plane.
    #[command(subcommand)]
    Etcd(EtcdCommand),
    /// Run clusters on a virtual clock with seeded faults, and check that each is founded exactly
    /// once.
    Simulate {
        /// How many control planes to launch.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
        control_planes: u16,
        /// How many workers to launch.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(..=10_000))]
        workers: u16,
        /// The first seed. A seed determines everything that happens.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds to run, one after the other.
        #[arg(long, default_value_t = 1)]
        seeds: u32,
        /// Print each event on a line, instead of the summary.
        #[arg(long)]
        trace: bool,
        /// Print the summary as JSON.
        #[arg(long, conflicts_with = "trace")]
        json: bool,
    },
}

/// The agent on new instances.
#[derive(Debug, Args)]
pub struct AgentArguments {
    /// A URL from which instances download this binary: https, http, or `s3://BUCKET/KEY`
    /// for an object in a bucket of their region, which they read with their own role. Several are
    /// tried in the given order. Default: the URL at which this release is published.
    #[arg(long)]
    pub url: Vec<String>,
    /// A TOML file with settings to include.
    #[arg(long)]
    pub config: Option<PathBuf>,
}

/// A cluster's stack.
#[derive(Debug, Args)]
pub struct CloudformationArguments {
    /// The cluster's name, with which the names of its groups and roles begin.
    #[arg(long)]
    pub cluster: String,
    /// `seed`: one control plane, public addresses. `ha`: three control planes in three zones,
    /// private subnets, a Network Load Balancer for visitors.
    #[arg(long, value_enum, default_value_t = Size::Seed)]
    pub size: Size,
    /// Number of workers. Default: 2 for `seed`, 3 for `ha`.
    #[arg(long)]
    pub workers: Option<u16>,
    /// Instance type of all nodes.
    #[arg(long, default_value = "c7i-flex.large")]
    pub instance_type: String,
    /// Size of each root volume, in GiB.
    #[arg(long, default_value_t = 30)]
    pub disk: u16,
    /// The range of the VPC.
    #[arg(long, default_value = "10.0.0.0/16")]
    pub vpc_cidr: String,
    /// Two or three availability zones. Default: the region's first two for `seed`, its first three
    /// for `ha`.
    #[arg(long, value_delimiter = ',')]
    pub zones: Vec<String>,
    /// How nodes in private subnets reach other services. `nat`: through NAT gateways. `endpoints`:
    /// only AWS services, through VPC endpoints; everything else must come from mirrors in the VPC.
    #[arg(long, value_enum, default_value_t = Outbound::Nat)]
    pub outbound: Outbound,
    /// An existing VPC to use instead of a new one.
    #[arg(long, conflicts_with_all = ["vpc_cidr", "zones", "outbound"], requires = "subnets")]
    pub vpc: Option<String>,
    /// Subnets of that VPC for the nodes.
    #[arg(long, value_delimiter = ',', requires = "vpc")]
    pub subnets: Vec<String>,
    /// Subnets of that VPC for the load balancer of size `ha`.
    #[arg(long, value_delimiter = ',', requires = "vpc")]
    pub public_subnets: Vec<String>,
    /// The page's DNS name, in the zone of --hosted-zone.
    #[arg(long, requires = "hosted_zone")]
    pub domain: Option<String>,
    /// The id of the Route 53 hosted zone that contains the name.
    #[arg(long, requires = "domain")]
    pub hosted_zone: Option<String>,
    /// Let pods have IAM roles: adds an identity provider for the tokens of their service accounts,
    /// and a bucket with the public keys, which everybody may read.
    #[arg(long)]
    pub pod_roles: bool,
    /// Where instances get the agent and its settings.
    #[command(flatten)]
    pub agent: AgentArguments,
}

/// The commands about certificates.
#[derive(Debug, Subcommand)]
pub enum CertificatesCommand {
    /// Renew this control plane's certificates that are due, and restart the components that do not
    /// reload them.
    Renew {
        /// Renew all of them, due or not.
        #[arg(long)]
        all: bool,
    },
}

/// The commands about etcd.
#[derive(Debug, Subcommand)]
pub enum EtcdCommand {
    /// Take a backup now: a snapshot of etcd and the cluster's keys.
    Snapshot {
        /// Destination, instead of `snapshots.to`: `s3://BUCKET/PREFIX` or `file:///DIRECTORY`.
        #[arg(long)]
        to: Option<String>,
    },
    /// Restore the cluster from a backup, with this instance as its only control plane.
    Restore {
        /// `latest`, a destination such as `s3://BUCKET/PREFIX` for its latest, or the URL of a
        /// backup's `.json`.
        #[arg(long)]
        from: String,
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
        /// Restore although other control planes may still run. They must never come back.
        #[arg(long)]
        force: bool,
        /// Write the store's record of the cluster again, if it was lost. `--from` must name the
        /// backup.
        #[arg(long)]
        rebuild_record: bool,
    },
    /// Verify that a backup can be restored, by restoring it into a temporary directory.
    Verify {
        /// Same as for `restore`.
        #[arg(long, default_value = "latest")]
        from: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the members: which vote, which one leads, which are healthy.
    Members {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
