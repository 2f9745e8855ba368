//! A workaround that lets moto check the permission of S3 listings.
//!
//! moto sees a query after its server has unescaped it. If a value has a slash, as every prefix
//! does, moto's signature therefore differs from the caller's. So moto judges another listing in
//! its place, which needs the same permission: one without slashes, signed with the same keys,
//! which moto's STS issued through the lab.

use std::collections::HashMap;
use std::time::SystemTime;

use anyhow::{Context, Result};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::client::element;
use super::replay::Call;
use crate::network::REGION;

/// A slash as escaped in a query.
const SLASH: &str = "%2F";

/// The keys that moto has issued since its start, by id.
#[derive(Default)]
pub struct Keys(HashMap<String, Identity>);

impl Keys {
    /// Stores the keys in an answer of `AssumeRole`.
    pub fn keep(&mut self, xml: &str) {
        let get = |name| element(xml, name);
        if let (Some(id), Some(secret), Some(token)) = (
            get("AccessKeyId"),
            get("SecretAccessKey"),
            get("SessionToken"),
        ) {
            let keys = Credentials::new(&id, secret, Some(token), None, "lab");
            self.0.insert(id, keys.into());
        }
    }

    /// The listing to judge in place of this call; `None` if moto can judge the call itself, or
    /// will refuse it because it did not issue the keys.
    pub fn stand_in(&self, call: &Call) -> Result<Option<Call>> {
        let lists = call.service() == "s3" && call.method == Method::GET;
        let query = call.path.split_once('?').map_or("", |(_, query)| query);
        let keys = call.key_id().and_then(|id| self.0.get(id));
        let Some(keys) = keys.filter(|_| lists && query.contains(SLASH)) else {
            return Ok(None);
        };
        let host = call.headers.get(header::HOST);
        let host = host.context("a call without a host")?;
        let path = call.path.replace(SLASH, "-");
        let headers = signed(keys, host, &path)?;
        Ok(Some(Call {
            method: Method::GET,
            path,
            headers,
            body: Bytes::new(),
        }))
    }
}

/// The headers of a signed request without a body.
fn signed(keys: &Identity, host: &HeaderValue, path: &str) -> Result<HeaderMap> {
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let parameters = v4::SigningParams::builder()
        .identity(keys)
        .region(REGION)
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()?
        .into();
    let host = host.to_str()?;
    let url = format!("https://{host}{path}");
    let body = SignableBody::Bytes(&[]);
    let request = SignableRequest::new("GET", url, [("host", host)].into_iter(), body)?;
    let (instructions, _) = sign(request, &parameters)?.into_parts();
    let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host)?)]);
    for (name, value) in instructions.headers() {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        headers.insert(name, HeaderValue::from_str(value)?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ANSWER: &str = "<AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>";

    fn call(method: Method, path: &str, service: &str, id: &str) -> Call {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential={id}/20261127/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=1"
        );
        Call {
            method,
            path: path.to_owned(),
            headers: HeaderMap::from_iter([
                (
                    header::HOST,
                    "s3.eu-central-1.amazonaws.com".parse().unwrap(),
                ),
                (header::AUTHORIZATION, scope.parse().unwrap()),
            ]),
            body: Bytes::new(),
        }
    }

    #[test]
    fn a_listing_below_a_prefix_is_judged_by_one_without_slashes_and_by_the_same_keys() {
        let mut keys = Keys::default();
        keys.keep(ANSWER);
        let path = "/bucket?list-type=2&prefix=backups%2Fprod%2F";
        let listing = call(Method::GET, path, "s3", "ASIA1");
        let stand_in = keys.stand_in(&listing).unwrap().unwrap();
        assert_eq!(stand_in.path, "/bucket?list-type=2&prefix=backups-prod-");
        assert_eq!(stand_in.key_id(), Some("ASIA1"));
        assert_eq!(stand_in.headers["x-amz-security-token"], "token");
        assert_ne!(
            stand_in.headers[header::AUTHORIZATION],
            listing.headers[header::AUTHORIZATION]
        );
    }

    #[test]
    fn every_other_call_is_left_to_moto() {
        let mut keys = Keys::default();
        keys.keep(ANSWER);
        let below = "/bucket?list-type=2&prefix=a%2Fb";
        for other in [
            call(Method::GET, "/bucket?list-type=2", "s3", "ASIA1"),
            call(Method::GET, "/bucket/backups%2F1.db", "s3", "ASIA1"),
            call(Method::PUT, below, "s3", "ASIA1"),
            call(Method::GET, below, "ssm", "ASIA1"),
            call(Method::GET, below, "s3", "ASIA2"),
        ] {
            assert!(keys.stand_in(&other).unwrap().is_none(), "{other:?}");
        }
    }
}
