//! Programs that build the components: they run with `nice`, their output goes to a log, and an
//! error contains the log's last lines.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

use super::tools;

/// Number of lines of a failed program's output that its error repeats.
const LAST_LINES: usize = 12;
/// How much of a log's end is read for them, in bytes.
const LAST_BYTES: u64 = 16 * 1024;

/// `program` with lower priority: a build takes minutes, and the person at the machine keeps
/// working.
pub fn nice(program: &str) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "10", program]).env("LC_ALL", "C");
    command
}

/// A command inside the root folder `root`, in its own mount namespace: mounts of package scripts
/// disappear when the scripts end, however they end.
pub fn within(root: &Path, script: &str) -> Command {
    let mut command = nice("unshare");
    command
        .args(["--mount", "--propagation", "private", "chroot"])
        .arg(root)
        .args(["/bin/sh", "-ec", script])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
    command
}

/// Runs `command` to its end, with standard output and error appended to `log`.
///
/// # Errors
/// When it cannot be started or ends with another status than 0; the message
/// carries the last lines of the log.
pub fn run(command: &mut Command, log: &Path) -> Result<()> {
    let mut output = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(log)
        .with_context(|| format!("open the log {}", log.display()))?;
    let shown = shown(command);
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .status()
        .map_err(|error| not_started(command, &error))?;
    if status.success() {
        return Ok(());
    }
    bail!(
        "`{shown}` ended with {status}; the end of {}:\n{}",
        log.display(),
        last_lines(&mut output)?
    )
}

/// Runs `command` and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or ends with another status than 0; the message
/// carries its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        bail!(
            "`{shown}` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("the output of `{shown}` is not UTF-8"))
}

fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        // Writing to a String cannot fail.
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}

fn not_started(command: &Command, error: &std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy();
    let hint = match (error.kind(), tools::package_of(&program)) {
        (ErrorKind::NotFound, Some(package)) => format!("; Debian's package is {package}"),
        _ => String::new(),
    };
    anyhow!("cannot start {program}: {error}{hint}")
}

fn last_lines(log: &mut File) -> Result<String> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
    let mut end = Vec::new();
    log.read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = end.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    Ok(lines.get(from..).unwrap_or_default().join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_failed_program_is_reported_with_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut failing = Command::new("sh");
        failing.args(["-c", "seq 100; echo no such header >&2; exit 3"]);
        let error = run(&mut failing, &log).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("100\nno such header"), "{error}");
        assert!(!error.contains("\n50\n"), "{error}");
    }

    #[test]
    fn a_missing_program_is_reported_with_its_debian_package() {
        let dir = tempfile::tempdir().unwrap();
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.env("PATH", dir.path());
        let error = output(&mut debootstrap).unwrap_err().to_string();
        assert!(error.contains("Debian's package is debootstrap"), "{error}");
    }
}
