//! The options of a stack, and the checks that refuse impossible ones.

use std::collections::BTreeSet;

use clap::ValueEnum;

use crate::{
    config::{Network as Range, Settings},
    error::{Error, Result},
};

/// Everything that determines a template.
#[derive(Debug, Clone)]
pub struct Request {
    /// The cluster's name: the tag of its instances, and the start of its resources' names.
    pub cluster: String,
    /// How many control planes, and where its nodes are.
    pub size: Size,
    /// Number of workers at first.
    pub workers: u16,
    /// Instance type of all nodes at first.
    pub instance_type: String,
    /// Size of each root volume, in GiB.
    pub disk: u16,
    /// The network of the nodes.
    pub network: Network,
    /// The page's DNS name.
    pub dns: Option<Dns>,
    /// Whether its pods can have IAM roles.
    pub pod_roles: bool,
    /// Where instances download the agent.
    pub urls: Vec<String>,
    /// The digest of the agent.
    pub sha256: String,
    /// The settings with defaults, for both roles.
    pub settings: Settings,
    /// The same settings as TOML files for user-data, without the defaults.
    pub config: Vec<String>,
}

/// The sizes on offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// One control plane. All nodes have public addresses, and DNS names the workers.
    Seed,
    /// Three control planes in three zones. All nodes are in private subnets, and a Network Load
    /// Balancer forwards visitors to the workers.
    Ha,
}

impl Size {
    /// Number of control planes.
    pub fn control_planes(self) -> u16 {
        match self {
            Self::Seed => 1,
            Self::Ha => 3,
        }
    }

    /// Number of zones of a new VPC.
    fn zones(self) -> usize {
        match self {
            Self::Seed => 2,
            Self::Ha => 3,
        }
    }
}

/// Where the nodes are.
#[derive(Debug, Clone)]
pub enum Network {
    /// A VPC of the stack's own.
    New {
        /// The VPC's IPv4 range, such as `10.0.0.0/16`.
        cidr: String,
        /// Its zones; empty for the region's first ones.
        zones: Vec<String>,
        /// How nodes in private subnets reach other services.
        outbound: Outbound,
    },
    /// An existing VPC.
    Existing {
        /// Its id, `vpc-0123456789abcdef0`.
        vpc: String,
        /// Subnets of the nodes, which must have a route to AWS and to the artifacts.
        subnets: Vec<String>,
        /// Subnets of the load balancer of size `ha`.
        public_subnets: Vec<String>,
    },
}

/// How nodes without public addresses reach AWS and the artifacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Outbound {
    /// A NAT gateway in each zone.
    Nat,
    /// Endpoints of the AWS services that nodes use, and nothing else: artifacts and images come
    /// from mirrors in the VPC.
    Endpoints,
}

/// A DNS name for the page.
#[derive(Debug, Clone)]
pub struct Dns {
    /// The hosted zone's id, `Z0123456789ABCDEFGHIJ`.
    pub zone: String,
    /// The name in that zone.
    pub name: String,
}

/// The longest name of a cluster: role names have at most 64 characters, and end with the role and
/// the region.
const LONGEST_NAME: usize = 32;

/// The size of the workers' group cannot grow beyond this by mistake.
pub(super) const MOST_WORKERS: u16 = 100;

impl Request {
    /// Number of zones of a new VPC.
    pub fn zone_count(&self) -> usize {
        match &self.network {
            Network::New { zones, .. } if !zones.is_empty() => zones.len(),
            _ => self.size.zones(),
        }
    }

    /// Refuses what CloudFormation or the nodes would refuse later.
    pub fn validate(&self) -> Result<()> {
        cluster_name(&self.cluster)?;
        let own = &self.settings.cluster.name;
        if !own.is_empty() && *own != self.cluster {
            return Err(Error::usage(format!(
                "--cluster is `{}`, but cluster.name in the settings is `{own}`",
                self.cluster
            ))
            .hint("leave cluster.name out: the instances have it as a tag"));
        }
        let issuer = &self.settings.service_accounts.issuer;
        if self.pod_roles && !issuer.is_empty() {
            return Err(Error::usage(format!(
                "--pod-roles: service_accounts.issuer in the settings is already {issuer}"
            ))
            .hint("leave one of them out: with --pod-roles the stack has an issuer of its own"));
        }
        if !is_instance_type(&self.instance_type) {
            return Err(Error::usage(format!(
                "--instance-type: `{}` is not an instance type",
                self.instance_type
            ))
            .hint("example: c7i-flex.large"));
        }
        if self.workers > MOST_WORKERS {
            return Err(Error::usage(format!(
                "--workers: {} are more than {MOST_WORKERS}, which is the group's maximum",
                self.workers
            ))
            .hint(
                "raise the group's maximum first, then use `aws autoscaling set-desired-capacity`",
            ));
        }
        if self.disk < 10 {
            return Err(Error::usage(format!(
                "--disk: {} GiB is too little for the image and containers",
                self.disk
            ))
            .hint("use 10 or more; the default is 30"));
        }
        match &self.network {
            Network::New { cidr, zones, .. } => {
                self.range(cidr)?;
                zone_names(zones)
            }
            Network::Existing {
                vpc,
                subnets,
                public_subnets,
            } => self.existing(vpc, subnets, public_subnets),
        }
    }

