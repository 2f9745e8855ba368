//! Credentials of the instance's role.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;

use super::{Imds, RENEW_BEFORE};
use crate::{
    adapters::aws::CredentialSource,
    error::{Context, Error, Result},
};

/// Temporary credentials of a role. Debug output hides the secrets.
#[derive(Debug, Clone)]
pub struct RoleCredentials {
    /// The role's name, for messages.
    pub role: String,
    /// `ASIA...`; not a secret.
    pub access_key_id: String,
    /// The signing key.
    pub secret_access_key: SecretString,
    /// The session token; `None` for long-lived credentials.
    pub session_token: Option<SecretString>,
    /// When the service stops accepting them.
    pub expires: Timestamp,
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html>
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    code: String,
    message: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<SecretString>,
    token: Option<SecretString>,
    expiration: Option<Timestamp>,
}

impl Imds {
    /// The role's credentials: the cached ones while they have five minutes left, else new ones.
    ///
    /// If new ones cannot be fetched, the cached ones are used until they expire.
    pub async fn credentials(&self) -> Result<Arc<RoleCredentials>> {
        let mut held = self.credentials.lock().await;
        if let Some(credentials) = &*held
            && self.clock.now() + RENEW_BEFORE < credentials.expires
        {
            return Ok(credentials.clone());
        }
        match (self.fetch_credentials().await, &*held) {
            (Ok(fresh), _) => Ok(held.insert(Arc::new(fresh)).clone()),
            (Err(error), Some(old)) if self.clock.now() < old.expires => {
                tracing::warn!(error = %error.one_line(), "cannot renew the role's credentials; using them until they expire");
                Ok(old.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn fetch_credentials(&self) -> Result<RoleCredentials> {
        let folder = ["meta-data", "iam", "security-credentials"];
        let listing = self.text(&folder).await?.unwrap_or_default();
        let Some(role) = listing.lines().map(str::trim).find(|line| !line.is_empty()) else {
            return Err(self.no_role().await);
        };
        let path = ["meta-data", "iam", "security-credentials", role];
        let text = self.required_text(&path).await?;
        let answer: Answer = serde_json::from_str(&text)
            // The cause names only line and column, never the content.
            .attempting(|| format!("cannot read the credentials of role {role}"))?;
        match answer {
            Answer {
                code,
                access_key_id: Some(access_key_id),
                secret_access_key: Some(secret_access_key),
                token,
                expiration: Some(expires),
                ..
            } if code == "Success" => Ok(RoleCredentials {
                role: role.to_owned(),
                access_key_id,
                secret_access_key,
                session_token: token,
                expires,
            }),
            Answer { code, message, .. } => Err(Error::failed(format!(
                "EC2 has no credentials for role {role}: {code} {}",
                message.unwrap_or_default()
            ))
            .hint(format!(
                "check that role {role} exists and that its trust policy lets ec2.amazonaws.com assume it"
            ))),
        }
    }

    /// It may pass by itself: the service may show a role only some seconds after boot, and a
    /// profile can be attached to a running instance.
    async fn no_role(&self) -> Error {
        let instance = match self.document().await {
            Ok(document) => document.instance_id,
            Err(error) => return error,
        };
        Error::failed("the instance has no IAM role").hint(format!(
            "attach an instance profile: aws ec2 associate-iam-instance-profile --instance-id {instance} --iam-instance-profile Name=PROFILE"
        ))
    }
}

#[async_trait]
impl CredentialSource for Imds {
    async fn current(&self) -> Result<Arc<RoleCredentials>> {
        self.credentials().await
    }

    async fn forget(&self) {
        self.credentials.lock().await.take();
    }
}
