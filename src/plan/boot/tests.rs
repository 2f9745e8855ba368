//! The boot as lists, and what must hold for each of them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;
use crate::{
    config::{Fragment, load},
    kubernetes::paths,
    testing::{control_plane, machine, worker},
};

fn plan(me: &Identity, origin: Origin, settings: &Settings) -> Vec<Phase<Action>> {
    let memory = Memory {
        membership: Some(Membership {
            cluster_uid: "uid".to_owned(),
            origin,
        }),
        settled: None,
    };
    let mut phases = host(settings, me).unwrap();
    phases.extend(cluster(settings, me, &machine(), &memory).unwrap());
    phases
}

fn every_plan(settings: &Settings) -> [Vec<Phase<Action>>; 3] {
    [
        plan(&control_plane("i-1"), Origin::Founded, settings),
        plan(&control_plane("i-1"), Origin::Joined, settings),
        plan(&worker("i-1"), Origin::Joined, settings),
    ]
}

fn names(phases: &[Phase<Action>]) -> Vec<&str> {
    phases.iter().map(|phase| phase.name.as_str()).collect()
}

#[test]
fn each_phase_depends_only_on_phases_above_it() {
    for settings in [load(&[]).unwrap(), without_preloading(), with_bundle()] {
        for phases in every_plan(&settings) {
            let mut above = BTreeSet::new();
            for phase in &phases {
                for name in &phase.after {
                    assert!(above.contains(name.as_str()), "{} after {name}", phase.name);
                }
                assert!(
                    above.insert(phase.name.as_str()),
                    "{} is listed twice",
                    phase.name
                );
                assert!(
                    phase.deadline_seconds > 0 && !phase.why.is_empty(),
                    "{}",
                    phase.name
                );
            }
        }
    }
}

fn without_preloading() -> Settings {
    load(&[Fragment::parse("f", "images.preload = false").unwrap()]).unwrap()
}

#[test]
fn every_plan_ends_with_a_ready_node() {
    let [mut founder, control_plane, worker] = every_plan(&load(&[]).unwrap());
    // The founder's last phase comes after all the others.
    let last = founder.pop().unwrap();
    assert_eq!(last.name, "settle-cluster");
    assert_eq!(last.after.len(), founder.len() - host_phases());
    for phases in [founder, control_plane, worker] {
        assert_eq!(phases.last().unwrap().name, "node-ready");
    }
}

fn host_phases() -> usize {
    host(&load(&[]).unwrap(), &control_plane("i-1"))
        .unwrap()
        .len()
}

#[test]
fn a_worker_has_no_phases_of_a_control_plane() {
    let phases = plan(&worker("i-1"), Origin::Joined, &load(&[]).unwrap());
    assert_eq!(
        names(&phases),
        [
            "preflight",
            "kernel",
            "sysctl",
            "swap",
            "hosts",
            "foreign-networks",
            "pod-limits",
            "artifact-containerd",
            "artifact-runc",
            "artifact-cni-plugins",
            "artifact-kubelet",
            "artifact-kubeadm",
            "containerd",
            "kubelet-unit",
            "images",
            "kubeadm-config",
            "join-ticket",
            "kubeadm-join",
            "kubelet-certificate",
            "uncordon",
            "node-ready",
        ]
    );
}

/// All predecessors of a phase, direct or not, and the phase itself.
fn needed_by<'a>(phases: &'a [Phase<Action>], name: &'a str) -> BTreeSet<&'a str> {
    let mut needs = vec![name];
    let mut all = BTreeSet::new();
    while let Some(name) = needs.pop() {
        if all.insert(name) {
            let phase = phases.iter().find(|phase| phase.name == name).unwrap();
            needs.extend(phase.after.iter().map(String::as_str));
        }
    }
    all
}

#[test]
fn a_worker_is_admitted_and_its_units_are_read_while_it_downloads() {
    let phases = plan(&worker("i-1"), Origin::Joined, &load(&[]).unwrap());
    for name in ["join-ticket", "kubelet-unit", "pod-limits"] {
        let before = needed_by(&phases, name);
        let waits = before.iter().find(|n| n.starts_with("artifact-"));
        assert_eq!(waits, None, "{name}");
    }
    let before = needed_by(&phases, "kubeadm-join");
    for name in [
        "join-ticket",
        "containerd",
        "artifact-kubelet",
        "artifact-kubeadm",
        "kubelet-unit",
    ] {
        assert!(before.contains(name), "{name}");
    }
    // No part of a worker's start waits for images: the kubelet pulls what is still missing.
    assert!(!before.contains("images"));
}

#[test]
fn every_control_plane_is_marked_and_has_the_config_for_uploading_certificates() {
    for phases in every_plan(&load(&[]).unwrap()) {
        let joins_as_control_plane_or_founds = names(&phases).contains(&"no-blanket-approval");
        let written = phases.iter().any(|phase| {
            matches!(&phase.step, Action::ConfigFiles(step) if step.files.contains_key(paths::INIT_CONFIG))
        });
        assert_eq!(written, joins_as_control_plane_or_founds);
        let marked = names(&phases).contains(&"kubeadm-mark-control-plane");
        assert_eq!(marked, joins_as_control_plane_or_founds);
    }
}

#[test]
fn a_control_plane_waits_for_its_own_images_and_no_others() {
    for origin in [Origin::Founded, Origin::Joined] {
        let last = match origin {
            Origin::Founded => "kubeadm-kubelet-start",
            Origin::Joined => "kubeadm-join",
        };
        let phases = plan(&control_plane("i-1"), origin, &load(&[]).unwrap());
        let before = needed_by(&phases, last);
        assert!(before.contains("images-control-plane") && !before.contains("images"));
        let phases = plan(&control_plane("i-1"), origin, &without_preloading());
        assert!(!needed_by(&phases, last).contains("images-control-plane"));
    }
}

fn with_bundle() -> Settings {
    let text = format!(
        "bundle = {{ url = 'file:///b.tar', sha256 = {{ amd64 = '{}' }} }}",
        "0".repeat(64)
    );
    load(&[Fragment::parse("c", &text).unwrap()]).unwrap()
}

#[test]
fn nothing_is_downloaded_before_the_bundle_is_here() {
    for phases in every_plan(&with_bundle()) {
        for name in names(&phases) {
            if name.starts_with("artifact-") || name.starts_with("images") {
                assert!(needed_by(&phases, name).contains("bundle"), "{name}");
            }
        }
    }
}

#[test]
fn certificates_are_created_while_images_load() {
    let phases = plan(&control_plane("i-1"), Origin::Founded, &load(&[]).unwrap());
    let all = needed_by(&phases, "kubeadm-certs");
    assert!(
        !all.contains(OWN_IMAGES) && !all.contains("containerd"),
        "{all:?}"
    );
}

#[test]
fn the_same_input_gives_the_same_plan() {
    let settings = load(&[]).unwrap();
    assert_eq!(every_plan(&settings), every_plan(&settings));
}
