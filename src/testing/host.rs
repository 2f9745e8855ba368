//! A machine with real files and a fake kernel.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;

use super::{FakeCommands, Files, machine};
use crate::{
    adapters::host::LocalHost,
    error::{Error, Result},
    ports::{Host, MachineFacts},
};

/// The state of the fake kernel.
pub struct Kernel {
    /// The facts that the agent reads of the machine.
    pub facts: MachineFacts,
    /// Parameters that cannot be written.
    pub read_only: BTreeSet<&'static str>,
    /// Parameters that can be written but keep their value.
    pub stubborn: BTreeSet<&'static str>,
}

/// The real [`LocalHost`] on a folder, except for what needs a kernel.
pub struct FakeHost {
    local: LocalHost,
    commands: Arc<FakeCommands>,
    kernel: Mutex<Kernel>,
}

impl FakeHost {
    /// The machine with these files and programs.
    pub fn new(files: &Files, commands: Arc<FakeCommands>) -> Self {
        Self {
            local: LocalHost::at(files.root()).with_commands(commands.clone()),
            commands,
            kernel: Mutex::new(Kernel {
                facts: machine(),
                read_only: BTreeSet::new(),
                stubborn: BTreeSet::new(),
            }),
        }
    }

    /// Its kernel, to read and to change.
    pub fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap()
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.local.read(path).await
    }

    async fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        if path.starts_with("/etc/systemd/system") {
            self.commands.state().stale = true;
        }
        self.local.write(path, content, mode).await
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        self.local.remove(path).await
    }

    async fn list(&self, folder: &Path) -> Result<Option<Vec<PathBuf>>> {
        self.local.list(folder).await
    }

    async fn exists(&self, path: &Path) -> Result<bool> {
        self.local.exists(path).await
    }

    async fn set_kernel_parameter(&self, path: &Path, value: &str) -> Result<()> {
        let name = path.display().to_string();
        if self
            .kernel()
            .read_only
            .iter()
            .any(|key| name.ends_with(key))
        {
            return Err(Error::failed(format!(
                "cannot set {name} to {value}: Permission denied"
            )));
        }
        if self.kernel().stubborn.iter().any(|key| name.ends_with(key)) {
            return Ok(());
        }
        // A kernel ends each value with a newline, whatever was written.
        self.local
            .set_kernel_parameter(path, &format!("{value}\n"))
            .await
    }

    async fn machine(&self) -> Result<MachineFacts> {
        Ok(self.kernel().facts.clone())
    }

    async fn port_in_use(&self, port: u16) -> Result<bool> {
        self.local.port_in_use(port).await
    }

    async fn swap_off(&self, path: &Path) -> Result<()> {
        self.local.swap_off(path).await
    }

    async fn load_module(&self, name: &str) -> Result<()> {
        self.local.load_module(name).await
    }

    async fn sha256(&self, path: &Path) -> Result<Option<String>> {
        self.local.sha256(path).await
    }
}
