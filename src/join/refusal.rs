//! Why somebody is not let in.

use crate::error::Error;

/// A refusal: what its addressee reads, and what only the log adds. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// For both sides.
    pub reason: String,
    /// For the log alone.
    pub detail: Option<String>,
}

impl Refusal {
    fn new(status: u16, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            detail: None,
        }
    }

    /// It is not what the protocol says.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::new(400, reason)
    }

    /// It is understood and not allowed.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::new(403, reason)
    }

    /// There is no such thing here.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::new(404, reason)
    }

    /// It took too long to say it.
    pub fn slow(reason: impl Into<String>) -> Self {
        Self::new(408, reason)
    }

    /// It is too much.
    pub fn large(reason: impl Into<String>) -> Self {
        Self::new(413, reason)
    }

    /// It is asked too often.
    pub fn busy(reason: impl Into<String>) -> Self {
        Self::new(429, reason)
    }

    /// This control plane cannot judge now; the cause is nobody's business but ours.
    pub fn unavailable(reason: impl Into<String>, cause: &Error) -> Self {
        Self {
            detail: Some(cause.one_line()),
            ..Self::new(503, reason)
        }
    }
}

impl std::fmt::Display for Refusal {
    /// As the log has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}
