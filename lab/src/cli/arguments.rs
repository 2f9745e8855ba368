//! The commands' arguments.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::ec2::faults::Wanted as Faults;
use lab::lifecycle::Options;
use lab::state::{Egress, Kind, MetadataOptions};
use lab::up::Until;

const ENVIRONMENT: &str = "Environment:
  LAB_DIR    the lab's folder, .lab in the repository unless set
  LAB_AGENT  the agent's binary, the release build unless set";

/// EC2 on one machine, to test k8s-bootstrap.
#[derive(Parser)]
#[command(name = "lab", version, after_help = ENVIRONMENT)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Start a VPC, its servers and machines, and wait for the cluster.
    Up {
        /// Machines with the role control-plane.
        #[arg(long, default_value_t = 1)]
        control_planes: u32,
        /// Machines with the role worker.
        #[arg(long, default_value_t = 2)]
        workers: u32,
        /// Instead, the instances of this stack, which is named like the file. `stack render` makes
        /// one for this agent; it stays valid as long as the agent does.
        #[arg(long, conflicts_with_all = ["control_planes", "workers"])]
        stack: Option<PathBuf>,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        options: MachineOptions,
    },
    /// Check whether this machine can run the lab, and list what it lacks.
    Check,
    /// Stop the lab and remove everything of it except the cache.
    Down,
    /// Show the machines and what their agents do.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Launch more machines.
    Launch {
        /// control-plane or worker.
        #[arg(long)]
        role: String,
        /// How many machines.
        #[arg(long, default_value_t = 1)]
        count: u32,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        options: MachineOptions,
    },
    #[command(flatten)]
    Lifecycle(Lifecycle),
    #[command(flatten)]
    Inside(Inside),
    /// The visitors, inside the VPC's namespace.
    #[command(hide = true)]
    Visitors {
        name: String,
        rate: u32,
        seconds: u64,
    },
    /// CloudFormation stacks, with a machine for each instance of their groups.
    #[command(subcommand)]
    Stack(StackCommand),
    /// Build the application's image as an archive, for a registry of yours.
    Image {
        /// The file to write.
        #[arg(long, default_value = "target/visits.tar")]
        output: PathBuf,
    },
    /// Load the application and its Flask twin in turn, and compare them.
    ///
    /// On the running lab, else on a temporary one that is removed afterwards.
    BenchApp(BenchOptions),
    /// Measure how fast instances become Ready nodes, with the agent and with kubeadm alone.
    ///
    /// On a lab of its own.
    BenchNodes(NodesOptions),
    #[command(flatten)]
    Cloud(Cloud),
    /// The servers, inside the VPC's namespace.
    #[command(hide = true)]
    Serve {
        dir: PathBuf,
        www: PathBuf,
        images: PathBuf,
    },
    /// A machine's supervisor.
    #[command(hide = true)]
    Supervise {
        dir: PathBuf,
        name: String,
        rootfs: PathBuf,
    },
}

// A doc comment on one of these would replace the program's own description in its help.

// What EC2 does with one machine.
#[derive(Subcommand)]
pub(super) enum Lifecycle {
    /// Power a machine off and remove it with its disk.
    Terminate {
        #[command(flatten)]
        machine: Named,
        /// As an Auto Scaling group does: notify the machine, which can delay its termination with
        /// a lifecycle hook.
        #[arg(long, conflicts_with = "hard")]
        by_group: bool,
    },
    /// Power a machine off and keep its disk.
    Stop {
        #[command(flatten)]
        machine: Named,
    },
    /// Boot a stopped machine.
    Start {
        /// Id, its unique start, node name or short name.
        instance: String,
    },
    /// Notify a machine of its end: a spot interruption in two minutes, or by its group.
    #[command(hide = true)]
    Notice {
        /// Id, its unique start, node name or short name.
        instance: String,
        /// Termination by its Auto Scaling group.
        #[arg(long)]
        group: bool,
    },
    /// Change a machine's metadata options; options that are not given get their default.
    #[command(hide = true)]
    Modify {
        /// Id, its unique start, node name or short name.
        instance: String,
        #[command(flatten)]
        metadata: MetadataArguments,
    },
}

