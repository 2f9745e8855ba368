//! Child processes.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, Result};

/// Runs programs as children.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Runs a program to its end. A non-zero status is not an error here: see [`Output::success`].
    /// A child that exceeds its deadline is killed with its process group, which is an error.
    async fn run(&self, command: Command) -> Result<Output>;

    /// The same, but any status except zero is an error.
    async fn succeed(&self, command: Command) -> Result<Output> {
        self.run(command.clone()).await?.success(&command)
    }

    /// `systemctl` with these arguments; any status except zero is an error.
    async fn systemctl(&self, args: &[&str]) -> Result<Output> {
        self.succeed(Command::systemctl(args.iter().copied())).await
    }
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Absolute path, or a name looked up in PATH.
    pub program: String,
    /// Its arguments, which no shell interprets.
    pub args: Vec<String>,
    /// Variables added to the environment.
    pub env: Vec<(String, String)>,
    /// How long it may run.
    pub deadline: Duration,
}

impl Command {
    /// A command with the usual deadline of one minute.
    pub fn new<I, S>(program: impl Into<String>, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            deadline: Duration::from_mins(1),
        }
    }

    /// `systemctl` with these arguments. Starting a unit lasts until it is ready; systemd itself
    /// allows 90 s for that.
    pub fn systemctl<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new("systemctl", args).within(Duration::from_secs(100))
    }

    /// `kubeadm reset` without a question, against the container runtime at this socket.
    ///
    /// It names the full path: when a person resets the node, `sudo` may use a search path without
    /// it.
    pub fn kubeadm_reset(cri_socket: &str) -> Self {
        let args = ["reset", "--force", "--cri-socket", cri_socket];
        Self::new("/usr/local/bin/kubeadm", args)
    }

    /// The same command with another deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The command as a person would type it.
    pub fn line(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The result of a finished child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 + n if signal n ended it.
    pub status: i32,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, in the same way.
    pub stderr: String,
}

impl Output {
    /// The output of a child that succeeded; otherwise an error with the command and the end of its
    /// output.
    pub fn success(self, command: &Command) -> Result<Self> {
        if self.status == 0 {
            return Ok(self);
        }
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(8)..].join(" | ");
        Err(Error::failed(format!(
            "`{}` ended with status {}: {tail}",
            command.line(),
            self.status
        )))
    }
}
