//! Where backups and public documents are kept: a bucket or a folder, apart from the cluster.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use crate::error::{Error, Result};

/// Files by name in a place, such as `UID/20261124T120000.000Z.db`.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Uploads a file, readable for its owner alone. An existing file of that name stays, since the
    /// answer to an earlier attempt may have been lost: callers read back what is there.
    async fn put(&self, place: &Place, name: &str, file: &Path) -> Result<()>;
    /// Downloads into a file: complete and readable for its owner alone, or not there at all.
    async fn get(&self, place: &Place, name: &str, file: &Path) -> Result<()>;
    /// The names in a folder of the place, sorted; empty if there is no such folder.
    async fn list(&self, place: &Place, folder: &str) -> Result<Vec<String>>;
    /// Deletes a file; a name that does not exist is no error.
    async fn delete(&self, place: &Place, name: &str) -> Result<()>;
    /// A small file's content; `None` if it does not exist.
    async fn read(&self, place: &Place, name: &str) -> Result<Option<String>>;
    /// Writes a JSON document that everybody may read, replacing what is there. Who really may read
    /// it is up to the place.
    async fn publish(&self, place: &Place, name: &str, document: &str) -> Result<()>;
}

/// A place for files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `s3://BUCKET/PREFIX`, in the instance's region.
    Bucket {
        /// The bucket's name, without `s3://`.
        bucket: String,
        /// Precedes every name; empty, or without slashes at its ends.
        prefix: String,
    },
    /// `file:///FOLDER`
    Folder(PathBuf),
}

impl Place {
    /// Reads a URL as in `snapshots.to`.
    pub fn parse(url: &str) -> Result<Self> {
        let wrong = || {
            Error::refused(format!("`{url}` is not a destination")).hint(
                "a destination is s3://BUCKET/PREFIX or file:///DIRECTORY, \
                 in letters, digits and `._-`",
            )
        };
        if let Some(path) = url.strip_prefix("file://") {
            let path = path.trim_end_matches('/');
            let plain = path.strip_prefix('/').is_some_and(are_segments);
            return plain
                .then(|| Self::Folder(PathBuf::from(path)))
                .ok_or_else(wrong);
        }
        let rest = url.strip_prefix("s3://").ok_or_else(wrong)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if !is_bucket(bucket) || !(prefix.is_empty() || are_segments(prefix)) {
            return Err(wrong());
        }
        Ok(Self::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

/// Whether a bucket may have this name.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
pub fn is_bucket(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
        && !name.starts_with(['.', '-'])
}

/// Names that need no escaping in a URL and cannot leave the place.
fn are_segments(path: &str) -> bool {
    path.split('/').all(|segment| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    })
}

impl fmt::Display for Place {
    /// The URL that [`Self::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Folder(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places_are_read_and_shown_as_urls() {
        for (url, shown) in [
            ("s3://backups-1/k8s/prod", "s3://backups-1/k8s/prod"),
            ("s3://backups.example/", "s3://backups.example"),
            ("s3://backups", "s3://backups"),
            ("file:///mnt/backups/", "file:///mnt/backups"),
        ] {
            assert_eq!(Place::parse(url).unwrap().to_string(), shown);
        }
        for url in [
            "",
            "s3://",
            "s3://UP",
            "s3://a/b",
            "s3://bucket//x",
            "s3://bucket/../x",
            "s3://bucket/a b",
            "s3://-bucket/x",
            "file://relative",
            "file:///",
            "file:///a/../b",
            "https://bucket/x",
            "/mnt",
        ] {
            assert!(Place::parse(url).is_err(), "{url}");
        }
    }
}
