//! Notifications to systemd: READY, STATUS and the watchdog.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::{sync::watch, time::interval};
use tracing::warn;

use crate::report::Status;

/// Does nothing outside of a unit.
fn status(line: &str) {
    notify(&[NotifyState::Status(line)]);
}

/// Tells systemd that the service is up: it listens and knows its identity. The node comes later.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that the service is stopping.
pub fn stopping(line: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(line)]);
}

/// Keeps STATUS= up to date and the watchdog alive until the process ends. Both run in the same
/// task as the agent's own work: if that ever blocks, the watchdog gets no notification.
pub async fn follow(mut status: watch::Receiver<Status>) {
    let mut alive = watchdog_interval().map(interval);
    loop {
        let line = status.borrow_and_update().line();
        self::status(&line);
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = async {
                match &mut alive {
                    Some(alive) => { alive.tick().await; }
                    None => std::future::pending().await,
                }
            } => notify(&[NotifyState::Watchdog]),
        }
    }
}

/// How often the watchdog must be notified; `None` if it is off.
fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 3)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(error = error.to_string(), "cannot notify systemd");
    }
}
