//! This node's own name in /etc/hosts: kubeadm and the kubelet look it up, and if the VPC's
//! resolver does not know it, each lookup takes ten seconds.
//!
//! If cloud-init has `manage_etc_hosts`, it rewrites the file at every boot; the agent starts after
//! it and puts the block back.

use std::{net::Ipv4Addr, path::Path};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    config::Settings,
    error::Result,
    identity::Identity,
    ports::World,
    steps::{State, Step},
    wait::Notes,
};

const HOSTS: &str = "/etc/hosts";
const BEGIN: &[u8] = b"# k8s-bootstrap: begin";
const END: &[u8] = b"# k8s-bootstrap: end";

/// A marked block of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hosts {
    /// The node's primary private address.
    pub address: Ipv4Addr,
    /// The node's name and its first label.
    pub names: Vec<String>,
}

impl Hosts {
    /// For the node's name, long and short.
    pub fn wanted(_settings: &Settings, identity: &Identity) -> Result<Self> {
        let name = &identity.node_name;
        let mut names = vec![name.clone()];
        if let Some((label, _)) = name.split_once('.') {
            names.push(label.to_owned());
        }
        Ok(Self {
            address: identity.private_ip,
            names,
        })
    }

    /// The file with this node's block and the rest unchanged.
    fn within(&self, hosts: &[u8]) -> Vec<u8> {
        let mut rest = Vec::with_capacity(hosts.len());
        let mut lines = hosts.split_inclusive(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            if line.trim_ascii() != BEGIN {
                rest.extend_from_slice(line);
                continue;
            }
            let block: Vec<&[u8]> = lines.clone().collect();
            // A begin marker without an end marker: only that line is certainly ours.
            if let Some(end) = block.iter().position(|line| line.trim_ascii() == END) {
                lines.nth(end);
            }
        }
        if !rest.is_empty() && !rest.ends_with(b"\n") {
            rest.push(b'\n');
        }
        rest.extend_from_slice(BEGIN);
        rest.extend_from_slice(format!("\n{} {}\n", self.address, self.names.join(" ")).as_bytes());
        rest.extend_from_slice(END);
        rest.push(b'\n');
        rest
    }
}

#[async_trait]
impl Step for Hosts {
    async fn check(&self, world: &World) -> Result<State> {
        let found = world.host.read(Path::new(HOSTS)).await?.unwrap_or_default();
        Ok(if self.within(&found) == found {
            State::AsWanted
        } else {
            State::Differs(format!("{HOSTS} does not name {}", self.names[0]))
        })
    }

    async fn apply(&self, world: &World, _notes: &Notes) -> Result<()> {
        let path = Path::new(HOSTS);
        let found = world.host.read(path).await?.unwrap_or_default();
        world.host.write(path, &self.within(&found), 0o644).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn hosts(address: [u8; 4]) -> Hosts {
        Hosts {
            address: address.into(),
            names: vec!["ip-10-0-0-1.ec2.internal".into(), "ip-10-0-0-1".into()],
        }
    }

    const BLOCK: &str = "# k8s-bootstrap: begin\n10.0.0.1 ip-10-0-0-1.ec2.internal ip-10-0-0-1\n# k8s-bootstrap: end\n";

    #[test]
    fn the_block_is_added_once_and_the_rest_is_untouched() {
        let before = "127.0.0.1 localhost\n\n# mine\t\n::1 ip6-localhost";
        let after = hosts([10, 0, 0, 1]).within(before.as_bytes());
        assert_eq!(
            String::from_utf8_lossy(&after),
            format!("{before}\n{BLOCK}")
        );
        assert_eq!(hosts([10, 0, 0, 1]).within(&after), after);
        assert_eq!(hosts([10, 0, 0, 1]).within(b""), BLOCK.as_bytes());
    }

    #[test]
    fn an_older_block_is_replaced_and_an_incomplete_block_does_not_remove_the_rest() {
        let old = format!("a\n{}b\n", BLOCK.replace("10.0.0.1 ", "10.9.9.9 "));
        let after = hosts([10, 0, 0, 1]).within(old.as_bytes());
        assert_eq!(String::from_utf8_lossy(&after), format!("a\nb\n{BLOCK}"));
        let after = hosts([10, 0, 0, 1]).within(b"a\n# k8s-bootstrap: begin\nkeep me\n");
        assert_eq!(
            String::from_utf8_lossy(&after),
            format!("a\nkeep me\n{BLOCK}")
        );
    }
}
