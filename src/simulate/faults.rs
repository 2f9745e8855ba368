//! What goes wrong, and how often: drawn from the seed.

use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

/// The random numbers of a simulation: the same seed gives the same numbers on every machine.
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// The dice of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// A random number in 0..1.
    pub fn fraction(&mut self) -> f64 {
        self.0.random()
    }

    /// A random number.
    pub fn number(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A random duration up to `longest`, in whole milliseconds.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.0.random_range(0..=longest))
    }

    /// One of 0..count; `None` if `count` is 0.
    pub fn below(&mut self, count: usize) -> Option<usize> {
        (count > 0).then(|| self.0.random_range(0..count))
    }

    /// One of the choices; `otherwise` if there are none.
    pub fn one_of<T: Copy>(&mut self, choices: &[T], otherwise: T) -> T {
        let index = self.below(choices.len());
        index
            .and_then(|index| choices.get(index).copied())
            .unwrap_or(otherwise)
    }
}

/// The faults of a simulation. Each seed has some of them, some often and some seldom, so that none
/// hides another.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The longest time that a call takes to arrive, and its answer to return.
    pub latency: Duration,
    /// Calls that are throttled.
    pub throttled: f64,
    /// Calls that take effect but lose their answer.
    pub lost: f64,
    /// Stale answers of the store, up to [`Self::store_lag`] old.
    pub stale_store: f64,
    /// Maximum age of a stale answer of the store.
    pub store_lag: Duration,
    /// Stale answers of EC2, up to [`Self::ec2_lag`] old.
    pub stale_ec2: f64,
    /// Maximum age of a stale answer of EC2.
    pub ec2_lag: Duration,
    /// Answers of EC2 that omit an existing instance.
    pub incomplete: f64,
    /// How long after a launch EC2 may not list the instance yet.
    pub listed_late: Duration,
    /// How much longer the tag with its role may be missing.
    pub tagged_late: Duration,
    /// Processes that crash at a call or a write, before or after it.
    pub crash: f64,
    /// Writes to the disk that fail.
    pub disk: f64,
    /// Launches that reuse the address, and so the name, of a terminated instance.
    pub reuse: f64,
    /// The bucket of a service that refuses all calls, as after its permission was removed.
    pub denied: Option<usize>,
}

impl Faults {
    /// No faults.
    pub fn none() -> Self {
        Self {
            latency: Duration::from_millis(50),
            ..Self::default()
        }
    }

    /// The faults of a seed. A store's answers may lag by more than [`decide`](crate::decide)
    /// allows for: then an agent may refuse without need, and nothing worse.
    pub fn drawn(dice: &mut Dice) -> Self {
        let mut often = |choices: &[f64]| dice.one_of(choices, 0.0);
        let (throttled, lost) = (often(&[0.0, 0.02, 0.3]), often(&[0.0, 0.05, 0.4]));
        let (stale_store, stale_ec2) = (often(&[0.0, 0.1, 0.6]), often(&[0.0, 0.1, 0.6]));
        let (incomplete, crash) = (often(&[0.0, 0.0, 0.1]), often(&[0.0, 0.002, 0.02]));
        let (disk, reuse) = (often(&[0.0, 0.0, 0.05]), often(&[0.0, 0.0, 1.0]));
        let mut seconds = |choices: &[u64]| Duration::from_secs(dice.one_of(choices, 0));
        Self {
            throttled,
            lost,
            stale_store,
            stale_ec2,
            incomplete,
            crash,
            disk,
            reuse,
            denied: None,
            latency: Duration::from_millis(20) + seconds(&[0, 1, 8]),
            store_lag: seconds(&[3, 45, 45, 400]),
            ec2_lag: seconds(&[5, 90]),
            listed_late: seconds(&[0, 10, 120]),
            tagged_late: seconds(&[0, 0, 60]),
        }
    }
}
