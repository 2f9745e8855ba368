//! The tools that a machine needs to build components, and the Debian package of each.

use std::path::Path;

use anyhow::{Result, bail};

/// Something a build needs: a program found on `PATH`, or a file of a library.
struct Tool {
    name: &'static str,
    package: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "go",
        package: "golang-go (1.25 or later; else https://go.dev/dl)",
    },
    Tool {
        name: "gcc",
        package: "gcc",
    },
    Tool {
        name: "pkg-config",
        package: "pkg-config",
    },
    Tool {
        name: "curl",
        package: "curl",
    },
    Tool {
        name: "tar",
        package: "tar",
    },
    Tool {
        name: "gzip",
        package: "gzip",
    },
    Tool {
        name: "debootstrap",
        package: "debootstrap",
    },
    Tool {
        name: "skopeo",
        package: "skopeo",
    },
    Tool {
        name: "unshare",
        package: "util-linux",
    },
    Tool {
        name: "/usr/include/seccomp.h",
        package: "libseccomp-dev",
    },
    Tool {
        name: "/usr/include/stdlib.h",
        package: "libc6-dev",
    },
    Tool {
        name: "/usr/share/keyrings/debian-archive-keyring.gpg",
        package: "debian-archive-keyring",
    },
];

/// The Debian package of `program`, if builds use it.
pub fn package_of(program: &str) -> Option<&'static str> {
    TOOLS
        .iter()
        .find(|tool| tool.name == program)
        .map(|tool| tool.package)
}

/// # Errors
/// Names everything that is missing, with the command that installs it.
pub fn check() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = missing(|name| {
        if name.starts_with('/') {
            return Path::new(name).exists();
        }
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    });
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
        let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
        bail!(
            "building the lab's components needs {}, which this machine lacks; install: {}",
            names.join(", "),
            packages.join(" ")
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("building the lab's components needs root (debootstrap and chroot do); use sudo");
    }
    Ok(())
}

fn missing(have: impl Fn(&str) -> bool) -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| !have(tool.name)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_what_is_missing_is_named() {
        let packages: Vec<&str> = missing(|name| !name.contains("seccomp") && name != "skopeo")
            .iter()
            .map(|tool| tool.package)
            .collect();
        assert_eq!(packages, ["skopeo", "libseccomp-dev"]);
        assert!(missing(|_| true).is_empty());
    }
}
