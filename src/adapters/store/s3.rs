//! The record as objects of an S3 bucket.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{check_key, check_prefix};
use crate::{
    adapters::aws::s3::S3,
    error::{Context, Result},
    ports::{Created, Store},
};

/// Objects PREFIX/CLUSTER/KEY. `create` is a write with `If-None-Match: *`, and S3's reads show all
/// earlier writes.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>
#[derive(Clone)]
pub struct S3Store {
    s3: S3,
    bucket: String,
    /// `k8s-bootstrap/prod/`
    root: String,
}

impl S3Store {
    /// The record of a cluster in a bucket, below a prefix such as `/k8s-bootstrap`.
    pub fn new(s3: S3, bucket: &str, prefix: &str, cluster: &str) -> Self {
        let root = format!("{}/{cluster}/", prefix.trim_matches('/'));
        Self {
            s3,
            bucket: bucket.to_owned(),
            root: root.trim_start_matches('/').to_owned(),
        }
    }

    fn name(&self, key: &str) -> Result<String> {
        check_key(key)?;
        Ok(format!("{}{key}", self.root))
    }

    async fn value(&self, name: &str) -> Result<Option<String>> {
        let Some(content) = self.s3.read(&self.bucket, name).await? else {
            return Ok(None);
        };
        let text = String::from_utf8(content)
            .attempting(|| format!("s3://{}/{name} is not text", self.bucket))?;
        Ok(Some(text))
    }
}

#[async_trait]
impl Store for S3Store {
    async fn create(&self, key: &str, value: &str) -> Result<Created> {
        let name = self.name(key)?;
        self.s3.create(&self.bucket, &name, value.into()).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        self.value(&self.name(key)?).await
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let below = match check_prefix(prefix)? {
            "" => self.root.clone(),
            folder => format!("{}{folder}/", self.root),
        };
        let mut found = BTreeMap::new();
        for name in self.s3.list(&self.bucket, &below).await? {
            let Some(key) = name.strip_prefix(&self.root) else {
                continue;
            };
            // A key that was removed since the listing is skipped.
            if let Some(value) = self.value(&name).await? {
                found.insert(key.to_owned(), value);
            }
        }
        Ok(found)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.s3.delete(&self.bucket, &self.name(key)?).await
    }
}
