//! One call: signed, sent, and retried if that can help.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity;
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimeParser};
use reqwest::{Client, Method};
use secrecy::ExposeSecret;
use url::{Url, form_urlencoded};

use super::{
    CredentialSource,
    answer::Rejection,
    endpoint::{Endpoints, Service},
    retry::{BACKOFF, is_transient},
};
use crate::{
    adapters::{http::Clients, imds::RoleCredentials},
    error::{Context, Error, Result},
    ports::Clock,
    report::Work,
    wait::schedules::AWS,
};

/// AWS accepts signatures that are up to five minutes off; if the clocks differ by less than this,
/// they are not the cause of a rejection.
const TOLERATED_SKEW: i64 = 60;

/// How long a forwarded call may take.
const FORWARDING: Duration = Duration::from_secs(10);

/// The longest answer to a forwarded call, in bytes.
const LONGEST_FORWARDED: usize = 16 << 10;

/// AWS in one region, with this instance's credentials.
pub struct Aws {
    pub(super) http: Client,
    pub(super) endpoints: Endpoints,
    pub(super) credentials: Arc<dyn CredentialSource>,
    pub(super) clock: Arc<dyn Clock>,
    /// AWS's clock minus ours in seconds; 0 until a difference mattered.
    pub(super) skew: AtomicI64,
    pub(super) work: Work,
}

/// A request to a service.
pub(super) struct Call {
    pub service: Service,
    /// `DescribeInstances`.
    pub action: &'static str,
    /// `POST` except for REST protocols.
    pub method: Method,
    /// Path and query, `/` except for REST protocols.
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Call {
    /// A call of the query protocol: form in, XML out.
    pub fn query(
        service: Service,
        version: &str,
        action: &'static str,
        parameters: &[(&str, &str)],
    ) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action)
            .append_pair("Version", version)
            .extend_pairs(parameters);
        Self {
            service,
            action,
            method: Method::POST,
            path: "/".to_owned(),
            headers: vec![(
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8".to_owned(),
            )],
            body: form.finish(),
        }
    }

    /// The action as IAM policies name it.
    pub fn iam_action(&self) -> String {
        format!("{}:{}", self.service.name(), self.action)
    }
}

/// The result of a call.
pub(super) enum Answer {
    /// The body of a success.
    Done(String),
    /// An error that a retry would not change, and the role that received it.
    Rejected(Rejection, String),
}

struct Response {
    status: u16,
    date: Option<Timestamp>,
    body: String,
}

impl Aws {
    /// AWS at these endpoints.
    pub fn new(
        clients: &Clients,
        endpoints: Endpoints,
        credentials: Arc<dyn CredentialSource>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        Ok(Self {
            http: clients.aws()?,
            endpoints,
            credentials,
            clock,
            skew: AtomicI64::new(0),
            work: clients.work(),
        })
    }

    /// A call for which every error is simply an error.
    pub(super) async fn done(&self, call: &Call) -> Result<String> {
        match self.call(call).await? {
            Answer::Done(body) => Ok(body),
            Answer::Rejected(rejection, role) => Err(self.error(call, rejection, &role)),
        }
    }

    /// The error for a rejection that the caller did not expect.
    pub(super) fn error(&self, call: &Call, rejection: Rejection, role: &str) -> Error {
        rejection
            .into_error(&call.iam_action(), role)
            .during(self.attempted(call))
    }

    fn attempted(&self, call: &Call) -> String {
        let at = self.endpoints.url(call.service);
        let at = at.map_or_else(|_| self.endpoints.region.clone(), |url| url.to_string());
        format!("cannot call {} at {at}", call.iam_action())
    }

    /// Makes a call and retries as `retry` says. In addition, it retries once with AWS's own time
    /// if the clocks differ, and once with new credentials if the current ones were rejected.
    ///
    /// An attempt whose answer was lost may still have taken effect.
    pub(super) async fn call(&self, call: &Call) -> Result<Answer> {
        let url = self.endpoints.url(call.service)?;
        let url = url
            .join(&call.path)
            .attempting(|| format!("`{}` is not a path of {url}", call.path))?;
        let mut retries = BACKOFF.begin(&*self.clock);
        let (mut clock_corrected, mut credentials_renewed) = (false, false);
        loop {
            let credentials = self.credentials.current().await;
            let credentials = credentials.map_err(|error| error.during(self.attempted(call)))?;
            let missed = match self.attempt(&url, call, &credentials).await {
                Ok(response) if (200..300).contains(&response.status) => {
                    return Ok(Answer::Done(response.body));
                }
                Ok(response) => {
                    let rejection = Rejection::read(response.status, &response.body);
                    if rejection.is_about_credentials() {
                        if !clock_corrected && self.take_time_from(response.date) {
                            clock_corrected = true;
                            continue;
                        }
                        if !credentials_renewed {
                            credentials_renewed = true;
                            self.credentials.forget().await;
                            continue;
                        }
                    }
                    if !is_transient(rejection.status, &rejection.code) {
                        return Ok(Answer::Rejected(rejection, credentials.role.clone()));
                    }
                    rejection.into_error(&call.iam_action(), &credentials.role)
                }
                Err(error) => error,
            };
            let attempts = retries.attempt();
            let Some(pause) = retries.next_pause(&*self.clock) else {
                return Err(missed.during(format!(
                    "{}: gave up after {attempts} attempts",
                    self.attempted(call)
                )));
            };
            tracing::debug!(
                action = call.iam_action(), attempts, error = %missed.one_line(),
                "retrying the AWS call"
            );
            self.clock.sleep(pause).await;
        }
    }

