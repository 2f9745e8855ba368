//! One request to S3, signed and sent.

use std::{
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity;
use jiff::SignedDuration;
use reqwest::{Method, Response, header};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use url::Url;

use super::{Encryption, S3};
use crate::{
    adapters::{aws::endpoint::Service, imds::RoleCredentials},
    error::{Context, Result},
};

/// sha256 of an empty body.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A transfer slower than this, in bytes per second, is aborted; the answer gets another minute.
const SLOWEST: u64 = 1 << 20;

/// A request to S3.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// The IAM action, such as `s3:PutObject`.
    pub(super) action: &'static str,
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) query: Vec<(&'static str, String)>,
    /// The body to send.
    pub(super) upload: Option<Upload>,
}

/// A body to send.
pub(super) struct Upload {
    pub(super) writing: Writing,
    pub(super) content: Content,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// How an object is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// Once: an existing object stays.
    Once,
    /// As the newest version of a document that everybody may read. A key of KMS would hide it from
    /// all who may not use the key.
    Document,
}

/// Where its bytes are.
pub(super) enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl S3 {
    pub(super) fn url(&self, request: &Request<'_>) -> Result<Url> {
        let mut url = self.0.endpoints.url(Service::S3)?;
        url.set_path(&format!("/{}/{}", request.bucket, request.key));
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        Ok(url)
    }

    /// Sends it once.
    pub(super) async fn attempt(
        &self,
        url: &Url,
        request: &Request<'_>,
        credentials: &RoleCredentials,
    ) -> Result<Response> {
        let aws = &self.0;
        aws.work.aws_request("s3");
        let bytes = request.upload.as_ref().map_or(0, |upload| upload.bytes);
        let limit = Duration::from_secs(60 + bytes / SLOWEST);
        let mut call = aws
            .http
            .request(request.method.clone(), url.clone())
            .timeout(limit);
        // A download takes as long as its size needs; it is aborted when no data arrive.
        if request.action == "s3:GetObject" {
            call = call.timeout(Duration::from_hours(1));
        }
        let mut own = Vec::new();
        if let Some(upload) = &request.upload {
            own = self.own_headers(upload.writing);
            call = call.header(header::CONTENT_LENGTH, bytes);
            call = match &upload.content {
                Content::Bytes(content) => call.body(content.clone()),
                Content::File(path) => call.body(
                    File::open(path)
                        .await
                        .attempting(|| format!("cannot read {}", path.display()))?,
                ),
            };
        }
        for (name, value) in &own {
            call = call.header(*name, *value);
        }
        for (name, value) in self.signature(url, request, &own, credentials)? {
            call = call.header(name, value);
        }
        call.send()
            .await
            .map_err(reqwest::Error::without_url)
            .attempting(|| "no answer from S3".to_owned())
    }

    /// The headers of a write that are S3's own.
    fn own_headers(&self, writing: Writing) -> Vec<(&'static str, &str)> {
        let mut headers = match writing {
            Writing::Once => vec![("if-none-match", "*")],
            Writing::Document => {
                return vec![
                    ("content-type", "application/json"),
                    ("x-amz-server-side-encryption", "AES256"),
                ];
            }
        };
        if let Encryption::WithKey(key) = &self.1 {
            headers.push(("x-amz-server-side-encryption", "aws:kms"));
            headers.push(("x-amz-server-side-encryption-aws-kms-key-id", key));
        }
        headers
    }

    /// The headers with a request's signature, as S3 requires: the unchanged path, and the
    /// content's digest.
    fn signature(
        &self,
        url: &Url,
        request: &Request<'_>,
        own: &[(&str, &str)],
        credentials: &RoleCredentials,
    ) -> Result<Vec<(String, String)>> {
        let aws = &self.0;
        let attempted = || format!("cannot sign {}", request.action);
        let now = aws.clock.now() + SignedDuration::from_secs(aws.skew.load(Ordering::Relaxed));
        let time = SystemTime::from(now);
        let token = credentials.session_token.as_ref();
        let identity: Identity = Credentials::new(
            &credentials.access_key_id,
            credentials.secret_access_key.expose_secret(),
            token.map(|token| token.expose_secret().to_owned()),
            None,
            "instance role",
        )
        .into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&aws.endpoints.region)
            .name("s3")
            .time(time)
            .settings(settings)
            .build()
            .attempting(attempted)?
            .into();
        let digest = request
            .upload
            .as_ref()
            .map_or_else(|| EMPTY.to_owned(), |upload| upload.sha256.clone());
        let signable = SignableRequest::new(
            request.method.as_str(),
            url.as_str(),
            own.iter().copied(),
            SignableBody::Precomputed(digest),
        )
        .attempting(attempted)?;
        let (instructions, _) = sign(signable, &params).attempting(attempted)?.into_parts();
        Ok(instructions
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }
}

impl Upload {
    /// A body in memory.
    pub(super) fn of(writing: Writing, content: Vec<u8>) -> Self {
        Self {
            writing,
            bytes: content.len() as u64,
            sha256: hex::encode(Sha256::digest(&content)),
            content: Content::Bytes(content),
        }
    }
}

impl<'a> Request<'a> {
    /// A request without a body.
    pub(super) fn new(method: Method, action: &'static str, bucket: &'a str, key: &'a str) -> Self {
        Self {
            method,
            action,
            bucket,
            key,
            query: Vec::new(),
            upload: None,
        }
    }
}
