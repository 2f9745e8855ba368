//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::ports::Role;

/// Turns EC2 instances into a Kubernetes cluster, and keeps it whole.
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
    /// Bring this instance from first boot to a Ready node and keep it there: what the unit starts.
    Run,
    /// Install k8s-bootstrap.service, enable and start it: what user-data calls.
    Install,
    /// Print what `run` would do on this instance and why; change nothing.
    Plan {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the running agent's status.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Show it again at each change, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Print a kubeconfig for people; on a control plane. It holds the administrator's key.
    Kubeconfig {
        /// The address that leads to the API from where it is used, `HOST` or `HOST:PORT`; else
        /// the load balancer of the settings, or this control plane's private address.
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
    /// Print user-data that downloads this very binary, verified by its digest.
    UserData {
        /// The role; without it the tag k8s-bootstrap:role decides.
        #[arg(long)]
        role: Option<Role>,
        /// Where instances download the agent from; several are tried in their order, until one has it.
        #[arg(long, default_value = concat!("https://github.com/k8s-bootstrap/k8s-bootstrap/releases/download/v", env!("CARGO_PKG_VERSION"), "/k8s-bootstrap-linux-amd64"))]
        url: Vec<String>,
        /// A TOML file with settings to carry along.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Take this node out of its cluster, for good: drain it, leave, remove what was made here.
    Reset {
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
    /// List this node's certificates: when they end, who renews them.
    Certificates {
        /// Renew them instead.
        #[command(subcommand)]
        command: Option<CertificatesCommand>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask etcd, on a control plane.
    #[command(subcommand)]
    Etcd(EtcdCommand),
    /// Play clusters on a virtual clock with seeded faults, and check that each founds itself exactly once.
    Simulate {
        /// Control planes that are launched.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
        control_planes: u16,
        /// Workers that are launched.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(..=10_000))]
        workers: u16,
        /// The first seed: it decides all that happens.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds to play, one after the other.
        #[arg(long, default_value_t = 1)]
        seeds: u32,
        /// Print what happens, a line each, instead of the summary.
        #[arg(long)]
        trace: bool,
        /// The summary as JSON.
        #[arg(long, conflicts_with = "trace")]
        json: bool,
    },
}

/// What can be done about certificates.
#[derive(Debug, Subcommand)]
pub enum CertificatesCommand {
    /// Renew those of this control plane that are due, and restart what does not read them again.
    Renew {
        /// All of them, due or not.
        #[arg(long)]
        all: bool,
    },
}

/// What can be asked of etcd.
#[derive(Debug, Subcommand)]
pub enum EtcdCommand {
    /// Take a backup now: a snapshot of etcd and the cluster's keys.
    Snapshot {
        /// Where to, instead of `snapshots.to`: `s3://BUCKET/PREFIX` or `file:///FOLDER`.
        #[arg(long)]
        to: Option<String>,
    },
    /// Bring the cluster back from a backup, with this control plane as its only one.
    Restore {
        /// `latest`, a place such as `s3://BUCKET/PREFIX` for its latest, or the URL of a backup's `.json`.
        #[arg(long)]
        from: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Restore although other control planes may still live. They must never come back.
        #[arg(long)]
        force: bool,
        /// Write the store's record of the cluster again where it was lost; `--from` must name
        /// the backup.
        #[arg(long)]
        rebuild_record: bool,
    },
    /// Prove that a backup can be restored: in a folder of its own, which is removed again.
    Verify {
        /// As for `restore`.
        #[arg(long, default_value = "latest")]
        from: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the members: who votes, who leads, who is healthy.
    Members {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}
