//! STS through its query protocol: signed by one instance, sent by another.
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;

use super::{
    answer::Rejection,
    call::{Aws, Call},
    endpoint::Service,
    retry::is_transient,
};
use crate::{
    error::{Error, Result},
    join::{BODY, CLUSTER_HEADER, CONTENT_TYPE, NONCE_HEADER},
    ports::{Caller, Proof, Sts},
};

/// The STS API.
#[derive(Clone)]
pub struct StsApi(Arc<Aws>);

impl StsApi {
    /// The STS API with these credentials and endpoints.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(aws)
    }
}

#[async_trait]
impl Sts for StsApi {
    async fn prove(&self, nonce: &str, cluster: &str) -> Result<Proof> {
        let call = Call {
            service: Service::Sts,
            action: "GetCallerIdentity",
            method: Method::POST,
            path: "/".to_owned(),
            headers: vec![
                ("content-type", CONTENT_TYPE.to_owned()),
                (NONCE_HEADER, nonce.to_owned()),
                (CLUSTER_HEADER, cluster.to_owned()),
            ],
            body: BODY.to_owned(),
        };
        Ok(Proof(self.0.signed(&call).await?))
    }

    async fn identify(&self, proof: &Proof) -> Result<Caller> {
        let (status, body) = self.0.forward(Service::Sts, &proof.0, BODY).await?;
        if (200..300).contains(&status) {
            return caller(&body)
                .ok_or_else(|| Error::refused("the caller is not a session of an IAM role"));
        }
        let rejection = Rejection::read(status, &body);
        // Its message can quote what was signed, so it is not passed on.
        let said = format!("STS answered {status} {}", rejection.code);
        if (400..500).contains(&status) && !is_transient(status, &rejection.code) {
            return Err(Error::refused(said));
        }
        Err(Error::failed(said))
    }
}

/// Parses `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
fn caller(body: &str) -> Option<Caller> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "GetCallerIdentityResult")]
        result: Identity,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Identity {
        arn: String,
        account: String,
    }
    let answer: Answer = quick_xml::de::from_str(body).ok()?;
    let parts: Vec<&str> = answer.result.arn.splitn(6, ':').collect();
    let ["arn", _, "sts", "", account, resource] = parts[..] else {
        return None;
    };
    let parts: Vec<&str> = resource.split('/').collect();
    let ["assumed-role", role, session] = parts[..] else {
        return None;
    };
    let whole = [account, role, session].iter().all(|part| !part.is_empty());
    (whole && account == answer.result.account).then(|| Caller {
        account: account.to_owned(),
        role: role.to_owned(),
        session: session.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::caller;

    fn of(arn: &str, account: &str) -> Option<(String, String, String)> {
        let caller = caller(&format!(
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
             <Arn>{arn}</Arn><UserId>AROA123:x</UserId><Account>{account}</Account></GetCallerIdentityResult>\
             <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
        ))?;
        Some((caller.account, caller.role, caller.session))
    }

    #[test]
    fn only_a_session_of_a_role_is_identified() {
        let found = of(
            "arn:aws-cn:sts::123456789012:assumed-role/node/i-1",
            "123456789012",
        );
        let wanted = ["123456789012", "node", "i-1"].map(str::to_owned);
        assert_eq!(found.map(|(a, r, s)| [a, r, s]), Some(wanted));
        for arn in [
            "arn:aws:iam::123456789012:user/eve",
            "arn:aws:iam::123456789012:role/node",
            "arn:aws:sts::123456789012:federated-user/i-1",
            "arn:aws:sts::123456789012:assumed-role/node",
            "arn:aws:sts::123456789012:assumed-role/node/i-1/more",
            "arn:aws:sts::123456789012:assumed-role//i-1",
            "arn:aws:sts::999999999999:assumed-role/node/i-1",
            "",
        ] {
            assert_eq!(of(arn, "123456789012"), None, "{arn}");
        }
        assert_eq!(caller("<html/>"), None);
    }
}
