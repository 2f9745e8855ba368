//! A worker asks for its ticket while its programs are still being fetched.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;

use super::Join;
use crate::{
    error::Result,
    ports::{JoinTicket, World},
    steps::{State, Step},
    wait::Notes,
};

/// A ticket that is older when the join begins is not used: half the time that its token is valid,
/// so that kubeadm has the other half.
const FRESH: Duration = Duration::from_mins(5);

/// Keeps a ticket until the join, in memory: an agent that starts again asks again.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<Option<(JoinTicket, Duration)>>>);

impl Kept {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<(JoinTicket, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, now: Duration) -> bool {
        let slot = self.slot();
        slot.as_ref()
            .is_some_and(|(_, since)| now.saturating_sub(*since) < FRESH)
    }

    /// Takes the ticket if it is fresh. A ticket serves one attempt.
    pub fn take(&self, now: Duration) -> Option<JoinTicket> {
        let (ticket, since) = self.slot().take()?;
        (now.saturating_sub(since) < FRESH).then_some(ticket)
    }
}

/// Two steps are equal whatever tickets they hold: a ticket is not part of the wanted state.
impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Kept {}

/// Gets a ticket for the join that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ticket {
    /// That join.
    join: Join,
}

impl Ticket {
    /// For this join of a worker. A control plane gets its ticket together with the join lock, so
    /// an early ticket would make other control planes wait.
    pub fn before(join: &Join) -> Self {
        Self { join: join.clone() }
    }
}

#[async_trait]
impl Step for Ticket {
    async fn check(&self, world: &World) -> Result<State> {
        let admitted = self.join.kept.is_fresh(world.clock.elapsed());
        if admitted || self.join.missing(world).await?.is_none() {
            return Ok(State::AsWanted);
        }
        Ok(State::Differs(
            "no control plane has admitted this node yet".to_owned(),
        ))
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        let ticket = self.join.admission(world, notes).await?;
        *self.join.kept.slot() = Some((ticket, world.clock.elapsed()));
        Ok(())
    }
}
