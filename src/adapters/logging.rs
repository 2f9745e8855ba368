//! The destination of the agent's events: the journal with fields, or stderr.
//!
//! The error that ends a command is not an event: `main` prints it to stderr. Under systemd the
//! journal attributes that stream to the unit even if the process has ended, which it does not do
//! for single messages, and the unit file also sends it to the console.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The variable that selects what is logged, in the directives of `tracing-subscriber`'s
/// [`Targets`]: `debug`, `info,k8s_bootstrap=debug`.
pub const VARIABLE: &str = "K8S_BOOTSTRAP_LOG";

/// Under systemd, events go to the journal with their fields; elsewhere to stderr.
pub fn start() {
    let asked = std::env::var(VARIABLE).ok();
    let (filter, mistake) = filter(asked.as_deref());
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
    if let Some(mistake) = mistake {
        tracing::warn!("{mistake}");
    }
}

/// What to log. A mistake in the variable must neither silence the agent nor stop it.
fn filter(asked: Option<&str>) -> (Targets, Option<String>) {
    // kube logs each refused connection as an error; the wait that sees it reports it better.
    let usual = || {
        Targets::new()
            .with_default(LevelFilter::INFO)
            .with_target("kube_client", LevelFilter::OFF)
    };
    match asked.map(str::parse::<Targets>) {
        None => (usual(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(cause)) => (
            usual(),
            Some(format!(
                "{VARIABLE} is ignored because it is invalid: {cause}"
            )),
        ),
    }
}

/// systemd sets this if stdout or stderr is connected to the journal.
fn under_systemd() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some() && std::env::var_os("NOTIFY_SOCKET").is_some()
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn each_target_has_the_requested_level() {
        let (filter, mistake) = filter(Some("warn,k8s_bootstrap=debug"));
        assert_eq!(mistake, None);
        assert!(filter.would_enable("k8s_bootstrap::agent", &Level::DEBUG));
        assert!(!filter.would_enable("hyper", &Level::INFO));
    }

    #[test]
    fn an_invalid_filter_is_reported_and_the_default_applies() {
        let (filter, mistake) = filter(Some("k8s_bootstrap=loud"));
        assert!(mistake.is_some_and(|said| said.contains(VARIABLE)));
        assert!(filter.would_enable("k8s_bootstrap::agent", &Level::INFO));
        assert!(!filter.would_enable("kube_client::client", &Level::ERROR));
    }
}
