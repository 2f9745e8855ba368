//! The VPC: a namespace with a bridge, and a namespace per machine next to it. Nothing is forwarded
//! out, and the host's own namespace has no link to it.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::layout::{PREFIX, namespace};
use crate::process::run;

/// The region that the lab simulates.
pub const REGION: &str = "eu-central-1";
/// The VPC's range.
pub const VPC_CIDR: &str = "10.42.0.0/16";
/// The first subnet's default route. The VPC's servers are in that subnet.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
/// The VPC's resolver: network address + 2, as in EC2.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
/// The AWS API.
pub const API: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 3);
/// Artifacts (port 80) and the image registry (port 5000).
pub const ARTIFACTS: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 4);
/// The forward proxy.
pub const PROXY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 5);
/// Artifacts and the image registry once more, at an address outside of the VPC.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 4);
/// The metadata service.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// MTU of links inside the VPC, as in EC2.
pub const MTU: u32 = 9001;

/// A subnet with its availability zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The zone's name.
    pub zone: &'static str,
    /// The zone's id, the same in every account.
    pub zone_id: &'static str,
    /// The third byte of its addresses.
    third: u8,
}

/// The subnets, one in each zone; packets between them go through the VPC's router.
pub const SUBNETS: [Subnet; 2] = [
    Subnet {
        zone: "eu-central-1a",
        zone_id: "euc1-az2",
        third: 0,
    },
    Subnet {
        zone: "eu-central-1b",
        zone_id: "euc1-az3",
        third: 16,
    },
];

impl Subnet {
    /// The subnet of an address; the first one if it is in none.
    pub fn of(address: Ipv4Addr) -> Self {
        let third = address.octets()[2];
        let found = SUBNETS.into_iter().find(|subnet| subnet.third == third);
        found.unwrap_or(SUBNETS[0])
    }

    /// The subnet in a zone, if there is one.
    pub fn in_zone(zone: &str) -> Option<Self> {
        SUBNETS.into_iter().find(|subnet| subnet.zone == zone)
    }

    /// The address with this last byte.
    pub fn host(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 42, self.third, last)
    }

    /// Its range, `10.42.0.0/24`.
    pub fn cidr(self) -> String {
        format!("{}/24", self.host(0))
    }

    /// Its default route.
    pub fn gateway(self) -> Ipv4Addr {
        self.host(1)
    }
}

/// The hardware address that goes with a private address, in EC2's style.
pub fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn ip(arguments: &str) -> Result<()> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    run("ip", &words).map(|_| ())
}

/// Creates the VPC's namespace with its bridge and the addresses of its servers.
pub fn create_vpc() -> Result<()> {
    let vpc = namespace("vpc");
    ip(&format!("netns add {vpc}"))?;
    ip(&format!("-n {vpc} link set lo up"))?;
    ip(&bridge(&vpc))?;
    let gateways = SUBNETS.map(Subnet::gateway);
    for address in gateways
        .into_iter()
        .chain([RESOLVER, API, ARTIFACTS, PROXY])
    {
        ip(&format!("-n {vpc} addr add {address}/24 dev br0"))?;
    }
    for address in [METADATA, OUTSIDE] {
        ip(&format!("-n {vpc} addr add {address}/32 dev br0"))?;
    }
    ip(&format!("-n {vpc} link set br0 up"))?;
    route_between_subnets(&vpc)
}

/// Makes the bridge the VPC's router. What leaves the VPC is dropped without an answer, as in a
/// subnet without a NAT gateway.
fn route_between_subnets(vpc: &str) -> Result<()> {
    ip(&format!("-n {vpc} route add blackhole default"))?;
    let settings = [
        "net.ipv4.ip_forward=1",
        // EC2's router never tells one machine the way to another.
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.br0.send_redirects=0",
    ];
    let set = ["netns", "exec", vpc, "sysctl", "--quiet", "--write"];
    run("ip", &[&set[..], &settings].concat()).map(drop)
}

/// The command that creates the bridge. Without its own address a bridge takes that of one of its
/// links, and changes it when that link goes: for ten seconds all machines would answer to an
/// address that is gone.
fn bridge(vpc: &str) -> String {
    let address = mac(GATEWAY);
    format!("-n {vpc} link add br0 address {address} mtu {MTU} type bridge")
}

