//! What this build is: its version, its commit, and whether it is published.
//!
//! `make dist` provides both variables when it compiles. Other builds have neither.

/// Where exactly this binary is published; `None` for a build that is not a release.
pub const URL: Option<&str> = option_env!("K8S_BOOTSTRAP_URL");

/// The commit that this binary was built from.
const COMMIT: Option<&str> = option_env!("K8S_BOOTSTRAP_COMMIT");

/// The version with commit and target, on a line each.
pub fn describe() -> String {
    let libc = if cfg!(target_env = "musl") {
        "musl"
    } else {
        "gnu"
    };
    format!(
        "k8s-bootstrap {}\ncommit: {}\ntarget: {}-{}-{libc}\npublished: {}",
        env!("CARGO_PKG_VERSION"),
        COMMIT.unwrap_or("unknown, not built by `make dist`"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        URL.unwrap_or("no"),
    )
}
