//! `version`: what this binary is.

use super::print;
use crate::{error::Result, release};

/// Prints version, commit, target, and where this binary is published.
pub fn version() -> Result<()> {
    print(&release::describe())
}
