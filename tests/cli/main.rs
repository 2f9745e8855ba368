//! Tests of the command line and of the documentation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check_config;
mod cloudformation;
mod commands;
mod documentation;
mod kubelet_unit;
mod mirroring;
mod script;
mod simulate;
mod user_data;

use std::process::Output;

use assert_cmd::{Command, cargo::cargo_bin_cmd};

/// A command's exit status and output.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Asserts that it failed with this status and all of these messages, and printed no data.
    #[track_caller]
    fn failed(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "a failure prints no data");
        for part in said {
            assert!(
                self.stderr.contains(part),
                "`{part}` is not in\n{}",
                self.stderr
            );
        }
    }

    /// Asserts that it succeeded without messages; returns what it printed.
    #[track_caller]
    fn printed(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stderr, "", "a success prints nothing but its data");
        self.stdout
    }
}

/// The command with a clean environment.
fn command(args: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("k8s-bootstrap");
    command.args(args).env_clear();
    command
}

fn k8s_bootstrap(args: &[&str]) -> Ran {
    command(args).output().unwrap().into()
}

fn with_stdin(args: &[&str], text: &str) -> Ran {
    command(args).write_stdin(text).output().unwrap().into()
}
