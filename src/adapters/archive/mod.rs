//! Files in S3 or in a folder.

mod folder;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{
    aws::s3::S3,
    host::{self, LocalHost},
};
use crate::{
    error::{Error, Result},
    ports::{Archive, Host, Place},
};

use folder::Folder;

/// Dispatches to the folder or the bucket of a place.
pub struct Archives {
    /// Prepended to the paths of files.
    root: PathBuf,
    s3: Option<S3>,
}

impl Archives {
    /// Buckets through this S3 client; folders and files on this machine.
    pub fn new(s3: S3) -> Self {
        Self {
            root: PathBuf::from("/"),
            s3: Some(s3),
        }
    }

    /// Folders and files below this root, and no buckets.
    #[cfg(test)]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            s3: None,
        }
    }

    fn s3(&self) -> Result<&S3> {
        self.s3
            .as_ref()
            .ok_or_else(|| Error::refused("no S3 client is configured"))
    }

    fn host(&self) -> LocalHost {
        LocalHost::at(&self.root)
    }

    fn file(&self, path: &Path) -> Result<PathBuf> {
        host::place(&self.root, path)
    }

    fn folder(&self, path: &Path) -> Result<Folder> {
        Ok(Folder(host::place(&self.root, path)?))
    }
}

/// An object's key.
fn key(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}/{name}")
    }
}

#[async_trait]
impl Archive for Archives {
    async fn put(&self, place: &Place, name: &str, file: &Path) -> Result<()> {
        let file = self.file(file)?;
        match place {
            Place::Bucket { bucket, prefix } => {
                self.s3()?.put(bucket, &key(prefix, name), &file).await
            }
            Place::Folder(path) => self.folder(path)?.put(name, &file).await,
        }
    }

    async fn get(&self, place: &Place, name: &str, file: &Path) -> Result<()> {
        let file = self.file(file)?;
        match place {
            Place::Bucket { bucket, prefix } => {
                self.s3()?.get(bucket, &key(prefix, name), &file).await
            }
            Place::Folder(path) => self.folder(path)?.get(name, &file).await,
        }
    }

    async fn list(&self, place: &Place, folder: &str) -> Result<Vec<String>> {
        match place {
            Place::Bucket { bucket, prefix } => {
                let below = key(prefix, &format!("{folder}/"));
                let keys = self.s3()?.list(bucket, &below).await?;
                Ok(keys
                    .iter()
                    .filter_map(|key| key.strip_prefix(&below))
                    .filter(|name| !name.is_empty() && !name.contains('/'))
                    .map(str::to_owned)
                    .collect())
            }
            Place::Folder(path) => self.folder(path)?.list(folder).await,
        }
    }

    async fn delete(&self, place: &Place, name: &str) -> Result<()> {
        match place {
            Place::Bucket { bucket, prefix } => self.s3()?.delete(bucket, &key(prefix, name)).await,
            Place::Folder(path) => self.folder(path)?.delete(name).await,
        }
    }

    async fn read(&self, place: &Place, name: &str) -> Result<Option<String>> {
        let content = match place {
            Place::Bucket { bucket, prefix } => self.s3()?.read(bucket, &key(prefix, name)).await?,
            Place::Folder(path) => self.host().read(&path.join(name)).await?,
        };
        // What is not text is not ours: it differs from all documents.
        Ok(content.map(|content| String::from_utf8_lossy(&content).into_owned()))
    }

    async fn publish(&self, place: &Place, name: &str, document: &str) -> Result<()> {
        match place {
            Place::Bucket { bucket, prefix } => {
                let key = key(prefix, name);
                self.s3()?.publish(bucket, &key, document).await
            }
            Place::Folder(path) => {
                let path = path.join(name);
                self.host().write(&path, document.as_bytes(), 0o644).await
            }
        }
    }
}
