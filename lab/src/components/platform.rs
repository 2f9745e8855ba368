//! The machine's architecture under its various names. The lab's machines are containers, so they
//! have the host's.

/// As in Go, container images and Debian packages.
#[cfg(target_arch = "x86_64")]
pub const ARCH: &str = "amd64";
/// As in Go, container images and Debian packages.
#[cfg(target_arch = "aarch64")]
pub const ARCH: &str = "arm64";
/// Debian's folder of libraries under /usr/lib.
#[cfg(target_arch = "x86_64")]
pub const LIBRARIES: &str = "x86_64-linux-gnu";
/// Debian's folder of libraries under /usr/lib.
#[cfg(target_arch = "aarch64")]
pub const LIBRARIES: &str = "aarch64-linux-gnu";
