//! Programs: fake systemd, containerd, modprobe, nft and swapoff; kubeadm as a test scripts it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;

use super::Files;
use crate::{
    error::Result,
    ports::{Command, Commands, Output},
};

/// A program's exit status and output.
pub fn output(status: i32, stdout: &str, stderr: &str) -> Output {
    Output {
        status,
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    }
}

type Effect = Box<dyn Fn(&Command, &Files) -> Output + Send + Sync>;

/// The state that the programs share.
#[derive(Default)]
pub struct Programs {
    /// Units started at boot.
    pub enabled: BTreeSet<String>,
    /// Units that were started.
    pub active: BTreeSet<String>,
    /// Unit files changed after the last daemon-reload.
    pub stale: bool,
    /// Images in containerd's store.
    pub images: BTreeSet<String>,
    /// The number of pulls in progress, and the highest number so far.
    pub pulling: (usize, usize),
    /// The packet rules in the kernel.
    pub rules: Option<String>,
    /// Modules that `modprobe` finds.
    pub modules: BTreeSet<&'static str>,
    ran: Vec<String>,
}

/// Fake programs that work on a machine's files.
pub struct FakeCommands {
    files: Arc<Files>,
    scripts: Mutex<Vec<(String, Effect)>>,
    state: Mutex<Programs>,
}

impl FakeCommands {
    /// The programs of the machine with these files.
    pub fn new(files: Arc<Files>) -> Self {
        Self {
            files,
            scripts: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Their state, to read and to change.
    pub fn state(&self) -> MutexGuard<'_, Programs> {
        self.state.lock().unwrap()
    }

    /// Scripts command lines with this start; the last script wins.
    pub fn on(
        &self,
        start: &str,
        effect: impl Fn(&Command, &Files) -> Output + Send + Sync + 'static,
    ) {
        let script: (String, Effect) = (start.to_owned(), Box::new(effect));
        self.scripts.lock().unwrap().push(script);
    }

    /// Makes command lines with this start fail.
    pub fn fail(&self, start: &str, said: &'static str) {
        self.on(start, move |_, _| output(1, "", said));
    }

    /// Removes all scripts.
    pub fn repair(&self) {
        self.scripts.lock().unwrap().clear();
    }

    /// Returns the command lines that ran since the last call.
    pub fn ran(&self) -> Vec<String> {
        std::mem::take(&mut self.state().ran)
    }

    fn systemctl(&self, args: &[&str]) -> String {
        let mut state = self.state();
        match args {
            ["daemon-reload"] => state.stale = false,
            ["enable", "--no-reload", unit] => {
                state.enabled.insert((*unit).to_owned());
            }
            ["disable", "--now", unit] => {
                state.enabled.remove(*unit);
                state.active.remove(*unit);
            }
            ["restart", unit] => {
                state.active.insert((*unit).to_owned());
                self.files.put("/run/containerd/containerd.sock", "");
            }
            ["show", _, unit] => {
                let word = |holds, yes: &str, no: &str| if holds { yes } else { no }.to_owned();
                return format!(
                    "ActiveState={}\nUnitFileState={}\nNeedDaemonReload={}\n",
                    word(state.active.contains(*unit), "active", "inactive"),
                    word(state.enabled.contains(*unit), "enabled", "disabled"),
                    word(state.stale, "yes", "no"),
                );
            }
            ["is-active", _] => return "active\n".to_owned(),
            ["stop" | "start" | "try-restart" | "reload", _] => {}
            other => panic!("unexpected systemctl {other:?}"),
        }
        String::new()
    }

    async fn ctr(&self, args: &[&str]) -> String {
        match args {
            [.., "version"] => "Server: v2.3.4".to_owned(),
            [.., "images", "ls", "--quiet"] => {
                let images: Vec<String> = self.state().images.iter().cloned().collect();
                images.join("\n")
            }
            [.., "pull", "--hosts-dir", _, image] => {
                {
                    let mut state = self.state();
                    state.pulling.0 += 1;
                    state.pulling.1 = state.pulling.1.max(state.pulling.0);
                }
                tokio::task::yield_now().await;
                let mut state = self.state();
                state.pulling.0 -= 1;
                state.images.insert((*image).to_owned());
                String::new()
            }
            other => panic!("unexpected ctr {other:?}"),
        }
    }

    fn modprobe(&self, module: &str) -> Output {
        if !self.state().modules.contains(module) {
            let said = format!("modprobe: FATAL: Module {module} not found.");
            return output(1, "", &said);
        }
        self.files
            .put(format!("/sys/module/{module}/refcnt"), "0\n");
        output(0, "", "")
    }

    fn nft(&self, args: &[&str]) -> Output {
        match args {
            ["-f", file] => self.state().rules = self.files.get(file),
            ["--stateless", "list", "table", ..] => {
                return match &self.state().rules {
                    Some(rules) => output(0, rules, ""),
                    None => output(1, "", "Error: No such file or directory"),
                };
            }
            other => panic!("unexpected nft {other:?}"),
        }
        output(0, "", "")
    }

    fn swapoff(&self, path: &str) -> Output {
        let swaps = self.files.get("/proc/swaps").unwrap();
        let kept: String = swaps
            .split_inclusive('\n')
            .filter(|line| !line.starts_with(path))
            .collect();
        self.files.put("/proc/swaps", kept);
        output(0, "", "")
    }
}

#[async_trait]
impl Commands for FakeCommands {
    async fn run(&self, command: Command) -> Result<Output> {
        let line = command.line();
        self.state().ran.push(line.clone());
        {
            let scripts = self.scripts.lock().unwrap();
            let mut latest_first = scripts.iter().rev();
            if let Some((_, effect)) = latest_first.find(|(start, _)| line.starts_with(start)) {
                return Ok(effect(&command, &self.files));
            }
        }
        let args: Vec<&str> = command.args.iter().map(String::as_str).collect();
        Ok(match (command.program.as_str(), &args[..]) {
            ("systemctl", args) => output(0, &self.systemctl(args), ""),
            ("/usr/local/bin/ctr", args) => output(0, &self.ctr(args).await, ""),
            ("modprobe", ["--", module]) => self.modprobe(module),
            ("nft", args) => self.nft(args),
            ("swapoff", [path]) => self.swapoff(path),
            ("kubeadm" | "/usr/local/bin/kubeadm", _) => output(0, "", ""),
            other => panic!("unexpected {other:?}"),
        })
    }
}
