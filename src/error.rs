//! What went wrong, with what, and what a person can do about it.
//!
//! One type serves the whole agent, since every error ends in the same two places: the runner,
//! which only asks whether to retry, and a person, who reads the chain with one cause per line and
//! the hint at its end.

use std::fmt;

/// Who can fix an error; this decides what the agent does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may pass by itself: a refused connection, throttling, a full disk. The agent retries.
    Failed,
    /// A person must fix it, or it passes: a regional 403, a mirror still being filled, a captive
    /// portal. Retried slowly; refused after some minutes of the same answer.
    Doubtful,
    /// Only a person can fix it: a wrong setting, a wrong tag. Checked again, but not retried.
    Refused,
    /// The command line itself is wrong.
    Usage,
}

impl Kind {
    /// The process's exit status for an error of this kind.
    ///
    /// The unit file names 3 in `RestartPreventExitStatus`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::Doubtful => 1,
            Self::Usage => 2,
            Self::Refused => 3,
        }
    }
}

/// An error with its context, its causes and a hint.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    /// From the outermost context to the first cause.
    chain: Vec<String>,
    hint: Option<String>,
}

/// The result of everything that can fail in the agent.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that may pass by itself.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what)
    }

    /// An error that only a person can fix.
    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(Kind::Refused, what)
    }

    /// An error that a person must fix unless it passes.
    pub fn doubtful(what: impl Into<String>) -> Self {
        Self::new(Kind::Doubtful, what)
    }

    /// An error of the command line.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            chain: vec![what.into()],
            hint: None,
        }
    }

    /// Adds the causes of a foreign error below this one.
    #[must_use]
    pub fn because(mut self, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            let text = error.to_string();
            // Many libraries also include their source's text in their own.
            if !self.chain.last().is_some_and(|last| last.contains(&text)) {
                self.chain.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Adds what was being attempted above this error.
    #[must_use]
    pub fn during(mut self, attempted: impl Into<String>) -> Self {
        self.chain.insert(0, attempted.into());
        self
    }

    /// Adds what a person can do. An existing hint stays: the innermost knows most.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// The same error, but only a person can fix it.
    #[must_use]
    pub fn for_a_person(mut self) -> Self {
        self.kind = Kind::Refused;
        self
    }

    /// The same error, but a person must fix it unless it passes.
    #[must_use]
    pub fn unless_it_passes(mut self) -> Self {
        self.kind = Kind::Doubtful;
        self
    }

    /// Who can fix it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The hint; `None` if there is none.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The chain on one line, for STATUS= and log fields.
    pub fn one_line(&self) -> String {
        self.chain.join(": ")
    }

    /// The same with the remedy, for reports that have no field for it.
    pub fn line_with_remedy(&self) -> String {
        match self.remedy() {
            Some(remedy) => format!("{} ({remedy})", self.one_line()),
            None => self.one_line(),
        }
    }
}

impl fmt::Display for Error {
    /// One cause per line, then the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut causes = self.chain.iter();
        if let Some(first) = causes.next() {
            write!(f, "error: {first}")?;
        }
        for cause in causes {
            write!(f, "\n  because: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Converts foreign errors into the agent's own, with what was attempted.
pub trait Context<T> {
    /// An error that may pass by itself, with what was attempted.
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T>;
    /// An error that only a person can fix, with what was attempted.
    fn requiring(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::error::Error + 'static> Context<T> for std::result::Result<T, E> {
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::failed(what()).because(&cause))
    }

    fn requiring(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::refused(what()).because(&cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_one_cause_a_line_and_the_innermost_hint() {
        let cause = std::io::Error::other("no space left");
        let error = Error::failed("cannot write /x")
            .because(&cause)
            .hint("free some space")
            .during("phase artifact-kubelet")
            .hint("outer");
        assert_eq!(
            error.to_string(),
            "error: phase artifact-kubelet\n  because: cannot write /x\n  because: no space left\n  hint: free some space"
        );
        assert_eq!(error.kind().exit_code(), 1);
    }
}
