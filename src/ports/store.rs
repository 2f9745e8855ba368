//! The state that all instances of a cluster share before the cluster exists.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::error::Result;

/// A small store that all instances of a cluster share, with one atomic operation: `create`.
///
/// Keys are relative, such as `founder/1`; the adapter prepends prefix and cluster.
#[async_trait]
pub trait Store: Send + Sync {
    /// Writes the key if it does not exist; otherwise changes nothing. Returns which of the two.
    ///
    /// If the answer is lost, the write may or may not have taken effect: callers read back who
    /// holds the key instead of trusting an error.
    async fn create(&self, key: &str, value: &str) -> Result<Created>;
    /// The same for a lost record that a person restores from a backup: the usual restrictions on
    /// who may write it do not apply.
    async fn rebuild(&self, key: &str, value: &str) -> Result<Created> {
        self.create(key, value).await
    }
    /// The value of a key; `None` if it does not exist.
    async fn get(&self, key: &str) -> Result<Option<String>>;
    /// All keys under a prefix such as `founder/`, with their values, sorted by key.
    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>>;
    /// Removes a key; one that does not exist is no error.
    async fn delete(&self, key: &str) -> Result<()>;
}

/// What `Store::create` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The key is new and holds our value.
    Yes,
    /// The key was there before and is unchanged.
    AlreadyThere,
}
