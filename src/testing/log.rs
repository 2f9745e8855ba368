//! What a test logs.

use std::{
    io::{Result, Write},
    sync::{Arc, Mutex, OnceLock},
};

use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber},
};

/// While there is one subscriber only, tracing asks that of the thread which first reaches an event
/// whether anybody listens, and keeps the answer for all threads. Other tests' threads have none.
static SECOND: OnceLock<Dispatch> = OnceLock::new();

/// The log of this thread, for as long as this lives.
pub struct Log {
    written: Written,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Log {
    /// Starts one.
    pub fn start() -> Self {
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::default()));
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .finish();
        Self {
            written,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The agent's own lines: libraries log the wire content at trace level, which nobody enables.
    pub fn lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.written.0.lock().unwrap()).into_owned();
        let ours = text.lines().filter(|line| line.contains("k8s_bootstrap"));
        ours.map(|line| format!("{line}\n")).collect()
    }
}
