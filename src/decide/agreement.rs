//! Requires several observations to agree if one alone could mislead.

use std::time::Duration;

use super::{Decision, Grounds};

/// Answers of EC2 and the store can be some seconds old, or lack an instance that exists. A
/// decision that rests on such a gap must follow from every observation for this long.
const AGREED: Duration = Duration::from_mins(3);

/// Same for a stopped founder, which somebody may start again.
const STOPPED: Duration = Duration::from_mins(10);

/// The least number of observations that must agree.
const LEAST: u32 = 5;

/// What the last observations agree on; empty if they do not agree.
#[derive(Debug, Default)]
pub struct Agreement(Option<Opinion>);

#[derive(Debug)]
struct Opinion {
    decision: Decision,
    since: Duration,
    observations: u32,
}

impl Agreement {
    /// The decision of this observation, or a wait until enough observations agree. `now` is the
    /// monotonic clock's time.
    ///
    /// These must wait: a refusal ends the agent until a person acts, a founder that EC2 does not
    /// list may be alive, and a node that starts over keeps nothing. The next observation can
    /// reverse everything else.
    pub fn weigh(&mut self, decision: Decision, now: Duration) -> Decision {
        let Some((why, enough)) = to_agree_on(&decision) else {
            self.0 = None;
            return decision;
        };
        let why = why.to_owned();
        let opinion = match self.0.take() {
            Some(before) if before.decision == decision => Opinion {
                observations: before.observations + 1,
                ..before
            },
            _ => Opinion {
                decision: decision.clone(),
                since: now,
                observations: 1,
            },
        };
        let agreed = opinion.observations >= LEAST && opinion.since + enough <= now;
        self.0 = Some(opinion);
        if agreed {
            return decision;
        }
        Decision::Wait {
            why: format!(
                "{why}; this takes effect once all observations of {} s agree",
                enough.as_secs()
            ),
        }
    }
}

/// What observations must agree on, and for how long.
fn to_agree_on(decision: &Decision) -> Option<(&str, Duration)> {
    match decision {
        Decision::Refuse { why, .. } | Decision::StartOver { why } => Some((why, AGREED)),
        Decision::Claim { why, grounds, .. } => match grounds {
            Grounds::Fact => None,
            Grounds::Absence => Some((why, AGREED)),
            Grounds::Stopped => Some((why, STOPPED)),
        },
        Decision::Found { .. } | Decision::Join { .. } | Decision::Wait { .. } => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(why: &str) -> Decision {
        Decision::Refuse {
            why: why.to_owned(),
            remedy: String::new(),
        }
    }

    fn takeover(grounds: Grounds) -> Decision {
        Decision::Claim {
            number: 2,
            why: "i-1 is gone".to_owned(),
            grounds,
        }
    }

    /// Weighs decisions at these seconds; returns the seconds at which they pass unchanged.
    fn passed(observations: &[(u64, Decision)]) -> Vec<u64> {
        let mut agreement = Agreement::default();
        let mut passed = Vec::new();
        for (second, decision) in observations {
            let now = Duration::from_secs(1_000_000 + second);
            if agreement.weigh(decision.clone(), now) == *decision {
                passed.push(*second);
            }
        }
        passed
    }

    fn every_minute(decision: &Decision) -> Vec<(u64, Decision)> {
        (0..6).map(|n| (n * 60, decision.clone())).collect()
    }

    #[test]
    fn what_may_rest_on_a_gap_takes_effect_once_observations_agree() {
        let found = Decision::Found {
            cluster_uid: "uid".to_owned(),
        };
        let start_over = Decision::StartOver {
            why: "i-1 is gone".to_owned(),
        };
        for (case, decision, expected) in [
            ("a refusal", refusal("a"), vec![240, 300]),
            ("starting over", start_over, vec![240, 300]),
            (
                "a takeover from an instance that is not listed",
                takeover(Grounds::Absence),
                vec![240, 300],
            ),
            (
                "a takeover from a terminated instance",
                takeover(Grounds::Fact),
                vec![0, 60, 120, 180, 240, 300],
            ),
            ("founding", found, vec![0, 60, 120, 180, 240, 300]),
        ] {
            assert_eq!(passed(&every_minute(&decision)), expected, "{case}");
        }
    }

    #[test]
    fn many_observations_within_a_moment_are_no_agreement() {
        let observations: Vec<_> = (0..100).map(|second| (second, refusal("a"))).collect();
        assert_eq!(passed(&observations), Vec::<u64>::new());
    }

    #[test]
    fn a_different_observation_starts_the_agreement_again() {
        let mut observations = every_minute(&refusal("a"));
        observations[3].1 = refusal("b");
        assert_eq!(passed(&observations), Vec::<u64>::new());
        observations[3].1 = Decision::Wait { why: String::new() };
        // The wait itself passes.
        assert_eq!(passed(&observations), [180]);
    }
}
