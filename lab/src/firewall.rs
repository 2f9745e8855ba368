//! Security groups, the source/destination check, and what a machine reaches outside of the VPC, as
//! packet rules on the VPC's bridge.
//!
//! EC2 tracks connections. The bridge cannot on every kernel, so the rules judge what opens one: a
//! TCP segment with SYN and without ACK, and UDP between machines. A machine without security groups
//! can be reached by everything, as all machines of the lab's own cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::layout::namespace;
use crate::network::{API, ARTIFACTS, OUTSIDE};
use crate::registry;
use crate::state::{Egress, Peers, Rule, State};

/// Replaces the rules on the bridge by those of the state's machines and stacks.
pub fn apply(state: &State) -> Result<()> {
    let rules: Vec<&Rule> = state.stacks.iter().flat_map(|stack| &stack.rules).collect();
    let mut members: BTreeMap<&str, BTreeSet<Ipv4Addr>> = BTreeMap::new();
    for machine in state.present() {
        for group in &machine.security_groups {
            members.entry(group).or_default().insert(machine.address);
        }
    }
    let machines = state.present().map(|machine| machine.address).collect();
    let with = |egress| -> BTreeSet<Ipv4Addr> {
        let machines = state.present().filter(|machine| machine.egress == egress);
        machines.map(|machine| machine.address).collect()
    };
    let (sealed, proxied) = (with(Egress::Bundle), with(Egress::Proxy));
    let ports: Vec<(String, Ipv4Addr)> = state
        .present()
        .map(|machine| (namespace(&machine.name), machine.address))
        .collect();
    let ruleset =
        ruleset(&rules, &members, &machines) + &egress(&sealed, &proxied) + &source_check(&ports);
    let mut nft = Command::new("ip")
        .args(["netns", "exec", &namespace("vpc"), "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start nft in the VPC's namespace")?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(ruleset.as_bytes())?;
    }
    let output = nft.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nft refuses the security groups: {said}\n{ruleset}");
    }
    Ok(())
}

/// Keeps machines with a bundle from the registry, and machines behind the proxy from artifacts,
/// registry and AWS. Nothing else outside of the VPC can be reached anyway.
fn egress(sealed: &BTreeSet<Ipv4Addr>, proxied: &BTreeSet<Ipv4Addr>) -> String {
    let mut text = "table bridge egress\ndelete table bridge egress\n".to_owned();
    text.push_str("table bridge egress {\nchain out {\n");
    text.push_str("type filter hook prerouting priority 0; policy accept;\n");
    if !sealed.is_empty() {
        let (sealed, port) = (set(sealed), registry::PORT);
        let _ = writeln!(
            text,
            "ip saddr {sealed} ip daddr {{ {ARTIFACTS}, {OUTSIDE} }} tcp dport {port} drop"
        );
    }
    if !proxied.is_empty() {
        let proxied = set(proxied);
        let _ = writeln!(
            text,
            "ip saddr {proxied} ip daddr {{ {ARTIFACTS}, {OUTSIDE}, {API} }} drop"
        );
    }
    text.push_str("}\n}\n");
    text
}

/// EC2's source/destination check: a machine sends and receives only packets that are its own. DHCP,
/// broadcasts and multicasts pass.
fn source_check(ports: &[(String, Ipv4Addr)]) -> String {
    let mut text = "table bridge source-check\ndelete table bridge source-check\n".to_owned();
    if ports.is_empty() {
        return text;
    }
    let names: Vec<&str> = ports.iter().map(|(port, _)| port.as_str()).collect();
    let own: Vec<String> = ports
        .iter()
        .map(|(port, address)| format!("{port} . {address}"))
        .collect();
    let (names, own) = (names.join(", "), own.join(", "));
    let _ = write!(
        text,
        "table bridge source-check {{\n\
         set ports {{ type ifname; elements = {{ {names} }}; }}\n\
         set own {{ type ifname . ipv4_addr; elements = {{ {own} }}; }}\n\
         chain sent {{\ntype filter hook prerouting priority -10; policy accept;\n\
         iifname @ports ip saddr != 0.0.0.0 iifname . ip saddr != @own counter drop\n}}\n\
         chain received {{\ntype filter hook postrouting priority -10; policy accept;\n\
         ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} accept\n\
         oifname @ports oifname . ip daddr != @own counter drop\n}}\n}}\n",
    );
    text
}

fn set(addresses: &BTreeSet<Ipv4Addr>) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", all.join(", "))
}

