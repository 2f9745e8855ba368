//! A forward proxy, Debian's tinyproxy, for machines that reach the outside only through it.

use std::fs;

use anyhow::{Context, Result};
use tokio::process::Child;

use crate::layout::Layout;
use crate::network::{ARTIFACTS, OUTSIDE, PROXY, RESOLVER};
use crate::process;

const PORT: u16 = 3128;

/// With the VPC's resolver, which this machine's own does not know. The mounts end with the proxy.
const START: &str = "mount --bind \"$1/resolv.conf\" /etc/resolv.conf && \
                     mount --bind \"$1/nsswitch.conf\" /etc/nsswitch.conf && \
                     exec tinyproxy -d -c \"$1/tinyproxy.conf\"";

/// Starts the proxy. It dies with the process that started it.
pub fn start(layout: &Layout) -> Result<Child> {
    let folder = layout.run().join("proxy");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, text) in [
        ("resolv.conf", format!("nameserver {RESOLVER}\n")),
        ("nsswitch.conf", "hosts: files dns\n".to_owned()),
        (
            "tinyproxy.conf",
            format!("Listen {PROXY}\nPort {PORT}\nTimeout 600\nMaxClients 500\nLogLevel Connect\n"),
        ),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    process::server(&layout.proxy_log())?
        .args(["unshare", "--mount", "--", "sh", "-c", START, "proxy"])
        .arg(&folder)
        .spawn()
        .context("cannot start tinyproxy: is the package tinyproxy-bin installed?")
}

/// What points into the VPC in these settings or this URL, pointed to the same servers outside of
/// it: the agent never uses a proxy for private addresses.
pub fn outside(text: &str) -> String {
    text.replace(&ARTIFACTS.to_string(), &OUTSIDE.to_string())
}

/// The settings of a machine that reaches the outside only through the proxy.
pub fn settings() -> String {
    format!("[proxy]\nhttp = \"http://{PROXY}:{PORT}\"\nhttps = \"http://{PROXY}:{PORT}\"\n")
}
