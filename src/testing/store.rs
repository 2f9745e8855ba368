//! A store in memory, and the checks that every store must pass.

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;

use crate::{
    adapters::store::rules::{check_key, check_prefix},
    error::{Kind, Result},
    ports::{Created, Store},
};

/// A store that keeps its values in memory.
#[derive(Default)]
pub struct MemoryStore {
    values: Mutex<BTreeMap<String, String>>,
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, key: &str, value: &str) -> Result<Created> {
        check_key(key)?;
        let mut values = self.values.lock().unwrap();
        if values.contains_key(key) {
            return Ok(Created::AlreadyThere);
        }
        values.insert(key.to_owned(), value.to_owned());
        Ok(Created::Yes)
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        check_key(key)?;
        Ok(self.values.lock().unwrap().get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let below = match check_prefix(prefix)? {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let mut values = self.values.lock().unwrap().clone();
        values.retain(|key, _| key.starts_with(&below));
        Ok(values)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.values.lock().unwrap().remove(key);
        Ok(())
    }
}

/// Checks everything that the agent relies on in a store; the store must be empty.
pub async fn promises(store: &dyn Store) {
    a_key_is_created_once_and_again_after_its_removal(store).await;
    a_list_has_whole_keys_below_its_prefix(store).await;
    keys_cannot_leave_their_cluster(store).await;
}

async fn a_key_is_created_once_and_again_after_its_removal(store: &dyn Store) {
    assert_eq!(store.get("once").await.unwrap(), None);
    assert_eq!(store.create("once", "a").await.unwrap(), Created::Yes);
    let again = store.create("once", "b").await.unwrap();
    assert_eq!(again, Created::AlreadyThere);
    assert_eq!(store.get("once").await.unwrap().as_deref(), Some("a"));
    // Removing twice is no error.
    store.delete("once").await.unwrap();
    store.delete("once").await.unwrap();
    assert_eq!(store.create("once", "c").await.unwrap(), Created::Yes);
    assert_eq!(store.get("once").await.unwrap().as_deref(), Some("c"));
    store.delete("once").await.unwrap();
}

async fn a_list_has_whole_keys_below_its_prefix(store: &dyn Store) {
    let keys = ["founder/2", "founder/1", "founders", "initialized"];
    for key in keys {
        store.create(key, &format!("value of {key}")).await.unwrap();
    }
    for prefix in ["founder/", "founder"] {
        let found = store.list(prefix).await.unwrap();
        let wanted =
            ["founder/1", "founder/2"].map(|key| (key.to_owned(), format!("value of {key}")));
        assert_eq!(found, BTreeMap::from(wanted), "{prefix}");
    }
    assert_eq!(store.list("").await.unwrap().len(), keys.len());
    assert!(store.list("nothing/").await.unwrap().is_empty());
    for key in keys {
        store.delete(key).await.unwrap();
    }
    assert!(store.list("").await.unwrap().is_empty());
}

async fn keys_cannot_leave_their_cluster(store: &dyn Store) {
    for key in ["../test/initialized", "/initialized", "a//b", ""] {
        let error = store.create(key, "x").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.one_line().contains(&format!("`{key}`")), "{error}");
        assert!(store.get(key).await.is_err(), "{key}");
    }
}

#[tokio::test]
async fn the_store_in_memory_fulfils_the_contract_of_a_store() {
    promises(&MemoryStore::default()).await;
}
