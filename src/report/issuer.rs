//! Whether others can check the cluster's tokens.

use serde::{Deserialize, Serialize};

/// The issuer of service account tokens in [`super::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerReport {
    /// `service_accounts.issuer` of the settings.
    pub issuer: String,
    /// Whether the keys that are published are those of the API server.
    pub published: bool,
    /// Why they may not be.
    pub trouble: Option<String>,
}

impl IssuerReport {
    /// What a person must know.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.as_ref()?;
        Some(format!("issuer {}: {trouble}", self.issuer))
    }

    /// Its state in a few words.
    pub fn state(&self) -> &'static str {
        if self.published {
            "its keys are published"
        } else {
            "its keys are not published"
        }
    }
}
