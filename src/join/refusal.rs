//! Why an applicant is refused.

use crate::error::Error;

/// A refusal: what the applicant reads, and what only the log adds. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's HTTP status.
    pub status: u16,
    /// For the applicant and the log.
    pub reason: String,
    /// For the log only.
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

    /// It does not follow the protocol.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::new(400, reason)
    }

    /// It is understood but not allowed.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::new(403, reason)
    }

    /// There is nothing at that path.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::new(404, reason)
    }

    /// The client took too long.
    pub fn slow(reason: impl Into<String>) -> Self {
        Self::new(408, reason)
    }

    /// The request is too large.
    pub fn large(reason: impl Into<String>) -> Self {
        Self::new(413, reason)
    }

    /// Too many requests, connections or nonces.
    pub fn busy(reason: impl Into<String>) -> Self {
        Self::new(429, reason)
    }

    /// This control plane cannot judge now; the cause goes only to the log.
    pub fn unavailable(reason: impl Into<String>, cause: &Error) -> Self {
        Self {
            detail: Some(cause.one_line()),
            ..Self::new(503, reason)
        }
    }
}

impl std::fmt::Display for Refusal {
    /// As the log shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}
