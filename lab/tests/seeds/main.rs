//! Thousands of simulated clusters, played by the released agent: `make seeds`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use lab::{layout::Layout, userdata::agent_binary};
use serde_json::Value;

/// Control planes, workers and seeds. Larger clusters cost more.
const SIZES: [(u64, u64, u64); 6] = [
    (3, 1, 600),
    (2, 1, 1_000),
    (2, 0, 1_900),
    (1, 1, 1_000),
    (1, 0, 5_480),
    (5, 2, 20),
];

/// What must have happened more often than this among all of them: a simulation in which nothing
/// happens proves nothing.
const HAPPENED: [(&str, u64); 10] = [
    ("takeovers", 500),
    ("crashes", 5_000),
    ("terminations", 2_000),
    ("stops", 1_000),
    ("refusals", 100),
    ("started_over", 60),
    ("healed", 40),
    ("rewritten", 500),
    ("restored", 200),
    ("pods_started", 500),
];

#[test]
fn ten_thousand_seeds_found_one_cluster_each() {
    let times = std::env::var("TIMES").map_or(1, |times| times.parse().unwrap());
    let agent = agent_binary(&Layout::find().unwrap()).unwrap();
    let mut sums = HAPPENED.map(|_| 0);
    let mut first = 0;
    for (control_planes, workers, seeds) in SIZES {
        let seeds = seeds * times;
        let options = [
            ("--control-planes", control_planes),
            ("--workers", workers),
            ("--seed", first),
            ("--seeds", seeds),
        ];
        let words = options.map(|(name, number)| format!("{name}={number}"));
        let played = Command::new(&agent)
            .args(["simulate", "--json"])
            .args(&words)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&played.stderr);
        assert!(played.status.success(), "{words:?}: {said}");
        let summary: Value = serde_json::from_slice(&played.stdout).unwrap();
        println!("{summary}");
        for (sum, (name, _)) in sums.iter_mut().zip(HAPPENED) {
            *sum += summary[name].as_u64().unwrap();
        }
        first += seeds;
    }
    for (sum, (name, more_than)) in sums.into_iter().zip(HAPPENED) {
        assert!(sum > more_than * times, "only {sum} {name}");
    }
}
