//! The instance metadata service, version 2 only.
//!
//! A session token is fetched by PUT, sent with every GET, and renewed before it expires or when
//! the service answers 401. There is no fallback to version 1: if the service refuses the token,
//! that is an error with a hint.
//!
//! Early in boot the service may not be reachable yet, and rarely it answers 5xx. Both are retried
//! for 60 s in total, by the schedule [`METADATA`].

mod credentials;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::http::Clients;
use crate::{
    error::{Context, Error, Result},
    ports::{Clock, InstanceFacts, Metadata, Notices},
    wait::schedules::METADATA,
};

pub use credentials::RoleCredentials;

/// The service's address on every instance.
pub const ADDRESS: &str = "http://169.254.169.254";

/// The longest token lifetime that the service grants, in seconds.
const TOKEN_TTL: u32 = 21_600;
/// Tokens and credentials are renewed when less than this is left of their lifetime.
const RENEW_BEFORE: Duration = Duration::from_mins(5);
const DEADLINE: Duration = Duration::from_mins(1);
/// Holds the instance's id on Nitro, which makes hints exact if the service is off.
const ASSET_TAG: &str = "/sys/class/dmi/id/board_asset_tag";

/// A client of the metadata service.
pub struct Imds {
    base: Url,
    http: Client,
    clock: Arc<dyn Clock>,
    token: Mutex<Option<Token>>,
    credentials: Mutex<Option<Arc<RoleCredentials>>>,
}

struct Token {
    value: String,
    renew_at: Timestamp,
}

/// A path that the service answered with 404.
struct Missing;

impl Imds {
    /// A client of the service at [`ADDRESS`].
    pub fn new(clients: &Clients, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::at(ADDRESS, clients, clock)
    }

    /// A client of a service elsewhere, such as `http://127.0.0.1:1338`.
    pub fn at(base: &str, clients: &Clients, clock: Arc<dyn Clock>) -> Result<Self> {
        let base: Url = base
            .parse()
            .requiring(|| format!("the metadata service's address `{base}` is not a URL"))?;
        if base.cannot_be_a_base() {
            return Err(Error::refused(format!(
                "the metadata service's address `{base}` is not an http URL"
            )));
        }
        Ok(Self {
            base,
            http: clients.metadata()?,
            clock,
            token: Mutex::default(),
            credentials: Mutex::default(),
        })
    }

    /// The URL of a path; each segment is escaped separately, since tag keys are arbitrary.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("latest").extend(path);
        }
        url
    }

    /// The content of a path, read with a valid token.
    async fn get(&self, path: &[&str]) -> Result<Result<Vec<u8>, Missing>> {
        let url = self.url(path);
        let attempted = || format!("cannot read {url} from the metadata service");
        let mut answer = self.get_with_token(&url).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // The service forgets tokens when an instance is stopped and started.
            self.token.lock().await.take();
            answer = self.get_with_token(&url).await?;
        }
        match answer.status() {
            StatusCode::OK => {
                let content = answer.bytes().await.attempting(attempted)?;
                Ok(Ok(content.to_vec()))
            }
            StatusCode::NOT_FOUND => Ok(Err(Missing)),
            StatusCode::FORBIDDEN => Err(is_off(answer.status()).during(attempted())),
            status => Err(Error::failed(format!("it answered {status}")).during(attempted())),
        }
    }

    async fn get_with_token(&self, url: &Url) -> Result<Response> {
        let token = self.token().await?;
        let request = self
            .http
            .request(Method::GET, url.clone())
            .header("x-aws-ec2-metadata-token", token);
        self.send(&request).await
    }

    async fn token(&self) -> Result<String> {
        let mut held = self.token.lock().await;
        if let Some(token) = &*held
            && self.clock.now() < token.renew_at
        {
            return Ok(token.value.clone());
        }
        let url = self.url(&["api", "token"]);
        let request = self
            .http
            .request(Method::PUT, url.clone())
            .header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL);
        let attempted = || format!("cannot get a session token by PUT {url}");
        let asked_at = self.clock.now();
        let answer = self.send(&request).await?;
        match answer.status() {
            StatusCode::OK => {}
            status @ StatusCode::FORBIDDEN => return Err(is_off(status).during(attempted())),
            status @ (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => {
                return Err(Error::refused(format!(
                    "it answered {status}: only version 1 is offered, or something else listens there"
                ))
                .hint(format!(
                    "IMDSv2 is required: {} --http-endpoint enabled --http-tokens required",
                    modify_own_options()
                ))
                .during(attempted()));
            }
            status => {
                return Err(Error::failed(format!("it answered {status}")).during(attempted()));
            }
        }
        let granted = answer
            .headers()
            .get("x-aws-ec2-metadata-token-ttl-seconds")
            .and_then(|ttl| ttl.to_str().ok()?.parse().ok())
            .unwrap_or(TOKEN_TTL);
        let life = Duration::from_secs(granted.into());
        let value = answer.text().await.attempting(attempted)?;
        *held = Some(Token {
            value: value.clone(),
            renew_at: asked_at + life.saturating_sub(RENEW_BEFORE).max(life / 2),
        });
        Ok(value)
    }

    /// Sends until the service gives an answer that waiting would not change.
    async fn send(&self, request: &RequestBuilder) -> Result<Response> {
        let clock = self.clock.as_ref();
        let mut retries = METADATA.within(DEADLINE).begin(clock);
        loop {
            let request = request
                .try_clone()
                .ok_or_else(|| Error::failed("a metadata request cannot be sent twice"))?;
            let missed = match request.send().await {
                Ok(answer)
                    if answer.status().is_server_error()
                        || answer.status() == StatusCode::TOO_MANY_REQUESTS =>
                {
                    Error::failed(format!(
                        "the metadata service at {} keeps answering {}",
                        self.base,
                        answer.status()
                    ))
                }
                Ok(answer) => return Ok(answer),
                Err(error) => Error::failed(format!(
                    "no answer from the metadata service at {} within {} s",
                    self.base,
                    DEADLINE.as_secs()
                ))
                .because(&error.without_url())
                .hint(format!(
                    "if IMDS is off: {} --http-endpoint enabled",
                    modify_own_options()
                )),
            };
            let Some(pause) = retries.next_pause(clock) else {
                return Err(missed);
            };
            tracing::debug!(error = %missed.one_line(), "retrying the metadata service");
            clock.sleep(pause).await;
        }
    }

    async fn text(&self, path: &[&str]) -> Result<Result<String, Missing>> {
        let content = match self.get(path).await? {
            Ok(content) => content,
            Err(Missing) => return Ok(Err(Missing)),
        };
        let text = String::from_utf8(content)
            .attempting(|| format!("{} is not UTF-8 text", self.url(path)))?;
        Ok(Ok(text))
    }

    /// The content of a path that every instance has.
    async fn required_text(&self, path: &[&str]) -> Result<String> {
        self.text(path).await?.map_err(|Missing| {
            Error::failed(format!("the metadata service has no {}", self.url(path)))
        })
    }

    async fn document(&self) -> Result<Document> {
        let path = ["dynamic", "instance-identity", "document"];
        let text = self.required_text(&path).await?;
        serde_json::from_str(&text).attempting(|| {
            format!(
                "{} is not an EC2 instance identity document",
                self.url(&path)
            )
        })
    }
}

