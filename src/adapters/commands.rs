//! Child processes, each in its own process group.

use std::{process::Stdio, time::Duration};

use async_trait::async_trait;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    error::{Context, Error, Result},
    ports::{Command, Commands, Output},
    report::Work,
};

/// How much of each stream is kept: its last bytes, since errors are at the end.
const KEPT: usize = 64 * 1024;

/// How long the streams may stay open after the child has ended. A daemon that it left behind keeps
/// them open for good.
const LINGERING: Duration = Duration::from_millis(500);

/// Runs programs on this machine.
#[derive(Debug, Clone, Default)]
pub struct LocalCommands {
    work: Work,
}

impl LocalCommands {
    /// Programs are found by absolute path or through this process's PATH.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same; each program counts as work.
    pub fn counting(work: Work) -> Self {
        Self { work }
    }
}

/// Kills the group unless the child has been seen to end.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // The group's leader is not reaped yet, so no other group can have its process id.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

/// Child processes do not get these. kubeadm would copy them into the static pods, and the proxy
/// does not reach the webhooks and kubelets that static pods call.
const PROXY_VARIABLES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

#[async_trait]
impl Commands for LocalCommands {
    async fn run(&self, command: Command) -> Result<Output> {
        let line = command.line();
        let mut program = tokio::process::Command::new(&command.program);
        for variable in PROXY_VARIABLES {
            program.env_remove(variable);
        }
        let mut child = program
            .args(&command.args)
            .envs(command.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| not_started(&command, &cause))?;
        self.work.program(&command.program);
        let mut group = Group(
            child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .map(Pid::from_raw),
        );
        let stdout = Tail::of(child.stdout.take());
        let stderr = Tail::of(child.stderr.take());

        let Ok(ended) = tokio::time::timeout(command.deadline, child.wait()).await else {
            drop(group);
            let _ = child.wait().await;
            let said = stderr.finish().await;
            return Err(Error::failed(format!(
                "`{line}` did not end within {} s and was killed{}",
                command.deadline.as_secs_f32(),
                said.lines()
                    .last()
                    .map(|last| format!("; its last output: {last}"))
                    .unwrap_or_default()
            )));
        };
        group.0 = None;
        let status = ended.attempting(|| format!("cannot wait for `{line}`"))?;
        let (stdout, stderr) = tokio::join!(stdout.finish(), stderr.finish());
        let output = Output {
            status: exit_code(status),
            stdout,
            stderr,
        };
        tracing::debug!(
            command = line,
            status = output.status,
            // Never its output: kubeadm prints the key of the cluster's certificates.
            stdout_bytes = output.stdout.len(),
            stderr = output.stderr,
            "command ended"
        );
        Ok(output)
    }
}

