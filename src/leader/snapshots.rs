//! Takes a backup when one is due: on the control plane that leads.
//!
//! The time of the last backup is read from the destination itself, so a new leader continues where
//! the old one stopped. If there are briefly two leaders, the result is only an extra backup.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::{
    config,
    error::Result,
    leader::{self, Leader},
    ports::{Place, World},
    report::SnapshotReport,
    snapshots::{self, Subject, Taken},
    wait::schedules::BACKUP,
};

/// What one control plane remembers from cycle to cycle.
#[derive(Debug)]
pub struct Schedule {
    place: Place,
    every: Duration,
    keep: usize,
    /// The time of the next attempt; `None` to try now.
    next: Option<Timestamp>,
    report: SnapshotReport,
}

impl Schedule {
    /// `None` if no destination is set.
    pub fn new(settings: &config::Snapshots) -> Result<Option<Self>> {
        if settings.to.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            place: Place::parse(&settings.to)?,
            every: Duration::from_secs(settings.every),
            keep: settings.keep,
            next: None,
            report: SnapshotReport {
                to: settings.to.clone(),
                ..SnapshotReport::default()
            },
        }))
    }

    /// Takes a backup if one is due and this instance leads; returns the report of a leader.
    pub async fn cycle(&mut self, world: &World, subject: Subject<'_>) -> Option<SnapshotReport> {
        let now = world.clock.now();
        match leader::lead(world, subject.instance).await {
            Ok(Leader::Me) => {}
            // The next leader reads the destination itself, and so does this one if it leads again.
            Ok(Leader::Other(_)) => {
                self.next = None;
                return None;
            }
            Err(error) => {
                warn!(HINT = error.remedy(), "{}", error.one_line());
                return Some(self.report.clone());
            }
        }
        if self.next.is_none_or(|next| now >= next) {
            let outcome = self.take_if_due(world, subject).await;
            self.remember(now, outcome);
        }
        Some(self.report.clone())
    }

    /// Takes a backup unless the destination has one that is young enough.
    async fn take_if_due(&mut self, world: &World, subject: Subject<'_>) -> Result<Option<Taken>> {
        let newest = snapshots::newest(world, &self.place, subject.cluster_uid).await?;
        if let Some(taken) = newest.and_then(|name| name.taken()) {
            self.report.last_good = Some(taken);
            if world.clock.now() < taken + self.every {
                return Ok(None);
            }
        }
        snapshots::take(world, &self.place, self.keep, subject)
            .await
            .map(Some)
    }

    fn remember(&mut self, now: Timestamp, outcome: Result<Option<Taken>>) {
        match outcome {
            Ok(taken) => {
                if let Some(taken) = taken {
                    info!(BYTES = taken.bytes, "took the backup {}", taken.name);
                    self.report.last_good = Some(taken.time);
                    self.report.bytes = taken.bytes;
                }
                self.report.trouble.clear();
                self.next = self.report.last_good.map(|last| last + self.every);
            }
            Err(error) => {
                warn!(HINT = error.remedy(), "{}", error.one_line());
                self.report.failures += 1;
                self.report.trouble = error.one_line();
                self.next = Some(now + BACKUP);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{FakeWorld, Pki};

    const EVERY: u64 = 3600;

    fn subject(instance: &str) -> Subject<'_> {
        Subject {
            cluster: "demo",
            cluster_uid: "uid",
            instance,
            kubernetes: "1.36.3",
        }
    }

    fn founded() -> FakeWorld {
        let fake = FakeWorld::new().with_pki(&Pki::new());
        fake.etcd.voter("a", 10);
        fake
    }

    fn schedule() -> Schedule {
        let settings = config::Snapshots {
            to: "file:///backups".to_owned(),
            kms_key: String::new(),
            every: EVERY,
            keep: 2,
        };
        Schedule::new(&settings).unwrap().unwrap()
    }

    async fn backups(fake: &FakeWorld) -> usize {
        let place = Place::Folder("/backups".into());
        let files = fake.ports().archive.list(&place, "uid").await.unwrap();
        // Each backup has three files.
        files.len() / 3
    }

    async fn pass(fake: &FakeWorld, seconds: u64) {
        fake.ports().clock.sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_is_taken_at_once_and_then_when_it_is_due() {
        let fake = founded();
        let mut schedule = schedule();
        let world = fake.ports();
        let first = schedule.cycle(&world, subject("i-1")).await.unwrap();
        assert_eq!(
            (first.last_good, first.failures),
            (Some(world.clock.now()), 0)
        );
        assert!(first.bytes > 0);
        pass(&fake, EVERY / 2).await;
        schedule.cycle(&world, subject("i-1")).await;
        assert_eq!(backups(&fake).await, 1);
        pass(&fake, EVERY / 2).await;
        schedule.cycle(&world, subject("i-1")).await;
        assert_eq!(backups(&fake).await, 2);
        pass(&fake, EVERY).await;
        schedule.cycle(&world, subject("i-1")).await;
        assert_eq!(backups(&fake).await, 2, "the oldest is deleted");
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_takes_none_and_a_new_leader_continues_the_schedule() {
        let fake = founded();
        let world = fake.ports();
        let (mut one, mut two) = (schedule(), schedule());
        one.cycle(&world, subject("i-1")).await.unwrap();
        assert_eq!(two.cycle(&world, subject("i-2")).await, None);
        // The first one's Lease expires.
        pass(&fake, 600).await;
        let report = two.cycle(&world, subject("i-2")).await.unwrap();
        assert!(report.last_good.is_some(), "it found the other's backup");
        assert_eq!(backups(&fake).await, 1);
        pass(&fake, EVERY - 600).await;
        two.cycle(&world, subject("i-2")).await.unwrap();
        assert_eq!(backups(&fake).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_counted_reported_and_retried_after_a_pause() {
        let fake = FakeWorld::new().with_pki(&Pki::new());
        let world = fake.ports();
        let mut schedule = schedule();
        let failed = schedule.cycle(&world, subject("i-1")).await.unwrap();
        assert_eq!(failed.failures, 1);
        assert!(failed.trouble.contains("file:///backups"), "{failed:?}");
        fake.etcd.voter("a", 10);
        let paused = schedule.cycle(&world, subject("i-1")).await.unwrap();
        assert_eq!((paused.failures, backups(&fake).await), (1, 0));
        pass(&fake, BACKUP.as_secs()).await;
        let repaired = schedule.cycle(&world, subject("i-1")).await.unwrap();
        assert_eq!((repaired.failures, repaired.trouble.as_str()), (1, ""));
        assert_eq!(backups(&fake).await, 1);
    }

    #[test]
    fn backups_are_off_until_they_have_a_destination() {
        let settings = config::Snapshots {
            to: String::new(),
            kms_key: String::new(),
            every: EVERY,
            keep: 2,
        };
        assert!(Schedule::new(&settings).unwrap().is_none());
    }
}