fn is_off(status: StatusCode) -> Error {
    Error::refused(format!("it answered {status}")).hint(format!(
        "IMDS is off: {} --http-endpoint enabled",
        modify_own_options()
    ))
}

/// The start of the command that changes the service's options. It works for this instance even if
/// the service cannot be asked for its id.
fn modify_own_options() -> String {
    let from_board = std::fs::read_to_string(ASSET_TAG).unwrap_or_default();
    let id = Some(from_board.trim()).filter(|id| id.starts_with("i-"));
    let id = id.unwrap_or("INSTANCE_ID");
    format!("aws ec2 modify-instance-metadata-options --instance-id {id}")
}

/// The relevant fields of the instance identity document.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    instance_id: String,
    instance_type: String,
    region: String,
    availability_zone: String,
    account_id: String,
    private_ip: std::net::Ipv4Addr,
}

#[async_trait]
impl Metadata for Imds {
    async fn facts(&self) -> Result<InstanceFacts> {
        let document = self.document().await?;
        let local_hostname = self.required_text(&["meta-data", "local-hostname"]).await?;
        Ok(InstanceFacts {
            instance_id: document.instance_id,
            instance_type: document.instance_type,
            region: document.region,
            zone: document.availability_zone,
            account: document.account_id,
            private_ip: document.private_ip,
            local_hostname: local_hostname.trim().to_owned(),
        })
    }

    async fn tags(&self) -> Result<Option<BTreeMap<String, String>>> {
        let folder = ["meta-data", "tags", "instance"];
        let Ok(keys) = self.text(&folder).await? else {
            return Ok(None);
        };
        let mut tags = BTreeMap::new();
        for key in keys.lines().filter(|key| !key.is_empty()) {
            // A tag removed since the listing is skipped.
            if let Ok(value) = self.text(&["meta-data", "tags", "instance", key]).await? {
                tags.insert(key.to_owned(), value);
            }
        }
        Ok(Some(tags))
    }

    async fn vpc_networks(&self) -> Result<Vec<String>> {
        let mac = self.required_text(&["meta-data", "mac"]).await?;
        let interface = ["meta-data", "network", "interfaces", "macs", mac.trim()];
        let blocks = [&interface[..], &["vpc-ipv4-cidr-blocks"]].concat();
        let blocks = self.required_text(&blocks).await?;
        Ok(blocks.split_whitespace().map(str::to_owned).collect())
    }

    async fn notices(&self) -> Result<Notices> {
        // Each path exists only while there is a notice; only the group's path always exists.
        let lifecycle = ["meta-data", "autoscaling", "target-lifecycle-state"];
        let lifecycle = self.text(&lifecycle).await?.ok();
        let interruption = ["meta-data", "spot", "instance-action"];
        let interruption = match self.text(&interruption).await? {
            Ok(text) => Some(
                serde_json::from_str(&text)
                    .attempting(|| format!("cannot read spot/instance-action `{text}`"))?,
            ),
            Err(Missing) => None,
        };
        let rebalance = ["meta-data", "events", "recommendations", "rebalance"];
        Ok(Notices {
            terminated_by_group: lifecycle.is_some_and(|state| state.trim() == "Terminated"),
            interruption,
            rebalance: self.text(&rebalance).await?.is_ok(),
        })
    }

    async fn user_data(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.get(&["user-data"]).await?.ok())
    }
}

#[cfg(test)]
mod tests;
