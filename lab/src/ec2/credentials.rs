//! Temporary keys of instance roles, as the metadata service serves them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::Mutex;

use super::client::{Aws, element};
use crate::ec2::stamp;
use crate::layout::Layout;
use crate::state::{Machine, now};

/// Keys are renewed after this many seconds; STS issues them for an hour.
const RENEW_AFTER: u64 = 1800;

/// Asks STS and caches the answers.
pub struct Credentials {
    aws: Aws,
    restarts: Arc<AtomicUsize>,
    kept: Mutex<HashMap<String, Kept>>,
}

/// A cached document.
struct Kept {
    at: u64,
    /// The number of moto's restarts at that time: it does not know older keys.
    restarts: usize,
    document: String,
}

impl Credentials {
    /// Keys from the lab's AWS API, which counts its restarts in `restarts`.
    pub fn new(layout: &Layout, restarts: Arc<AtomicUsize>) -> Result<Self> {
        Ok(Self {
            aws: Aws::over_socket(layout)?,
            restarts,
            kept: Mutex::default(),
        })
    }

    /// The document below `iam/security-credentials/ROLE`.
    pub async fn of(&self, machine: &Machine) -> Result<String> {
        let mut kept = self.kept.lock().await;
        let restarts = self.restarts.load(Ordering::Relaxed);
        if let Some(kept) = kept.get(&machine.id)
            && now() < kept.at + RENEW_AFTER
            && kept.restarts == restarts
        {
            return Ok(kept.document.clone());
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
        let new = Kept {
            at: now(),
            restarts,
            document: document.clone(),
        };
        kept.insert(machine.id.clone(), new);
        Ok(document)
    }
}
