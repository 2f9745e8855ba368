//! Temporary keys of instance roles, as the metadata service hands them out.

use std::collections::HashMap;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::Mutex;

use super::client::{Aws, element};
use crate::imds::tree::stamp;
use crate::layout::Layout;
use crate::state::{Machine, now};

/// Keys are renewed after this many seconds; STS gives them for an hour.
const RENEW_AFTER: u64 = 1800;

/// Asks STS and keeps the answers.
pub struct Credentials {
    aws: Aws,
    kept: Mutex<HashMap<String, (u64, String)>>,
}

impl Credentials {
    /// Keys from the lab's AWS API.
    pub fn new(layout: &Layout) -> Result<Self> {
        Ok(Self {
            aws: Aws::over_socket(layout)?,
            kept: Mutex::default(),
        })
    }

    /// The document below `iam/security-credentials/ROLE`.
    pub async fn of(&self, machine: &Machine) -> Result<String> {
        let mut kept = self.kept.lock().await;
        if let Some((at, document)) = kept.get(&machine.id)
            && now() < at + RENEW_AFTER
        {
            return Ok(document.clone());
        }
        let xml = self.aws.assume_role(machine).await?;
        let get = |name| {
            element(&xml, name).with_context(|| format!("AssumeRole answered without {name}"))
        };
        let document = json!({
            "Code": "Success",
            "LastUpdated": stamp(now()),
            "Type": "AWS-HMAC",
            "AccessKeyId": get("AccessKeyId")?,
            "SecretAccessKey": get("SecretAccessKey")?,
            "Token": get("SessionToken")?,
            "Expiration": get("Expiration")?,
        })
        .to_string();
        kept.insert(machine.id.clone(), (now(), document.clone()));
        Ok(document)
    }
}
