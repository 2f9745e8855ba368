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
/// The only availability zone.
pub const ZONE: &str = "eu-central-1a";
/// The VPC and its only subnet.
pub const VPC_CIDR: &str = "10.42.0.0/16";
/// The subnet's range.
pub const SUBNET_CIDR: &str = "10.42.0.0/24";
/// Default route of the machines.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
/// The VPC's resolver: network address + 2, as in EC2.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
/// The AWS API.
pub const API: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 3);
/// Artifacts (port 80) and the image registry (port 5000).
pub const ARTIFACTS: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 4);
/// The metadata service.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

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
    for address in [GATEWAY, RESOLVER, API, ARTIFACTS] {
        ip(&format!("-n {vpc} addr add {address}/24 dev br0"))?;
    }
    ip(&format!("-n {vpc} addr add {METADATA}/32 dev br0"))?;
    ip(&format!("-n {vpc} link set br0 up"))
}

/// The command that creates the bridge. Without its own address a bridge takes that of one of its
/// links, and changes it when that link goes: for ten seconds all machines would answer to an
/// address that is gone.
fn bridge(vpc: &str) -> String {
    let address = mac(GATEWAY);
    format!("-n {vpc} link add br0 address {address} type bridge")
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
        "-n {own} link add eth0 address {mac} type veth peer name {own} netns {vpc}"
    ))?;
    ip(&format!("-n {vpc} link set {own} master br0 up"))?;
    ip(&format!("-n {own} addr add {address}/24 dev eth0"))?;
    ip(&format!("-n {own} link set eth0 up"))?;
    ip(&format!("-n {own} route add default via {GATEWAY}"))
        .with_context(|| format!("machine {name} cannot reach its gateway"))
}

/// Creates a virtual machine's link to the VPC's bridge, and replaces an older one.
pub fn attach_tap(name: &str) -> Result<()> {
    detach_tap(name)?;
    let (tap, vpc) = (namespace(name), namespace("vpc"));
    ip(&format!("-n {vpc} tuntap add dev {tap} mode tap"))?;
    ip(&format!("-n {vpc} link set {tap} master br0 up"))
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
    use super::*;

    #[test]
    fn the_bridge_keeps_its_hardware_address_whoever_leaves() {
        let words = bridge("vpc");
        assert!(words.contains("address 02:00:0a:2a:00:01 "), "{words}");
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
