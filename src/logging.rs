//! Where the agent's events go: the journal with fields, or stderr.
//!
//! The error that ends a command is not an event: `main` prints it to stderr. Under
//! systemd that is a stream which the journal attributes to the unit even when the
//! process is gone by then, as it does not for single messages, and which the unit
//! file sends to the console too.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// The variable that chooses what is logged, in `tracing-subscriber`'s directives: `debug`, `k8s_bootstrap=trace`.
pub const VARIABLE: &str = "K8S_BOOTSTRAP_LOG";

/// Under systemd: events go to the journal as they are, with their fields. Elsewhere
/// they go to stderr.
pub fn start() {
    // kube logs each refused connection as an error; the wait that sees it says so better.
    let directives = std::env::var(VARIABLE).unwrap_or_else(|_| "info,kube_client=off".to_owned());
    let filter = EnvFilter::builder().parse_lossy(directives);
    let journal = under_systemd()
        .then(|| tracing_journald::layer().ok())
        .flatten()
        .map(|layer| layer.with_field_prefix(None));
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
    });
    tracing_subscriber::registry()
        .with(filter)
        .with(journal)
        .with(stderr)
        .init();
}

/// systemd sets this where stdout or stderr is connected to the journal.
fn under_systemd() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some() && std::env::var_os("NOTIFY_SOCKET").is_some()
}
