//! The VPC's DHCP server: dnsmasq, without its resolver. Only virtual machines ask; each gets the
//! address that EC2 gave it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::process::Child;

use crate::layout::Layout;
use crate::network::{GATEWAY, MTU, REGION, RESOLVER};
use crate::process;
use crate::state::Machine;

/// The folder with a file per machine; dnsmasq notices new ones.
fn hosts(layout: &Layout) -> PathBuf {
    layout.run().join("dhcp")
}

/// Starts the server. It dies with the process that started it.
pub fn start(layout: &Layout) -> Result<Child> {
    let hosts = hosts(layout);
    fs::create_dir_all(&hosts).with_context(|| format!("cannot create {}", hosts.display()))?;
    process::server(&layout.run().join("dhcp.log"))?
        .arg("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
        ])
        .args([
            "--log-facility=-",
            "--pid-file=",
            "--port=0",
            "--leasefile-ro",
        ])
        .args([
            "--interface=br0",
            "--bind-interfaces",
            "--dhcp-authoritative",
        ])
        .arg(format!("--dhcp-range={GATEWAY},static,255.255.255.0,1h"))
        .arg(format!("--dhcp-hostsdir={}", hosts.display()))
        .arg(format!("--dhcp-option=option:router,{GATEWAY}"))
        .arg(format!("--dhcp-option=option:mtu,{MTU}"))
        .arg(format!("--dhcp-option=option:dns-server,{RESOLVER}"))
        .arg(format!(
            "--dhcp-option=option:domain-name,{REGION}.compute.internal"
        ))
        .spawn()
        .context("cannot start dnsmasq: is the package dnsmasq-base installed?")
}

/// Reserves a machine's address for its network interface.
pub fn lease(layout: &Layout, machine: &Machine) -> Result<()> {
    let file = hosts(layout).join(&machine.name);
    let host = format!(
        "{},{},{}\n",
        machine.mac,
        machine.address,
        machine.hostname()
    );
    fs::write(&file, host).with_context(|| format!("cannot write {}", file.display()))
}
