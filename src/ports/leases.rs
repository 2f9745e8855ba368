//! What a process remembers of Leases between two looks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A Lease that somebody holds, as one look found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// Who holds it.
    pub holder: String,
    /// When its holder renewed it last, in the words of the holder's clock: only good to see
    /// that it changed.
    pub renewed: String,
    /// How long it holds without being renewed.
    pub duration: Duration,
}

/// When this process first saw each Lease as it is now.
///
/// Everybody who asks for a Lease in one process shares it: each look of one of them counts
/// for all.
#[derive(Debug, Default)]
pub struct LeaseMemory(Mutex<BTreeMap<&'static str, (LeaseState, Duration)>>);

impl LeaseMemory {
    /// Notes how the Lease of this name was found, and says for how long it has been so.
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
    fn every_change_of_holder_or_time_begins_to_count_again() {
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
