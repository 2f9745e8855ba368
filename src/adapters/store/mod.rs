//! The cluster's shared record, in Parameter Store, in a bucket, in a folder, or in tags.
//!
//! Keys are relative and consist of segments of `A-Z a-z 0-9 _ . -`, such as `founder/1`; all
//! stores except the tags prepend PREFIX/CLUSTER/. The record holds no secrets.

mod folder;
mod s3;
mod ssm;
mod tags;

pub use folder::FolderStore;
pub use s3::S3Store;
pub use ssm::SsmStore;
pub use tags::TagStore;

use crate::error::{Error, Result};

/// Refuses keys that would leave PREFIX/CLUSTER/ or that one of the stores cannot represent.
fn check_key(key: &str) -> Result<()> {
    if key.split('/').all(is_segment) {
        return Ok(());
    }
    Err(Error::refused(format!(
        "invalid store key `{key}`: keys are segments of letters, digits, `_`, `.` and `-`, separated by single `/`"
    )))
}

/// A listing's prefix without its last `/`; empty for all keys.
fn check_prefix(prefix: &str) -> Result<&str> {
    let path = prefix.strip_suffix('/').unwrap_or(prefix);
    if !path.is_empty() {
        check_key(path)?;
    }
    Ok(path)
}

/// A leading dot is reserved for the folder store's own files; this also excludes `.` and `..`.
fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && !segment.starts_with('.')
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// The rules for keys, for the in-memory store.
#[cfg(test)]
pub(crate) mod rules {
    use crate::error::Result;

    /// Checks a key as the stores do.
    pub fn check_key(key: &str) -> Result<()> {
        super::check_key(key)
    }

    /// Checks a listing's prefix as the stores do.
    pub fn check_prefix(prefix: &str) -> Result<&str> {
        super::check_prefix(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_their_cluster() {
        for key in ["founder/1", "initialized", "a.b/c_d-e"] {
            assert!(check_key(key).is_ok(), "{key}");
        }
        for key in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", ".secret", "a b", "a\0",
        ] {
            assert!(check_key(key).is_err(), "{key}");
        }
    }
}
