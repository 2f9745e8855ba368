//! The certificates of a running node: checked in every cycle, renewed when due.

use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use crate::{
    certificates::{Inventory, due::ending_authorities},
    config::Settings,
    error::Result,
    identity::Identity,
    kubernetes::lease::{Holder, RENEWAL_LOCK},
    plan,
    ports::{Role, World},
    runner::Runner,
    steps::{
        State, Step,
        renewal::{Renewal, Which},
    },
};

/// How often the same warning is repeated in the journal.
const REMINDER: Duration = Duration::from_hours(24);

/// When the last warning was logged, kept from cycle to cycle.
#[derive(Debug, Default)]
pub struct Warnings {
    warned: Option<Timestamp>,
}

impl Warnings {
    /// What a person must know about the CAs; logged once a day.
    pub fn troubles(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<String> {
        let troubles = ending_authorities(inventory, now);
        let due = self.warned.is_none_or(|last| now >= last + REMINDER);
        if due && !troubles.is_empty() {
            self.warned = Some(now);
            for trouble in &troubles {
                warn!(
                    HINT = "docs/operations.md, \"Renewing the CA\"",
                    "{trouble}"
                );
            }
        }
        troubles
    }
}

/// Renews what is due on this control plane, if it gets the lock.
///
/// A failed renewal keeps the lock, so that its cause breaks no other control plane. Certificates
/// that are already useless do not wait for the lock: a phase of each cycle renews them, see
/// [`plan::each_cycle`].
pub async fn renew(
    world: &World,
    runner: &Runner,
    settings: &Settings,
    me: &Identity,
) -> Result<()> {
    if me.role != Role::ControlPlane {
        return Ok(());
    }
    let step = Renewal::new(Which::Due, settings, me);
    if step.check(world).await? == State::AsWanted {
        return Ok(());
    }
    if RENEWAL_LOCK.take(world, &me.instance_id).await? != Holder::Me {
        return Ok(());
    }
    runner
        .run(&plan::certificates_renewal(settings, me))
        .await?;
    RENEWAL_LOCK.release(world, &me.instance_id).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{FakeWorld, Pki, control_plane, settings};

    #[test]
    fn an_expiring_ca_is_warned_about_once_a_day() {
        let inventory = Inventory::of(&Pki::new().on_disk());
        let mut upkeep = Warnings::default();
        let now: Timestamp = "2035-06-01T00:00:00Z".parse().unwrap();
        assert_eq!(upkeep.troubles(&inventory, now).len(), 3);
        assert_eq!(upkeep.warned, Some(now));
        let later = now + Duration::from_hours(23);
        assert_eq!(upkeep.troubles(&inventory, later).len(), 3);
        assert_eq!(upkeep.warned, Some(now));
        let next = now + REMINDER;
        upkeep.troubles(&inventory, next);
        assert_eq!(upkeep.warned, Some(next));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_renewed_while_another_control_plane_renews() {
        let fake = FakeWorld::new().with_certificates(&Pki::between(
            "2026-01-01T00:00:00Z",
            "2026-12-01T00:00:00Z",
        ));
        let world = fake.ports();
        RENEWAL_LOCK.take(&world, "i-2").await.unwrap();
        let me = control_plane("i-1");
        let journal = crate::journal::Journal::new("i-1");
        let runner = Runner::new(world.clone(), journal);
        renew(&world, &runner, &settings(), &me).await.unwrap();
        assert!(fake.commands.ran().is_empty());
        RENEWAL_LOCK.release(&world, "i-2").await.unwrap();
        // kubeadm does nothing in this test, so the renewal fails and keeps the lock.
        let renewed = renew(&world, &runner, &settings(), &me).await;
        assert!(renewed.is_err());
        assert!(!fake.commands.ran().is_empty());
        let other = RENEWAL_LOCK.take(&world, "i-2").await.unwrap();
        assert_eq!(other, Holder::Other("i-1".to_owned()));
    }
}
