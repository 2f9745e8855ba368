//! systemd's view: READY, STATUS and the watchdog.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// Tells systemd; nothing happens outside of a unit.
pub fn status(line: &str) {
    notify(&[NotifyState::Status(line)]);
}

/// Tells systemd that the service is up: it listens and knows who it is. The node comes later.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that the service ends.
pub fn stopping(line: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(line)]);
}

/// Tells systemd that the loop still turns.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How often the watchdog must hear from us; `None` where it is off.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 3)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(error = error.to_string(), "cannot notify systemd");
    }
}
