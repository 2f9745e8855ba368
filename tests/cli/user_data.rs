//! `user-data`: the output that a launch template uses.

use std::sync::LazyLock;

use assert_cmd::cargo::cargo_bin;
use k8s_bootstrap::{
    config::{load, user_data::fragments},
    ports::Role,
};
use sha2::{Digest, Sha256};

use crate::{Ran, k8s_bootstrap, with_stdin};

/// The command's output without options; run once, because it hashes the whole binary.
static PLAIN: LazyLock<String> =
    LazyLock::new(|| k8s_bootstrap(&["user-data", "--url", URL]).printed());

const URL: &str = "https://mirror.example.com/agent";

#[track_caller]
fn is_accepted_by_a_shell(script: &str) {
    assert!(script.starts_with("#!/bin/sh\n"), "{script}");
    let checked: Ran = assert_cmd::Command::new("sh")
        .arg("-n")
        .write_stdin(script)
        .output()
        .unwrap()
        .into();
    assert_eq!(checked.printed(), "", "{script}");
}

#[test]
fn with_the_role_in_a_tag_a_plain_script_is_enough() {
    let text = PLAIN.as_str();
    assert!(text.starts_with("#!/bin/sh\n"), "{text}");
    assert!(!text.contains('@'), "a placeholder is left in\n{text}");
    assert!(text.contains(&format!("'{URL}'")), "{text}");
    assert!(fragments(text.as_bytes()).unwrap().is_empty());
}

#[test]
fn the_digest_is_that_of_the_binary() {
    let binary = std::fs::read(cargo_bin("k8s-bootstrap")).unwrap();
    let digest = hex::encode(Sha256::digest(binary));
    assert!(PLAIN.contains(&format!("'{digest}  '")), "{}", *PLAIN);
}

#[test]
fn role_and_settings_are_read_back_from_the_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    // Not ASCII, and no newline at its end.
    let config = "# größer\n[cluster]\nname = \"prod\"\n[node.labels]\ndisk = \"ssd\"";
    std::fs::write(&path, config).unwrap();
    let path = path.to_str().unwrap();
    let url = "https://mirror.example.com/agent?x=1&y=2";
    let text = k8s_bootstrap(&[
        "user-data",
        "--role",
        "control-plane",
        "--config",
        path,
        "--url",
        url,
    ])
    .printed();
    assert!(text.starts_with("MIME-Version: 1.0\n"), "{text}");
    let settings = load(&fragments(text.as_bytes()).unwrap()).unwrap();
    assert_eq!(settings.node.role, Some(Role::ControlPlane));
    assert_eq!(settings.cluster.name, "prod");
    assert_eq!(settings.node.labels["disk"], "ssd");

    // cloud-init reads it with a MIME parser, and so does this test, with another than the agent.
    let mail = mailparse::parse_mail(text.as_bytes()).unwrap();
    let types: Vec<_> = mail.subparts.iter().map(|p| &p.ctype.mimetype).collect();
    let own = "application/vnd.k8s-bootstrap.config+toml";
    assert_eq!(types, ["text/x-shellscript", own, own]);
    let script = mail.subparts[0].get_body().unwrap();
    assert!(script.contains(&format!("'{url}'")), "{script}");
    is_accepted_by_a_shell(&script);
}

#[test]
fn what_the_agent_would_refuse_is_never_printed() {
    k8s_bootstrap(&["user-data", "--role", "master"])
        .failed(2, &["unknown role `master`", "`control-plane` or `worker`"]);
    with_stdin(&["user-data", "--config", "-"], "cluster.nam = 'x'\n")
        .failed(3, &["-:1:", "did you mean `name`?"]);
    k8s_bootstrap(&["user-data", "--config", "/nowhere"]).failed(2, &["cannot read /nowhere"]);
    k8s_bootstrap(&["user-data", "--url", "https://x/'; reboot; '"])
        .failed(2, &["is not a URL to download from"]);
    for url in [
        "example.com/agent",
        "file:///agent",
        "ftp://example.com/agent",
        "s3://bucket",
        "",
    ] {
        k8s_bootstrap(&["user-data", "--url", url])
            .failed(2, &["is not a URL to download from", "https://"]);
    }
    let large = format!("# {}\n", "x".repeat(16 * 1024));
    with_stdin(&["user-data", "--url", URL, "--config", "-"], &large)
        .failed(2, &["EC2 accepts at most 16384", "hint: gzip it"]);
}

#[test]
fn a_shell_accepts_the_script() {
    is_accepted_by_a_shell(&PLAIN);
}

/// Tests run a build that is not a release: nothing serves it.
#[test]
fn a_url_that_nothing_is_known_to_serve_is_never_printed() {
    for command in [&["user-data"][..], &["cloudformation", "--cluster", "prod"]] {
        k8s_bootstrap(command).failed(
            2,
            &[
                "this build is not a release",
                "aws s3 cp",
                "--url s3://BUCKET/KEY",
            ],
        );
    }
}