/// Creates a machine's namespace with eth0 on the VPC's bridge, and replaces an older one: a kernel
/// that boots has no firewall rules, tunnels or routes from before either.
pub fn attach(name: &str, address: Ipv4Addr, mac: &str) -> Result<()> {
    let own = namespace(name);
    let vpc = namespace("vpc");
    if namespaces().contains(&own) {
        remove(&own)?;
    }
    // The pair of links survives while anything holds the old namespace, so it is deleted
    // explicitly; usually it is gone already.
    let link = |verb: &str| run("ip", &["-n", &vpc, "link", verb, &own]);
    if link("del").is_err() && link("show").is_ok() {
        bail!("the old link of machine {name} to the VPC cannot be removed");
    }
    ip(&format!("netns add {own}"))?;
    ip(&format!("-n {own} link set lo up"))?;
    ip(&format!(
        "-n {own} link add eth0 address {mac} mtu {MTU} type veth peer name {own} mtu {MTU} netns {vpc}"
    ))?;
    ip(&format!("-n {vpc} link set {own} master br0 up"))?;
    ip(&format!("-n {own} addr add {address}/24 dev eth0"))?;
    ip(&format!("-n {own} link set eth0 up"))?;
    let gateway = Subnet::of(address).gateway();
    ip(&format!("-n {own} route add default via {gateway}"))
        .with_context(|| format!("machine {name} cannot reach its gateway"))
}

/// Creates a virtual machine's link to the VPC's bridge, and replaces an older one.
pub fn attach_tap(name: &str) -> Result<()> {
    detach_tap(name)?;
    let (tap, vpc) = (namespace(name), namespace("vpc"));
    ip(&format!("-n {vpc} tuntap add dev {tap} mode tap"))?;
    ip(&format!("-n {vpc} link set {tap} mtu {MTU} master br0 up"))
}

/// Removes a virtual machine's link, if it is there.
pub fn detach_tap(name: &str) -> Result<()> {
    let (tap, vpc) = (namespace(name), namespace("vpc"));
    if ip(&format!("-n {vpc} link show {tap}")).is_err() {
        return Ok(());
    }
    ip(&format!("-n {vpc} link del {tap}"))
}

/// Removes a namespace of the lab; the links in it go with it.
pub fn remove(namespace: &str) -> Result<()> {
    ip(&format!("netns del {namespace}"))
}

/// The namespaces on this machine with the lab's prefix.
pub fn namespaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}

/// Processes that run inside a namespace.
pub fn processes(namespace: &str) -> Vec<i32> {
    run("ip", &["netns", "pids", namespace])
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Replaces this process by curl inside the VPC's namespace. Returns only on failure.
pub fn become_curl(arguments: &[String]) -> Result<()> {
    let mut curl = Command::new("ip");
    curl.args(["netns", "exec", &namespace("vpc"), "curl"])
        .args(arguments);
    Err(anyhow!(curl.exec()).context("cannot start curl in the VPC's namespace"))
}

/// Replaces this process by the lab's visitors inside the VPC's namespace. Returns only on failure.
pub fn become_visitors(name: &str, rate: u32, seconds: u64) -> Result<()> {
    let own = std::env::current_exe().context("cannot find the lab's own program")?;
    let mut visitors = Command::new("ip");
    visitors
        .args(["netns", "exec", &namespace("vpc")])
        .arg(own)
        .args(["visitors", name, &rate.to_string(), &seconds.to_string()]);
    Err(anyhow!(visitors.exec()).context("cannot start visitors in the VPC's namespace"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_bridge_keeps_its_hardware_address_whoever_leaves() {
        let words = bridge("vpc");
        assert!(words.contains("address 02:00:0a:2a:00:01 "), "{words}");
    }

    #[test]
    fn an_address_tells_its_subnet() {
        let second = Subnet::in_zone("eu-central-1b").unwrap();
        let address = second.host(21);
        assert_eq!(address, Ipv4Addr::new(10, 42, 16, 21));
        assert_eq!(Subnet::of(address), second);
        assert_eq!(second.cidr(), "10.42.16.0/24");
        assert_eq!(second.gateway(), Ipv4Addr::new(10, 42, 16, 1));
        assert_eq!(Subnet::of(GATEWAY).gateway(), GATEWAY);
        assert_eq!(Subnet::in_zone("eu-central-1c"), None);
    }

    #[test]
    fn machines_have_hardware_addresses_of_their_own() {
        assert_eq!(mac(Ipv4Addr::new(10, 42, 0, 21)), "02:00:0a:2a:00:15");
        assert_ne!(
            mac(Ipv4Addr::new(10, 42, 0, 21)),
            mac(Ipv4Addr::new(10, 42, 0, 22))
        );
    }
}
