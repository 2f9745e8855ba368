//! Elastic Container Registry through its JSON protocol.
//! <https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html>

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    call::{Aws, Call},
    endpoint::Service,
};
use crate::error::{Error, Result};

/// The ECR API.
#[derive(Clone)]
pub struct Ecr(Arc<Aws>);

/// What a registry accepts; ECR does so for twelve hours.
pub struct Login {
    /// `AWS` at ECR.
    pub username: String,
    /// At ECR it gives access to every repository that the role may read.
    pub password: SecretString,
}

impl Login {
    /// Reads `USER:PASSWORD`; `None` if it has another form.
    pub fn parse(text: &SecretString) -> Option<Self> {
        let (username, password) = text.expose_secret().trim_end().split_once(':')?;
        (!username.is_empty() && !password.is_empty()).then(|| Self {
            username: username.to_owned(),
            password: password.into(),
        })
    }
}

impl Ecr {
    /// The ECR API with these credentials and endpoints.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(aws)
    }

    /// A login to all registries of the region.
    pub async fn login(&self) -> Result<Login> {
        let action = "GetAuthorizationToken";
        let call = Call {
            service: Service::Ecr,
            action,
            method: Method::POST,
            path: "/".to_owned(),
            headers: vec![
                ("content-type", "application/x-amz-json-1.1".to_owned()),
                (
                    "x-amz-target",
                    format!("AmazonEC2ContainerRegistry_V20150921.{action}"),
                ),
            ],
            body: "{}".to_owned(),
        };
        let body = self.0.done(&call).await?;
        // The answer itself is a secret: an error must not quote it.
        login(&body).ok_or_else(|| {
            Error::failed(format!("the answer to {} has no token", call.iam_action()))
        })
    }
}

fn login(body: &str) -> Option<Login> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        authorization_data: Vec<Authorization>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Authorization {
        authorization_token: String,
    }
    let answer: Answer = serde_json::from_str(body).ok()?;
    let token = &answer.authorization_data.first()?.authorization_token;
    let token = STANDARD.decode(token).ok()?;
    Login::parse(&String::from_utf8(token).ok()?.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use serde_json::json;
    use wiremock::ResponseTemplate;

    use super::*;
    use crate::adapters::aws::tests::Region;

    #[test]
    fn a_token_is_a_name_and_a_password() {
        let token = STANDARD.encode("AWS:pass:word");
        let body = format!("{{\"authorizationData\":[{{\"authorizationToken\":\"{token}\"}}]}}");
        let login = login(&body).unwrap();
        assert_eq!(login.username, "AWS");
        assert_eq!(login.password.expose_secret(), "pass:word");
    }

    #[test]
    fn a_stored_login_has_a_user_and_a_password() {
        let login = |text: &str| Login::parse(&text.to_owned().into());
        let found = login("user:pass:word\n").unwrap();
        assert_eq!(found.username, "user");
        assert_eq!(found.password.expose_secret(), "pass:word");
        for text in ["", "user", "user:", ":password", "\n"] {
            assert!(login(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_answer_without_a_token_gives_no_login() {
        for body in [
            "",
            "{}",
            "{\"authorizationData\":[]}",
            "{\"authorizationData\":[{\"authorizationToken\":\"%\"}]}",
            "{\"authorizationData\":[{\"authorizationToken\":\"QVdT\"}]}",
        ] {
            assert!(login(body).is_none(), "{body}");
        }
    }

    #[tokio::test]
    async fn a_login_to_the_regions_registries_is_asked_for_and_an_odd_answer_is_not_quoted() {
        let region = Region::new().await;
        // "AWS:pa55"
        let token = json!({"authorizationData": [{"authorizationToken": "QVdTOnBhNTU="}]});
        let odd = json!({"authorizationData": [{"token": "QVdTOnBhNTU="}]});
        region
            .answers([
                ResponseTemplate::new(200).set_body_json(token),
                ResponseTemplate::new(200).set_body_json(odd),
            ])
            .await;
        assert_eq!(region.ecr.login().await.unwrap().username, "AWS");
        let request = &region.server.received_requests().await.unwrap()[0];
        let target = request.headers.get("x-amz-target").unwrap();
        assert_eq!(
            target,
            "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
        );
        let scope = request
            .headers
            .get("authorization")
            .unwrap()
            .to_str()
            .unwrap();
        assert!(scope.contains("/eu-central-1/ecr/aws4_request"), "{scope}");
        let Err(error) = region.ecr.login().await else {
            panic!("an answer without a token gave a login");
        };
        assert_eq!(
            error.one_line(),
            "the answer to ecr:GetAuthorizationToken has no token"
        );
    }
}
