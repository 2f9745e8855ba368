//! `simulate`: a summary, a reproducible trace, wrong usage.

use crate::k8s_bootstrap;

#[test]
fn seeds_are_run_and_summarized() {
    let summary = k8s_bootstrap(&["simulate", "--seed", "5", "--seeds", "20"]).printed();
    assert!(
        summary
            .starts_with("20 seeds from 5, 3 control planes and 2 workers each: every law holds\n"),
        "{summary}"
    );
    assert!(summary.contains(" ms a seed\n"), "{summary}");
}

#[test]
fn the_summary_is_printed_as_json() {
    let args = [
        "simulate",
        "--control-planes",
        "2",
        "--workers",
        "0",
        "--json",
    ];
    let summary = k8s_bootstrap(&args).printed();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["control_planes"], 2);
    assert_eq!(summary["first_seed"], 1);
    assert_eq!(summary["seeds"], 1);
    assert!(summary["instances"].as_u64() >= Some(2), "{summary}");
    assert!(summary["milliseconds_a_seed"].is_number(), "{summary}");
}

#[test]
fn two_processes_print_the_same_trace_for_the_same_seed() {
    let args = ["simulate", "--seed", "11", "--seeds", "3", "--trace"];
    let trace = k8s_bootstrap(&args).printed();
    assert_eq!(trace, k8s_bootstrap(&args).printed());
    for part in ["is launched as control-plane", "decides: ", "is up: "] {
        assert!(trace.contains(part), "`{part}` is not in\n{trace}");
    }
}

#[test]
fn there_is_no_cluster_without_a_control_plane() {
    k8s_bootstrap(&["simulate", "--control-planes", "0"]).failed(2, &["--control-planes"]);
    k8s_bootstrap(&["simulate", "--trace", "--json"]).failed(2, &["--trace", "--json"]);
}
