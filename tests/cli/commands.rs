//! Every command: its help, wrong usage, and a closed stdout.

use std::process::Stdio;

use assert_cmd::cargo::cargo_bin;
use clap::CommandFactory as _;
use k8s_bootstrap::cli::Cli;

use crate::k8s_bootstrap;

#[test]
fn help_lists_every_command_and_what_the_exit_status_means() {
    let help = k8s_bootstrap(&["--help"]).printed();
    for name in [
        "run",
        "install",
        "plan",
        "status",
        "check-config",
        "user-data",
        "cloudformation",
        "version",
        "etcd",
        "simulate",
    ] {
        let listed = help
            .lines()
            .any(|line| line.split_whitespace().next() == Some(name));
        assert!(listed, "{name} is not listed in\n{help}");
    }
    assert!(help.contains("3 refused"), "{help}");
}

#[test]
fn every_command_and_every_option_is_explained() {
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let help = k8s_bootstrap(&[name, "--help"]).printed();
        let about = command.get_about().unwrap().to_string();
        // The help is wrapped; its first words identify it.
        let begin = about.split(' ').take(4).collect::<Vec<_>>().join(" ");
        assert!(help.starts_with(&begin), "{name}: {help}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {argument}");
        }
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = k8s_bootstrap(&["--version"]).printed();
    assert_eq!(
        version,
        concat!("k8s-bootstrap ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_build_says_what_it_was_built_for_and_that_nobody_published_it() {
    let said = k8s_bootstrap(&["version"]).printed();
    let version = concat!("k8s-bootstrap ", env!("CARGO_PKG_VERSION"), "\n");
    assert!(said.starts_with(version), "{said}");
    let target = format!("target: {}-linux-", std::env::consts::ARCH);
    assert!(
        said.contains(&target) && said.contains("published: no\n"),
        "{said}"
    );
}

#[test]
fn wrong_usage_exits_with_2_and_shows_the_right_usage() {
    k8s_bootstrap(&["strat"]).failed(2, &["unrecognized subcommand 'strat'", "--help"]);
    k8s_bootstrap(&["statsu"]).failed(2, &["a similar subcommand exists: 'status'"]);
    k8s_bootstrap(&["status", "--jsn"]).failed(2, &["--jsn", "'--json'"]);
    k8s_bootstrap(&["check-config"]).failed(2, &["<FILE>"]);
    k8s_bootstrap(&["etcd", "restore"]).failed(2, &["--from <FROM>"]);
    k8s_bootstrap(&[]).failed(
        2,
        &["Usage: k8s-bootstrap <COMMAND>", "status", "check-config"],
    );
}

#[test]
fn without_an_agent_status_fails_and_shows_where_to_look() {
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--watch"],
    ] {
        k8s_bootstrap(args).failed(
            1,
            &[
                "/run/k8s-bootstrap/http",
                "hint: is it running? `systemctl status k8s-bootstrap`",
                "journalctl -u k8s-bootstrap",
            ],
        );
    }
}

/// As in `k8s-bootstrap check-config --defaults | head -1`, with a `head` that always exits first.
#[test]
fn a_closed_pipe_is_no_error() {
    for args in [
        &["check-config", "--defaults"][..],
        &["user-data", "--url", "https://example.com/agent"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = std::process::Command::new(cargo_bin("k8s-bootstrap"))
            .args(args)
            .env_clear()
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), said.as_ref()),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = std::process::Command::new(cargo_bin("k8s-bootstrap"))
        .args(["check-config", "--defaults"])
        .env_clear()
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output"), "{said}");
}
