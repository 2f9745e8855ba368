//! The record in a folder that all nodes share: for tests and for clusters outside AWS.
//!
//! A value is the file PATH/PREFIX/CLUSTER/KEY (mode 0644). Files appear complete: they are first
//! written and synced under a temporary name, then renamed. `create` renames only if the name is
//! free (`RENAME_NOREPLACE`, or a hard link if the file system lacks it, such as NFS).

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use super::{check_key, check_prefix};
use crate::{
    adapters::host,
    error::{Context, Result},
    ports::{Created, Store},
};

/// Files in a folder.
#[derive(Debug, Clone)]
pub struct FolderStore {
    root: PathBuf,
}

impl FolderStore {
    /// The record of a cluster in a folder, below a prefix such as `/k8s-bootstrap`.
    pub fn new(path: &Path, prefix: &str, cluster: &str) -> Self {
        Self {
            root: path.join(prefix.trim_matches('/')).join(cluster),
        }
    }

    fn value(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.root.join(key))
    }
}

/// Runs file operations where they may block; an error says what was attempted.
async fn blocking<T: Send + 'static>(
    attempted: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    host::blocking(work).await.attempting(|| attempted)
}

fn create(target: &Path, content: &[u8]) -> io::Result<Created> {
    let file = host::written_next_to(target, content, 0o644)?;
    match file.persist_noclobber(target) {
        Ok(_) => {
            host::sync_folder(host::folder_of(target))?;
            Ok(Created::Yes)
        }
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(Created::AlreadyThere),
        Err(error) => Err(error.error),
    }
}

/// The result; `None` if the file or folder does not exist.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds all values below a folder to the list; `key` is the folder's own key, "" for the root.
fn collect(folder: &Path, key: &str, found: &mut BTreeMap<String, String>) -> io::Result<()> {
    let Some(entries) = if_there(fs::read_dir(folder))? else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // Skip files that are still being written.
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let key = if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}/{name}")
        };
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &key, found)?;
        } else if let Some(value) = if_there(fs::read_to_string(entry.path()))? {
            found.insert(key, value);
        }
    }
    Ok(())
}

#[async_trait]
impl Store for FolderStore {
    async fn create(&self, key: &str, value: &str) -> Result<Created> {
        let (path, value) = (self.value(key)?, value.to_owned());
        let attempted = format!("cannot create {}", path.display());
        blocking(attempted, move || create(&path, value.as_bytes())).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        let path = self.value(key)?;
        let attempted = format!("cannot read {}", path.display());
        blocking(attempted, move || if_there(fs::read_to_string(path))).await
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let key = check_prefix(prefix)?.to_owned();
        let folder = self.root.join(&key);
        let attempted = format!("cannot list {}", folder.display());
        blocking(attempted, move || {
            let mut found = BTreeMap::new();
            collect(&folder, &key, &mut found)?;
            Ok(found)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let path = self.value(key)?;
        let attempted = format!("cannot remove {}", path.display());
        blocking(attempted, move || if_there(fs::remove_file(path)).map(drop)).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use super::*;

    struct Shared {
        folder: tempfile::TempDir,
        store: FolderStore,
    }

    fn shared() -> Shared {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::new(folder.path(), "/k8s-bootstrap", "prod");
        Shared { folder, store }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn exactly_one_of_many_creators_wins_and_its_value_stays() {
        let shared = shared();
        for round in 0..50 {
            let key = format!("founder/{round}");
            let barrier = Arc::new(tokio::sync::Barrier::new(8));
            let racers: Vec<_> = (0..8)
                .map(|n| {
                    let (store, key, barrier) =
                        (shared.store.clone(), key.clone(), barrier.clone());
                    tokio::spawn(async move {
                        barrier.wait().await;
                        (n, store.create(&key, &format!("node-{n}")).await.unwrap())
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for racer in racers {
                let (n, created) = racer.await.unwrap();
                if created == Created::Yes {
                    winners.push(format!("node-{n}"));
                }
            }
            let held = shared.store.get(&key).await.unwrap().unwrap();
            assert_eq!(winners, [held]);
        }
        assert_eq!(shared.store.list("").await.unwrap().len(), 50);
    }

    #[tokio::test]
    async fn a_folder_fulfils_the_contract_of_a_store() {
        crate::testing::promises(&shared().store).await;
    }

    #[tokio::test]
    async fn a_key_is_created_once_and_can_be_created_again_after_its_removal() {
        let Shared { store, folder } = shared();
        assert_eq!(store.get("initialized").await.unwrap(), None);
        assert_eq!(
            store.create("initialized", "a").await.unwrap(),
            Created::Yes
        );
        let again = store.create("initialized", "b").await.unwrap();
        assert_eq!(again, Created::AlreadyThere);
        assert_eq!(
            store.get("initialized").await.unwrap().as_deref(),
            Some("a")
        );
        let path = folder.path().join("k8s-bootstrap/prod/initialized");
        assert_eq!(mode(&path), 0o644);
        store.delete("initialized").await.unwrap();
        store.delete("initialized").await.unwrap();
        assert_eq!(
            store.create("initialized", "c").await.unwrap(),
            Created::Yes
        );
    }

    #[tokio::test]
    async fn a_list_has_whole_keys_below_the_prefix_and_no_half_written_files() {
        let Shared { store, folder } = shared();
        for key in ["founder/2", "founder/1", "founders", "initialized"] {
            store.create(key, key).await.unwrap();
        }
        let root = folder.path().join("k8s-bootstrap/prod/founder");
        fs::write(root.join(".new-crashed"), "half").unwrap();
        for prefix in ["founder/", "founder"] {
            let keys: Vec<_> = store.list(prefix).await.unwrap().into_keys().collect();
            assert_eq!(keys, ["founder/1", "founder/2"]);
        }
        assert_eq!(store.list("").await.unwrap().len(), 4);
        assert!(store.list("nothing/").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn clusters_do_not_see_each_other_and_keys_cannot_leave_theirs() {
        let Shared { store, folder } = shared();
        let other = FolderStore::new(folder.path(), "k8s-bootstrap/", "test");
        other.create("initialized", "x").await.unwrap();
        assert!(store.list("").await.unwrap().is_empty());
        let error = store.get("../test/initialized").await.unwrap_err();
        assert!(error.one_line().contains("../test/initialized"), "{error}");
    }

    #[tokio::test]
    async fn an_unwritable_folder_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let store = FolderStore::new(&folder.path().join("file"), "p", "c");
        let error = store.create("initialized", "x").await.unwrap_err();
        assert!(error.one_line().contains("file/p/c/initialized"), "{error}");
    }
}
