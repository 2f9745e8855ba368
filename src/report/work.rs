//! What the agent has done since it started, counted.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts what costs time or money. All clones count together.
#[derive(Debug, Clone, Default)]
pub struct Work(Arc<Mutex<Counts>>);

/// The counts at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Programs started, by file name.
    pub programs: BTreeMap<String, u64>,
    /// Requests sent to AWS, including those that were repeated, by service.
    pub aws_requests: BTreeMap<String, u64>,
    /// Bytes of programs, archives and manifests that were received. Images are not among them:
    /// containerd pulls them.
    pub downloaded_bytes: u64,
}

impl Work {
    /// A program is started.
    pub fn program(&self, program: &str) {
        let name = Path::new(program).file_name();
        let name = name.map_or_else(|| program.into(), |name| name.to_string_lossy());
        self.count(|counts| *counts.programs.entry(name.into_owned()).or_default() += 1);
    }

    /// A request is sent to this service of AWS.
    pub fn aws_request(&self, service: &str) {
        self.count(|counts| *counts.aws_requests.entry(service.to_owned()).or_default() += 1);
    }

    /// This many bytes of a download were received.
    pub fn downloaded(&self, bytes: usize) {
        self.count(|counts| counts.downloaded_bytes += bytes as u64);
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