fn not_started(command: &Command, cause: &std::io::Error) -> Error {
    let error = Error::failed(format!("cannot start `{}`", command.line())).because(cause);
    match cause.kind() {
        std::io::ErrorKind::NotFound => error.hint(format!(
            "`{}` does not exist; install it or correct PATH",
            command.program
        )),
        std::io::ErrorKind::PermissionDenied => {
            error.hint(format!("make `{}` executable", command.program))
        }
        _ => error,
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The end of a stream, read while the child runs so that it never blocks on a full pipe.
struct Tail {
    kept: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Tail {
    fn of(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let kept = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let into = kept.clone();
        let reader = tokio::spawn(async move {
            let Some(mut stream) = stream else { return };
            let mut buffer = vec![0; 8 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let Ok(mut kept) = into.lock() else { return };
                kept.extend_from_slice(&buffer[..count]);
                let surplus = kept.len().saturating_sub(KEPT);
                if surplus > KEPT {
                    kept.drain(..surplus);
                }
            }
        });
        Self { kept, reader }
    }

    async fn finish(mut self) -> String {
        if tokio::time::timeout(LINGERING, &mut self.reader)
            .await
            .is_err()
        {
            self.reader.abort();
        }
        let Ok(kept) = self.kept.lock() else {
            return String::new();
        };
        String::from_utf8_lossy(&kept[kept.len().saturating_sub(KEPT)..]).into_owned()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::testing::Log;
    use std::time::Instant;

    fn shell(script: &str) -> Command {
        Command::new("/bin/sh", ["-c", script]).within(Duration::from_secs(20))
    }

    /// Set in the child process that has proxy variables.
    const BEHIND_A_PROXY: &str = "K8S_BOOTSTRAP_TEST_COMMANDS_BEHIND_A_PROXY";

    /// The environment belongs to the process, so this test runs itself in a child process.
    #[tokio::test]
    async fn a_program_inherits_no_proxy() {
        if std::env::var_os(BEHIND_A_PROXY).is_some() {
            let env = LocalCommands::new().run(shell("env")).await.unwrap().stdout;
            assert!(env.contains(BEHIND_A_PROXY), "{env}");
            assert!(!env.to_lowercase().contains("_proxy=http"), "{env}");
            assert!(!env.contains("example.com"), "{env}");
            return;
        }
        let this = "adapters::commands::tests::a_program_inherits_no_proxy";
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", this]).env(BEHIND_A_PROXY, "yes");
        for variable in PROXY_VARIABLES {
            child.env(variable, "http://proxy.example.com:3128");
        }
        let said = child.output().await.unwrap().stdout;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("1 passed"), "{said}");
    }

    async fn is_gone(pid: i32) -> bool {
        for _ in 0..100 {
            // A killed orphan stays a zombie until PID 1 reaps it: that counts as ended.
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                _ => return true,
            }
        }
        false
    }

    #[tokio::test]
    async fn a_failing_program_returns_output_and_reports_why_if_success_is_required() {
        let command = shell("echo fine; echo broken >&2; exit 7");
        let output = LocalCommands::new().run(command.clone()).await.unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (7, "fine\n"));
        let error = output.success(&command).unwrap_err();
        assert!(
            error.one_line().ends_with("ended with status 7: broken"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_missing_program_is_distinguished_from_a_failing_one() {
        let error = LocalCommands::new()
            .run(Command::new("/nowhere/kubeadm", ["init"]))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "error: cannot start `/nowhere/kubeadm init`\n  because: No such file or directory (os error 2)\n  hint: `/nowhere/kubeadm` does not exist; install it or correct PATH"
        );
    }

    #[tokio::test]
    async fn a_program_beyond_its_deadline_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!(
            "sleep 60 & echo $! > {}; echo stuck >&2; wait",
            file.display()
        );
        let begun = Instant::now();
        let error = LocalCommands::new()
            .run(shell(&script).within(Duration::from_millis(300)))
            .await
            .unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(
            error
                .one_line()
                .contains("did not end within 0.3 s and was killed; its last output: stuck"),
            "{error}"
        );
        let pid: i32 = std::fs::read_to_string(file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert!(
            is_gone(pid).await,
            "the grandchild {pid} outlived its group"
        );
    }

    #[tokio::test]
    async fn a_cancelled_run_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        let run = tokio::spawn(async move { LocalCommands::new().run(shell(&script)).await });
        let pid: i32 = loop {
            match std::fs::read_to_string(&file).map(|text| text.trim().parse()) {
                Ok(Ok(pid)) => break pid,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        run.abort();
        assert!(is_gone(pid).await, "the grandchild {pid} outlived the run");
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_output_is_kept() {
        let output = LocalCommands::new()
            .run(shell(
                "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end",
            ))
            .await
            .unwrap();
        assert_eq!(output.stdout.len(), KEPT);
        assert!(output.stdout.ends_with("x\nend\n"));
    }

    #[tokio::test]
    async fn a_daemon_left_behind_does_not_hold_up_its_parent() {
        let begun = Instant::now();
        let output = LocalCommands::new()
            .run(shell("sleep 3 & echo started"))
            .await
            .unwrap();
        assert_eq!(output.stdout, "started\n");
        assert!(begun.elapsed() < Duration::from_millis(2500));
    }

    #[tokio::test]
    async fn each_program_that_starts_counts() {
        let work = Work::default();
        let commands = LocalCommands::counting(work.clone());
        for _ in 0..2 {
            commands.run(shell("exit 1")).await.unwrap();
        }
        let missing = Command::new("/no/such/program", [""; 0]);
        commands.run(missing).await.unwrap_err();
        assert_eq!(work.counts().programs, [("sh".to_owned(), 2)].into());
    }

    #[tokio::test]
    async fn the_output_of_a_program_is_never_logged() {
        let log = Log::start();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "the-certificate-key").unwrap();
        let cat = Command::new("cat", [file.path().display().to_string()]);
        let output = LocalCommands::new().run(cat).await.unwrap();
        assert_eq!(output.stdout, "the-certificate-key");
        let log = log.lines();
        assert!(log.contains("command ended"), "{log}");
        assert!(!log.contains("the-certificate-key"), "{log}");
    }

    #[tokio::test]
    async fn a_killed_program_has_the_exit_status_of_a_shell() {
        let output = LocalCommands::new().run(shell("kill -9 $$")).await.unwrap();
        assert_eq!(output.status, 137);
    }
}