// What runs in a machine, or in the VPC outside the cluster.
#[derive(Subcommand)]
pub(super) enum Inside {
    /// Run a command in a machine.
    Exec {
        /// Id, its unique start, node name or short name.
        instance: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run kubectl against the lab's cluster.
    Kubectl {
        /// kubectl's arguments.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run curl as a visitor outside the cluster, in the VPC.
    Curl {
        /// curl's arguments; machines have the addresses that `status` shows.
        #[arg(last = true, required = true)]
        arguments: Vec<String>,
    },
    /// Visit a page by its name at a steady rate, as browsers do; prints the failures as JSON.
    Visit {
        /// The name; the lab's resolver must know it.
        #[arg(default_value = lab::zone::WORKERS)]
        name: String,
        /// Visits a second.
        #[arg(long, default_value_t = 50)]
        rate: u32,
        /// Duration in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Show the journal of a machine's agent, or the machine's console.
    Logs {
        /// Id, its unique start, node name or short name.
        instance: String,
        /// The console: everything since the first boot.
        #[arg(long)]
        console: bool,
    },
}

// What the AWS API has stored, and how it behaves.
#[derive(Subcommand)]
pub(super) enum Cloud {
    /// Make the AWS API fail; without options, end the faults.
    #[command(hide = true)]
    Faults(Faults),
    /// Set a role's policy again, without some of its actions.
    #[command(hide = true)]
    Policy {
        /// control-plane or worker.
        #[arg(long)]
        role: String,
        /// An action to leave out, for example `ssm:PutParameter`.
        #[arg(long)]
        without: Vec<String>,
    },
    /// Create an IAM role.
    #[command(hide = true)]
    Role {
        /// Its name.
        name: String,
        /// A file with its trust policy.
        #[arg(long)]
        trust: PathBuf,
        /// A file with what it may do.
        #[arg(long)]
        policy: PathBuf,
    },
    /// List the keys in the lab's bucket.
    #[command(hide = true)]
    Bucket {
        /// Only keys with this prefix.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// List the keys of the cluster's record in Parameter Store, after removing some.
    #[command(hide = true)]
    Record {
        /// A key to remove first, for example `founder/1`.
        #[arg(long)]
        forget: Vec<String>,
    },
    /// Restart moto with the same state.
    #[command(hide = true)]
    MotoRestart,
}

#[derive(Subcommand)]
pub(super) enum StackCommand {
    /// Print a template as `k8s-bootstrap cloudformation` makes it, with the lab's settings.
    Render {
        /// Options of `k8s-bootstrap cloudformation`: --cluster, --size, ...
        #[arg(last = true, required = true)]
        arguments: Vec<String>,
    },
    /// Check a template with cfn-lint.
    Lint {
        /// The template.
        file: PathBuf,
    },
    /// Create a stack and wait until its nodes are Ready.
    Create {
        /// The stack's name.
        name: String,
        /// Its template.
        file: PathBuf,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Change the number of machines in a group.
    Scale {
        /// The Auto Scaling group.
        group: String,
        /// The number of machines.
        count: usize,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Replace a group's machines one after the other.
    Refresh {
        /// The Auto Scaling group.
        group: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Delete a stack with its machines.
    Delete {
        /// The stack's name.
        name: String,
    },
}

#[derive(Args)]
pub(super) struct Named {
    /// Id, its unique start, node name or short name.
    pub(super) instance: String,
    /// Pull the plug: no shutdown inside the machine.
    #[arg(long)]
    pub(super) hard: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum UntilArgument {
    Launched,
    Booted,
    Ready,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum MachineArgument {
    Container,
    Vm,
}

#[derive(Args)]
pub(super) struct Waiting {
    /// What to wait for.
    #[arg(long, value_enum, default_value = "ready")]
    pub(super) until: UntilArgument,
    /// Longest wait for it, in seconds.
    #[arg(long, default_value_t = 900)]
    pub(super) deadline: u64,
}

impl Waiting {
    pub(super) fn until(&self) -> Until {
        match self.until {
            UntilArgument::Launched => Until::Launched,
            UntilArgument::Booted => Until::Booted,
            UntilArgument::Ready => Until::Ready,
        }
    }
}

#[derive(Args)]
#[allow(clippy::struct_excessive_bools)] // each is an option of its own
pub(super) struct MetadataArguments {
    /// HttpTokens=required: no metadata without a token. cloud-init in a container cannot detect
    /// EC2 and then finds no metadata.
    #[arg(long, hide_short_help = true)]
    pub(super) tokens_required: bool,
    /// HttpEndpoint=disabled: no metadata at all.
    #[arg(long, hide_short_help = true)]
    pub(super) metadata_disabled: bool,
    /// InstanceMetadataTags=disabled.
    #[arg(long, hide_short_help = true)]
    pub(super) metadata_tags_disabled: bool,
    /// Host names in the domain corp.example, as set by the VPC's DHCP options.
    #[arg(long, hide_short_help = true)]
    pub(super) own_domain: bool,
    /// `HttpPutResponseHopLimit`.
    #[arg(long, hide_short_help = true, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) hop_limit: u8,
}

impl MetadataArguments {
    pub(super) fn options(&self) -> MetadataOptions {
        MetadataOptions {
            enabled: !self.metadata_disabled,
            tokens_required: self.tokens_required,
            hop_limit: self.hop_limit,
            tags: !self.metadata_tags_disabled,
            own_domain: self.own_domain,
        }
    }
}

#[derive(Args)]
pub(super) struct MachineOptions {
    /// A container, or a virtual machine with a kernel of its own.
    #[arg(long, value_enum, default_value = "container")]
    pub(super) machine: MachineArgument,
    #[command(flatten)]
    pub(super) metadata: MetadataArguments,
    /// An EC2 tag, KEY=VALUE; KEY= omits a default one.
    #[arg(long = "tag", hide_short_help = true)]
    pub(super) tags: Vec<String>,
    /// A TOML file that is merged into the agent's settings.
    #[arg(long, hide_short_help = true)]
    pub(super) settings: Option<PathBuf>,
    /// A file with user-data to use instead of the lab's.
    #[arg(long, hide_short_help = true)]
    pub(super) user_data: Option<PathBuf>,
    /// The availability zone, and with it the subnet.
    #[arg(long, hide_short_help = true, default_value = "")]
    pub(super) zone: String,
    /// Everything comes from one bundle, and no registry can be reached.
    #[arg(long, conflicts_with = "user_data")]
    pub(super) air_gapped: bool,
    /// Everything outside of the VPC is reached through a forward proxy only.
    #[arg(long, conflicts_with_all = ["user_data", "air_gapped"])]
    pub(super) behind_proxy: bool,
}

impl MachineOptions {
    pub(super) fn read(&self) -> Result<Options> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let mut tags = BTreeMap::new();
        for tag in &self.tags {
            let (key, value) = tag
                .split_once('=')
                .with_context(|| format!("--tag {tag:?} is not KEY=VALUE"))?;
            tags.insert(key.to_owned(), value.to_owned());
        }
        Ok(Options {
            kind: match self.machine {
                MachineArgument::Container => Kind::Container,
                MachineArgument::Vm => Kind::Vm,
            },
            metadata: self.metadata.options(),
            tags,
            settings: self
                .settings
                .as_ref()
                .map(read)
                .transpose()?
                .unwrap_or_default(),
            user_data: self.user_data.as_ref().map(read).transpose()?,
            zone: self.zone.clone(),
            egress: match (self.air_gapped, self.behind_proxy) {
                (true, _) => Egress::Bundle,
                (false, true) => Egress::Proxy,
                (false, false) => Egress::Open,
            },
            ..Options::default()
        })
    }
}

#[derive(Args)]
pub(super) struct BenchOptions {
    /// Requests in one run.
    #[arg(long, default_value_t = 50_000)]
    pub(super) requests: u64,
    /// Concurrent requests.
    #[arg(long, default_value_t = 500)]
    pub(super) concurrency: u64,
    /// Runs of each application.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub(super) rounds: u8,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// A folder that figures and chart are written to.
    #[arg(long)]
    pub(super) results: Option<PathBuf>,
    /// Measure nothing: show the results in an earlier run's JSON.
    #[arg(long)]
    pub(super) from: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct NodesOptions {
    /// Pairs of workers.
    #[arg(long, default_value_t = 20)]
    pub(super) workers: usize,
    /// Pairs of first control planes.
    #[arg(long, default_value_t = 10)]
    pub(super) control_planes: usize,
    /// A folder that figures and charts are written to.
    #[arg(long)]
    pub(super) results: Option<PathBuf>,
    /// Measure nothing: show the results in an earlier run's JSON.
    #[arg(long)]
    pub(super) from: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_groups_of_commands_fit_together() {
        let cli = Cli::command();
        let about = cli.get_about().unwrap().to_string();
        assert_eq!(about, "EC2 on one machine, to test k8s-bootstrap");
        cli.debug_assert();
    }
}
