//! What a process remembers of Leases from one read to the next.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The state of a held Lease, as read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// The instance id of the control plane that holds it.
    pub holder: String,
    /// When its holder last renewed it, by the holder's own clock: only useful to see that it
    /// changed.
    pub renewed: String,
    /// How long it is valid without renewal.
    pub duration: Duration,
}

/// When this process first saw each Lease in its current state.
///
/// All users of Leases in one process share it: each read by one of them counts for all.
#[derive(Debug, Default)]
pub struct LeaseMemory(Mutex<BTreeMap<&'static str, (LeaseState, Duration)>>);

impl LeaseMemory {
    /// Records the current state of the Lease with this name; returns how long it has been
    /// unchanged.
    pub fn unchanged_for(&self, name: &'static str, state: &LeaseState, now: Duration) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, since) = seen.entry(name).or_insert_with(|| (state.clone(), now));
        if before != state {
            (*before, *since) = (state.clone(), now);
        }
        now.saturating_sub(*since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_holder_or_time_restarts_the_count() {
        let memory = LeaseMemory::default();
        let state = |holder: &str, renewed: &str| LeaseState {
            holder: holder.to_owned(),
            renewed: renewed.to_owned(),
            duration: Duration::from_mins(1),
        };
        let unchanged = |state: &LeaseState, now: u64| {
            let unchanged = memory.unchanged_for("a", state, Duration::from_secs(now));
            unchanged.as_secs()
        };
        assert_eq!(unchanged(&state("i-1", "noon"), 100), 0);
        assert_eq!(unchanged(&state("i-1", "noon"), 130), 30);
        assert_eq!(unchanged(&state("i-1", "later"), 140), 0);
        assert_eq!(unchanged(&state("i-2", "later"), 150), 0);
        assert_eq!(unchanged(&state("i-2", "later"), 151), 1);
        let other = memory.unchanged_for("b", &state("i-2", "later"), Duration::from_secs(200));
        assert_eq!(other, Duration::ZERO);
    }
}
