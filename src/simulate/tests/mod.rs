//! Seeds by the thousand, and broken code that must be caught.
#![allow(clippy::unwrap_used, clippy::panic)]

mod broken;
mod variants;

use super::*;

fn simulation(control_planes: usize, workers: usize) -> Simulation {
    Simulation::new(Size {
        control_planes,
        workers,
    })
    .unwrap()
}

/// Plays seeds; none of them may break a law.
fn hold(size: (usize, usize), seeds: Range<u64>) -> Counts {
    let count = seeds.end - seeds.start;
    let (played, counts, broken) = simulation(size.0, size.1).play_all(seeds);
    if let Some(broken) = broken {
        panic!("{}", broken.report(60));
    }
    assert_eq!(played, count);
    counts
}

/// `make seeds` lets the released binary play ten times as many.
#[test]
fn a_thousand_seeds_found_one_cluster_each() {
    let mut sum = Counts::default();
    for (size, seeds) in [
        ((3, 1), 60),
        ((2, 1), 100),
        ((2, 0), 190),
        ((1, 1), 100),
        ((1, 0), 548),
        ((5, 2), 2),
    ] {
        sum.add(&hold(size, 0..seeds));
    }
    // A simulation in which nothing happens proves nothing.
    assert!(sum.takeovers > 50, "{sum:?}");
    assert!(sum.crashes > 500, "{sum:?}");
    assert!(sum.terminations > 200, "{sum:?}");
    assert!(sum.stops > 100, "{sum:?}");
    assert!(sum.refusals > 10, "{sum:?}");
    assert!(sum.started_over > 5, "{sum:?}");
    assert!(sum.healed > 3, "{sum:?}");
    assert!(sum.rewritten > 50, "{sum:?}");
    assert!(sum.restored > 10, "{sum:?}");
    assert!(sum.pods_started > 50, "{sum:?}");
}

/// Found among a million seeds, which are too many for every test run.
#[test]
fn seeds_that_once_broke_a_law_hold() {
    for (size, seed) in [
        ((2, 1), 2_722),
        ((2, 0), 15_274),
        ((1, 1), 16_949),
        ((1, 0), 20_829),
        ((2, 0), 900_548),
        ((2, 0), 186_833),
    ] {
        hold(size, seed..seed + 1);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..40 {
        // Each in its own thread, so that no thread-local state is carried over.
        let trace = || thread::spawn(move || simulation(3, 2).play(seed, true));
        let [one, two] = [trace(), trace()].map(|thread| thread.join().unwrap());
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!(one.counts, two.counts);
        assert!(one.trace.len() > 20, "{:?}", one.trace);
        let quiet = simulation(3, 2).play(seed, false);
        assert_eq!(quiet.counts, one.counts, "looking on changes what happens");
        assert_eq!(quiet.trace, Vec::<String>::new());
    }
}

#[test]
fn other_seeds_give_other_traces() {
    let simulation = simulation(3, 2);
    let [one, two] = [1, 2].map(|seed| simulation.play(seed, true).trace);
    assert_ne!(one, two);
}