fn ruleset(
    rules: &[&Rule],
    members: &BTreeMap<&str, BTreeSet<Ipv4Addr>>,
    machines: &BTreeSet<Ipv4Addr>,
) -> String {
    let mut text = "table bridge security-groups\ndelete table bridge security-groups\n".to_owned();
    let protected: BTreeSet<Ipv4Addr> = members.values().flatten().copied().collect();
    if protected.is_empty() {
        return text;
    }
    text.push_str("table bridge security-groups {\nchain ingress {\n");
    text.push_str("type filter hook postrouting priority 0; policy accept;\n");
    let _ = writeln!(text, "ip daddr != {} accept", set(&protected));
    text.push_str("ether type != ip accept\nip protocol icmp accept\n");
    text.push_str("tcp flags & (syn | ack) != syn accept\n");
    let _ = writeln!(text, "ip protocol udp ip saddr != {} accept", set(machines));
    for rule in rules {
        let Some(to) = members.get(rule.to.as_str()) else {
            continue;
        };
        let from = match &rule.from {
            Peers::Network(network) if network == "0.0.0.0/0" => String::new(),
            Peers::Network(network) => format!("ip saddr {network} "),
            Peers::Group(group) => match members.get(group.as_str()) {
                Some(from) => format!("ip saddr {} ", set(from)),
                None => continue,
            },
        };
        let (first, last) = rule.ports;
        let _ = writeln!(
            text,
            "ip daddr {} {from}{} dport {first}-{last} accept",
            set(to),
            rule.protocol
        );
    }
    text.push_str("drop\n}\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(to: &str, from: Peers, ports: (u16, u16)) -> Rule {
        Rule {
            to: to.to_owned(),
            from,
            protocol: "tcp".to_owned(),
            ports,
        }
    }

    #[test]
    fn only_machines_with_groups_are_protected_and_each_rule_opens_its_ports() {
        let (cp, w1, w2) = (
            Ipv4Addr::new(10, 42, 0, 11),
            Ipv4Addr::new(10, 42, 0, 12),
            Ipv4Addr::new(10, 42, 0, 13),
        );
        let other = Ipv4Addr::new(10, 42, 0, 10);
        let members = BTreeMap::from([
            ("sg-cp", BTreeSet::from([cp])),
            ("sg-w", BTreeSet::from([w1, w2])),
        ]);
        let rules = [
            rule("sg-cp", Peers::Group("sg-w".to_owned()), (6443, 6443)),
            rule("sg-w", Peers::Network("0.0.0.0/0".to_owned()), (80, 80)),
            rule("sg-w", Peers::Group("sg-gone".to_owned()), (1, 2)),
            rule("sg-gone", Peers::Group("sg-w".to_owned()), (1, 2)),
        ];
        let rules: Vec<&Rule> = rules.iter().collect();
        let text = ruleset(&rules, &members, &BTreeSet::from([other, cp, w1, w2]));
        for line in [
            "ip daddr != { 10.42.0.11, 10.42.0.12, 10.42.0.13 } accept\n",
            "ip protocol udp ip saddr != { 10.42.0.10, 10.42.0.11, 10.42.0.12, 10.42.0.13 } accept\n",
            "ip daddr { 10.42.0.11 } ip saddr { 10.42.0.12, 10.42.0.13 } tcp dport 6443-6443 accept\n",
            "ip daddr { 10.42.0.12, 10.42.0.13 } tcp dport 80-80 accept\ndrop\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("1-2"), "{text}");
    }

    #[test]
    fn a_machine_reaches_by_itself_only_what_its_egress_allows() {
        let of = |last| BTreeSet::from([Ipv4Addr::new(10, 42, 0, last)]);
        let text = egress(&of(15), &of(16));
        for line in [
            "ip saddr { 10.42.0.15 } ip daddr { 10.42.0.4, 203.0.113.4 } tcp dport 5000 drop\n",
            "ip saddr { 10.42.0.16 } ip daddr { 10.42.0.4, 203.0.113.4, 10.42.0.3 } drop\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!egress(&BTreeSet::new(), &BTreeSet::new()).contains("drop"));
    }

    #[test]
    fn a_machine_sends_and_receives_its_own_packets_only() {
        let ports = [("k8sb-w1".to_owned(), Ipv4Addr::new(10, 42, 0, 15))];
        let text = source_check(&ports);
        assert!(
            text.contains("elements = { k8sb-w1 . 10.42.0.15 }"),
            "{text}"
        );
        assert!(!source_check(&[]).contains("drop"));
    }

    #[test]
    fn without_groups_nothing_is_dropped() {
        let text = ruleset(&[], &BTreeMap::new(), &BTreeSet::new());
        assert!(!text.contains("drop\n"), "{text}");
    }
}
