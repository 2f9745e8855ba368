//! A phase: a step with its place in a plan.

use serde::Serialize;

/// One named piece of work, as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase<A> {
    /// Unique in a plan.
    pub name: String,
    /// Why the phase exists; `plan` prints it.
    pub why: String,
    /// The phases that must hold before it starts.
    pub after: Vec<String>,
    /// How long it may take with all its retries, in seconds.
    pub deadline_seconds: u64,
    /// What it does: an [`crate::steps::Action`], or a simulated one.
    pub step: A,
}

/// Collects phases; each line of a plan is one call.
pub(super) struct Plan<A>(pub Vec<Phase<A>>);

impl<A> Plan<A> {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn add(
        &mut self,
        name: &str,
        deadline_seconds: u64,
        after: &[&str],
        why: &str,
        step: impl Into<A>,
    ) {
        self.0.push(Phase {
            name: name.to_owned(),
            why: why.to_owned(),
            after: after.iter().map(ToString::to_string).collect(),
            deadline_seconds,
            step: step.into(),
        });
    }
}
