//! `check-config`: each mistake is shown with its location.

use crate::{k8s_bootstrap, with_stdin};

/// The path of a `config.toml` with this text, and what the command does with it.
fn of_file(text: &str) -> (String, crate::Ran) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let ran = k8s_bootstrap(&["check-config", &path]);
    (path, ran)
}

#[test]
fn a_valid_file_is_reported_as_valid() {
    let (path, ran) = of_file("[cluster]\nname = \"prod\"\n[node.labels]\ndisk = \"ssd\"\n");
    assert_eq!(ran.printed(), format!("{path}: valid\n"));
    let (path, ran) = of_file("");
    assert_eq!(ran.printed(), format!("{path}: valid\n"));
}

/// Nobody needs a bundle for an architecture that no node has.
#[test]
fn a_bundle_for_one_architecture_is_enough() {
    let sha256 = "0".repeat(64);
    let bundle = format!("bundle = {{ url = 'file:///b.tar', sha256 = {{ arm64 = '{sha256}' }} }}");
    let (path, ran) = of_file(&bundle);
    assert_eq!(ran.printed(), format!("{path}: valid\n"));
}

#[test]
fn standard_input_is_read_for_a_dash() {
    let ran = with_stdin(&["check-config", "-"], "node.role = \"worker\"\n");
    assert_eq!(ran.printed(), "-: valid\n");
    with_stdin(&["check-config", "-"], "node.role = \"boss\"\n").failed(
        3,
        &["error: -:1:6: unknown role `boss`, expected `control-plane` or `worker`"],
    );
}

#[test]
fn errors_that_only_a_node_would_find_are_found() {
    for (text, expected) in [
        (
            "node.taints.gpu = 'yes'",
            "the taint `gpu` = `yes` is invalid: expected VALUE:EFFECT",
        ),
        (
            "node.labels.'node-role.kubernetes.io/gpu' = ''",
            "a node may not give itself labels of node-role.kubernetes.io",
        ),
        ("cluster.name = 'Prod'", "the cluster's name `Prod` is not"),
        ("cluster.service_cidr = '192.168.0.0/20'", "overlap"),
        (
            "kubernetes.version = '1.35.0'",
            "pins.kubeadm.version is 1.36.3",
        ),
        ("kubelet.config.maxPod = 9", "did you mean `maxPods`?"),
        (
            "containerd.config.debg.level = 'info'",
            "did you mean `debug`?",
        ),
        (
            "pins.runc.url = 'ftp://example.com/runc'",
            "pins.runc.url is not an HTTP URL",
        ),
        ("images.mirrors.'docker.io' = ['mirror']", "`mirror`"),
        (
            "kubeadm.cluster.scheduler.extraArgs = [{ name = 'v', value = '4' }]",
            "kubeadm.cluster.scheduler.extraArgs: the list replaces the generated one and lacks `profiling`",
        ),
    ] {
        let (_, ran) = of_file(text);
        ran.failed(3, &[expected]);
        with_stdin(&["user-data", "--config", "-"], text).failed(3, &[expected]);
    }
    // A label that EC2 also sets is no contradiction yet.
    let (path, ran) = of_file("node.labels.'topology.kubernetes.io/zone' = 'eu-central-1b'");
    assert_eq!(ran.printed(), format!("{path}: valid\n"));
}

#[test]
fn an_unknown_key_is_shown_with_its_line_a_caret_and_the_nearest_key() {
    let (path, ran) = of_file("[cluster]\nname = \"prod\"\npod_cdir = \"10.0.0.0/16\"\n");
    ran.failed(
        3,
        &[
            &format!("error: {path}:3:1: unknown field `pod_cdir`"),
            "\n   |\n 3 | pod_cdir = \"10.0.0.0/16\"\n   | ^\n",
            "hint: did you mean `pod_cidr`?",
        ],
    );
    let (_, ran) = of_file("[clutser]\nname = \"prod\"\n");
    ran.failed(3, &["1 | [clutser]", "hint: did you mean `cluster`?"]);
    let (_, ran) = of_file("[node]\nsomething_else_entirely = 1\n");
    ran.failed(3, &["`k8s-bootstrap check-config --defaults`"]);
}

#[test]
fn a_mistyped_value_is_shown_at_its_key() {
    let (path, ran) = of_file("[downloads]\n  parallel = \"four\"\n");
    ran.failed(
        3,
        &[
            &format!("error: {path}:2:3: invalid type: string \"four\""),
            "2 |   parallel = \"four\"\n   |   ^",
        ],
    );
    let (_, ran) = of_file("[report]\nlisten = \"localhost\"\n");
    ran.failed(3, &[":2:1: ", "socket address"]);
}

#[test]
fn contradictory_values_are_refused_by_name() {
    let (_, ran) = of_file("[cluster]\nendpoint = \"api.example.com\"\n");
    ran.failed(
        3,
        &[
            "cluster.endpoint: `api.example.com` is neither `local` nor `host:port`",
            "hint: example:",
        ],
    );
}

#[test]
fn broken_toml_is_shown_at_its_position() {
    let (path, ran) = of_file("[cluster]\nname = \"prod\n");
    ran.failed(3, &[&format!("error: {path}:2:"), "2 | name = \"prod"]);
    let (_, ran) = of_file("[cluster]\nname = \"a\"\nname = \"b\"\n");
    ran.failed(3, &[":3:1: duplicate key", "3 | name = \"b\""]);
}

#[test]
fn a_missing_file_is_wrong_usage() {
    k8s_bootstrap(&["check-config", "/nowhere/config.toml"]).failed(
        2,
        &[
            "cannot read /nowhere/config.toml",
            "because: No such file or directory",
        ],
    );
}

#[test]
fn the_printed_defaults_are_accepted_again() {
    let defaults = k8s_bootstrap(&["check-config", "--defaults"]).printed();
    assert!(defaults.contains("[deadlines]"), "{defaults}");
    let ran = with_stdin(&["check-config", "-"], &defaults);
    assert_eq!(ran.printed(), "-: valid\n");
}
