//! The record in AWS Systems Manager Parameter Store.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{check_key, check_prefix};
use crate::{
    adapters::aws::ssm::Ssm,
    error::Result,
    ports::{Created, Store},
};

/// Parameters PREFIX/CLUSTER/KEY.
#[derive(Clone)]
pub struct SsmStore {
    ssm: Ssm,
    /// `/k8s-bootstrap/prod`
    root: String,
}

impl SsmStore {
    /// The record of a cluster below a prefix such as `/k8s-bootstrap`.
    pub fn new(ssm: Ssm, prefix: &str, cluster: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let root = if prefix.is_empty() {
            format!("/{cluster}")
        } else {
            format!("/{prefix}/{cluster}")
        };
        Self { ssm, root }
    }

    fn name(&self, key: &str) -> Result<String> {
        check_key(key)?;
        Ok(format!("{}/{key}", self.root))
    }
}

#[async_trait]
impl Store for SsmStore {
    async fn create(&self, key: &str, value: &str) -> Result<Created> {
        self.ssm.create_parameter(&self.name(key)?, value).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        let found = self.ssm.parameter(&self.name(key)?).await?;
        Ok(found.filter(|p| !p.is_secret()).map(|p| p.value))
    }

    async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let path = match check_prefix(prefix)? {
            "" => self.root.clone(),
            folder => format!("{}/{folder}", self.root),
        };
        let found = self.ssm.parameters_below(&path).await?;
        Ok(found
            .into_iter()
            .filter(|parameter| !parameter.is_secret())
            .filter_map(|parameter| {
                let key = parameter.name.strip_prefix(&self.root)?.strip_prefix('/')?;
                Some((key.to_owned(), parameter.value))
            })
            .collect())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.ssm.delete(&self.name(key)?).await
    }
}
