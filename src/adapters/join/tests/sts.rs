//! An STS on loopback that verifies signatures, and keys to make them with.

use std::time::SystemTime;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity;
use jiff::{civil::DateTime, tz::TimeZone};
use secrecy::SecretString;
use std::sync::Arc;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

use crate::{
    adapters::{aws::CredentialSource, imds::RoleCredentials},
    error::Result,
};

/// Must never appear in a log.
pub const SECRET: &str = "s3cr3t-of-";
/// Nor may this one.
pub const SESSION: &str = "s3ss10n-of-";

/// The keys of a session and their owner.
#[derive(Debug, Clone)]
pub struct Keys {
    pub id: &'static str,
    pub arn: String,
}

impl Keys {
    /// The keys of an instance with this role.
    pub fn of(id: &'static str, account: &str, role: &str, session: &str) -> Self {
        let arn = format!("arn:aws:sts::{account}:assumed-role/{role}/{session}");
        Self { id, arn }
    }

    fn secret(&self) -> String {
        format!("{SECRET}{}", self.id)
    }

    fn session(&self) -> String {
        format!("{SESSION}{}", self.id)
    }

    /// The headers that these keys sign, including the signature.
    pub fn sign(&self, what: &Signed) -> Vec<(String, String)> {
        let identity: Identity =
            Credentials::new(self.id, self.secret(), Some(self.session()), None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(what.region)
            .name(what.service)
            .time(what.time)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let headers = what.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let request = SignableRequest::new(
            what.method,
            what.url.as_str(),
            headers,
            SignableBody::Bytes(what.body.as_bytes()),
        )
        .unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        let signature = instructions
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        what.headers.iter().cloned().chain(signature).collect()
    }
}

#[async_trait]
impl CredentialSource for Keys {
    async fn current(&self) -> Result<Arc<RoleCredentials>> {
        Ok(Arc::new(RoleCredentials {
            role: "unused".to_owned(),
            access_key_id: self.id.to_owned(),
            secret_access_key: self.secret().into(),
            session_token: Some(SecretString::from(self.session())),
            expires: "2027-01-01T00:00:00Z".parse().unwrap(),
        }))
    }

    async fn forget(&self) {}
}

/// A request to sign.
#[derive(Debug, Clone)]
pub struct Signed {
    pub method: &'static str,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub region: &'static str,
    pub service: &'static str,
    pub time: SystemTime,
}

/// Starts an STS that knows these keys.
pub async fn start(known: Vec<Keys>) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(matchers::any())
        .respond_with(Verifier(known))
        .mount(&server)
        .await;
    server
}

/// Verifies as STS does: it signs the received request with the same key.
struct Verifier(Vec<Keys>);

impl Respond for Verifier {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let refuse = |code: &str| {
            // The real one also quotes the request in its answers.
            ResponseTemplate::new(403).set_body_string(format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{:?}</Message></Error></ErrorResponse>",
                request.headers
            ))
        };
        let header = |name: &str| {
            let value = request.headers.get(name);
            value.and_then(|v| v.to_str().ok()).unwrap_or_default()
        };
        let authorization = header("authorization");
        let between = |start: &str, end: &str| {
            let rest = authorization.split_once(start).map_or("", |(_, rest)| rest);
            rest.split(end).next().unwrap_or_default().to_owned()
        };
        let scope = between("Credential=", ",");
        let scope: Vec<&str> = scope.split('/').collect();
        let Some(keys) = self.0.iter().find(|keys| Some(&keys.id) == scope.first()) else {
            return refuse("InvalidClientTokenId");
        };
        if header("x-amz-security-token") != keys.session() {
            return refuse("InvalidClientTokenId");
        }
        let Ok(time) = DateTime::strptime("%Y%m%dT%H%M%SZ", header("x-amz-date")) else {
            return refuse("IncompleteSignature");
        };
        let made_by_signing = ["host", "x-amz-date", "x-amz-security-token"];
        let names = between("SignedHeaders=", ",");
        let headers = names
            .split(';')
            .filter(|name| !made_by_signing.contains(name))
            .map(|name| (name.to_owned(), header(name).to_owned()));
        let again = keys.sign(&Signed {
            method: "POST",
            // The mock's own URL has another host than the request.
            url: format!(
                "http://{}{}",
                header("host"),
                &request.url[url::Position::BeforePath..]
            ),
            headers: headers.collect(),
            body: String::from_utf8_lossy(&request.body).into_owned(),
            region: "eu-central-1",
            service: "sts",
            time: TimeZone::UTC.to_timestamp(time).unwrap().into(),
        });
        let fits = request.method == "POST"
            && again
                .iter()
                .any(|(name, value)| name == "authorization" && value == authorization);
        if !fits {
            return refuse("SignatureDoesNotMatch");
        }
        if request.body != b"Action=GetCallerIdentity&Version=2011-06-15" {
            return refuse("InvalidAction");
        }
        let account = keys.arn.split(':').nth(4).unwrap();
        ResponseTemplate::new(200).set_body_string(format!(
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
             <Arn>{}</Arn><UserId>AROA:x</UserId><Account>{account}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>",
            keys.arn
        ))
    }
}