    async fn attempt(
        &self,
        url: &Url,
        call: &Call,
        credentials: &RoleCredentials,
    ) -> Result<Response> {
        self.work.aws_request(call.service.name());
        let now = self.now();
        let mut request = self.http.request(call.method.clone(), url.clone());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        for (name, value) in self.signature(url, call, credentials, now)? {
            request = request.header(name, value);
        }
        let answer = request.body(call.body.clone()).send().await;
        // The caller's message already names the URL.
        let answer = answer
            .map_err(reqwest::Error::without_url)
            .attempting(|| "no answer from AWS".to_owned())?;
        let status = answer.status().as_u16();
        let date = date_of(&answer);
        let body = answer
            .text()
            .await
            .map_err(reqwest::Error::without_url)
            .attempting(|| "the answer from AWS was interrupted".to_owned())?;
        Ok(Response { status, date, body })
    }

    /// A call's headers, signed now, for another instance to send.
    pub(super) async fn signed(&self, call: &Call) -> Result<Vec<(String, String)>> {
        let url = self.endpoints.url(call.service)?;
        let credentials = self.credentials.current().await?;
        let signature = self.signature(&url, call, &credentials, self.now())?;
        let own = call.headers.iter();
        let own = own.map(|(name, value)| ((*name).to_owned(), value.clone()));
        Ok(own.chain(signature).collect())
    }

    /// Sends once what another instance has signed; returns the status and body of STS's answer.
    ///
    /// It goes to the service's own address, whatever was signed. Redirects are not followed, and
    /// an answer longer than this service ever sends is cut.
    ///
    /// If the service asks to retry later, it retries for some seconds: the signed request may be
    /// forwarded only once, so the signer would otherwise have to start over.
    pub(super) async fn forward(
        &self,
        service: Service,
        headers: &[(String, String)],
        body: &'static str,
    ) -> Result<(u16, String)> {
        let mut retries = AWS.within(FORWARDING).begin(self.clock.as_ref());
        loop {
            let (status, said) = self.forward_once(service, headers, body).await?;
            let later = is_transient(status, &Rejection::read(status, &said).code);
            let pause = later.then(|| retries.next_pause(self.clock.as_ref()));
            let Some(pause) = pause.flatten() else {
                return Ok((status, said));
            };
            self.clock.sleep(pause).await;
        }
    }

    async fn forward_once(
        &self,
        service: Service,
        headers: &[(String, String)],
        body: &'static str,
    ) -> Result<(u16, String)> {
        self.work.aws_request(service.name());
        let mut request = self.http.post(self.endpoints.url(service)?);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.timeout(FORWARDING).body(body).send().await;
        let mut answer = answer
            .map_err(reqwest::Error::without_url)
            .attempting(|| format!("no answer from {}", service.name()))?;
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        while let Some(part) = answer
            .chunk()
            .await
            .map_err(reqwest::Error::without_url)
            .attempting(|| format!("the answer from {} was interrupted", service.name()))?
        {
            body.extend_from_slice(&part);
            if body.len() > LONGEST_FORWARDED {
                return Err(Error::failed(format!(
                    "the answer from {} is too long",
                    service.name()
                )));
            }
        }
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn now(&self) -> Timestamp {
        self.clock.now() + SignedDuration::from_secs(self.skew.load(Ordering::Relaxed))
    }

    /// The headers with a call's signature.
    fn signature(
        &self,
        url: &Url,
        call: &Call,
        credentials: &RoleCredentials,
        now: Timestamp,
    ) -> Result<Vec<(String, String)>> {
        let attempted = || format!("cannot sign {}", call.iam_action());
        let time = SystemTime::from(now);
        let mut settings = SigningSettings::default();
        if call.method == Method::GET {
            // A verifier that mistakes the query for a form would hash it instead of the body.
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        let identity: Identity = Credentials::new(
            &credentials.access_key_id,
            credentials.secret_access_key.expose_secret(),
            credentials
                .session_token
                .as_ref()
                .map(|token| token.expose_secret().to_owned()),
            None,
            "instance role",
        )
        .into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(self.endpoints.signing_region(call.service))
            .name(call.service.name())
            .time(time)
            .settings(settings)
            .build()
            .attempting(attempted)?
            .into();
        let request = SignableRequest::new(
            call.method.as_str(),
            url.as_str(),
            call.headers
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
            SignableBody::Bytes(call.body.as_bytes()),
        )
        .attempting(attempted)?;
        let (instructions, _) = sign(request, &params).attempting(attempted)?.into_parts();
        Ok(instructions
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    /// Signs with the time of this answer from now on; returns whether that makes a difference.
    pub(super) fn take_time_from(&self, date: Option<Timestamp>) -> bool {
        let Some(theirs) = date else {
            return false;
        };
        let skew = theirs.duration_since(self.clock.now()).as_secs();
        let before = self.skew.load(Ordering::Relaxed);
        if (skew - before).abs() <= TOLERATED_SKEW {
            return false;
        }
        tracing::warn!(
            skew_seconds = skew,
            "this machine's clock differs from AWS's; signing with AWS's time"
        );
        self.skew.store(skew, Ordering::Relaxed);
        true
    }
}

/// The time of an answer, by the server's own clock.
pub(super) fn date_of(answer: &reqwest::Response) -> Option<Timestamp> {
    let date = answer.headers().get(reqwest::header::DATE)?;
    DateTimeParser::new().parse_timestamp(date.as_bytes()).ok()
}