    fn range(&self, cidr: &str) -> Result<()> {
        let place = |problem: &str| format!("--vpc-cidr: `{cidr}` {problem}");
        let bits = cidr.split_once('/').and_then(|(_, bits)| bits.parse().ok());
        let range = Range::parse(cidr).filter(|_| matches!(bits, Some(16..=22u8)));
        let Some(range) = range else {
            return Err(
                Error::usage(place("is not an IPv4 network of /16 to /22")).hint(
                    "example: 10.0.0.0/16; it is cut into 16 parts, of which each subnet gets one",
                ),
            );
        };
        let cluster = &self.settings.cluster;
        for (name, other) in [
            ("cluster.pod_cidr", &cluster.pod_cidr),
            ("cluster.service_cidr", &cluster.service_cidr),
        ] {
            if Range::parse(other).is_some_and(|other| other.overlaps(range)) {
                return Err(
                    Error::usage(place(&format!("overlaps {name}, which is {other}"))).hint(
                        format!("choose another --vpc-cidr, or set {name} in the file of --config"),
                    ),
                );
            }
        }
        Ok(())
    }

    fn existing(&self, vpc: &str, subnets: &[String], public: &[String]) -> Result<()> {
        let wrong = |option: &str, value: &str, example: &str| {
            Error::usage(format!("{option}: `{value}` is not an id"))
                .hint(format!("example: {example}"))
        };
        if !is_id(vpc, "vpc-") {
            return Err(wrong("--vpc", vpc, "vpc-0123456789abcdef0"));
        }
        for (option, ids) in [("--subnets", subnets), ("--public-subnets", public)] {
            if let Some(id) = ids.iter().find(|id| !is_id(id, "subnet-")) {
                return Err(wrong(option, id, "subnet-0123456789abcdef0"));
            }
        }
        if subnets.is_empty() {
            return Err(Error::usage("--vpc needs --subnets for the nodes")
                .hint("list subnets of that VPC, one in each zone: --subnets subnet-1,subnet-2"));
        }
        if self.size == Size::Ha && public.is_empty() {
            return Err(Error::usage(
                "--size ha in an existing VPC needs --public-subnets for the load balancer",
            )
            .hint("list public subnets, one in each zone of the workers"));
        }
        Ok(())
    }
}

fn cluster_name(name: &str) -> Result<()> {
    let fits = name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    fits.then_some(()).ok_or_else(|| {
        Error::usage(format!(
            "--cluster: `{name}` cannot start the names of AWS resources"
        ))
        .hint(format!(
            "use a letter, then letters, digits and hyphens; at most {LONGEST_NAME} in all"
        ))
    })
}

fn zone_names(zones: &[String]) -> Result<()> {
    for zone in zones {
        if region_of(zone).is_none() {
            return Err(
                Error::usage(format!("--zones: `{zone}` is not an availability zone"))
                    .hint("example: --zones eu-central-1a,eu-central-1b"),
            );
        }
    }
    let distinct: BTreeSet<_> = zones.iter().collect();
    let regions: BTreeSet<_> = zones.iter().filter_map(|zone| region_of(zone)).collect();
    if !zones.is_empty() && (!(2..=3).contains(&zones.len()) || distinct.len() != zones.len()) {
        return Err(Error::usage(format!(
            "--zones: {} are not two or three different zones",
            zones.join(",")
        ))
        .hint("leave --zones out for the region's first ones"));
    }
    if regions.len() > 1 {
        let regions: Vec<_> = regions.into_iter().collect();
        return Err(Error::usage(format!(
            "--zones: they are in different regions, {}",
            regions.join(" and ")
        ))
        .hint("a VPC is in one region"));
    }
    Ok(())
}

/// The region of a zone such as `eu-central-1a`; `None` if it is not a zone's name.
fn region_of(zone: &str) -> Option<&str> {
    let region = zone.strip_suffix(|c: char| c.is_ascii_lowercase())?;
    let parts: Vec<&str> = region.split('-').collect();
    let (number, words) = parts.split_last()?;
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (words.len() >= 2 && words.iter().all(is_word) && is_number).then_some(region)
}

fn is_instance_type(text: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.split_once('.')
        .is_some_and(|(family, size)| fits(family) && fits(size))
}

fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|rest| rest.len() >= 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}
