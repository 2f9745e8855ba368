//! Objects in S3, large and small: one part each, for which S3's limit is 5 GiB.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>
//!
//! The bucket is part of the path, not of the host: one host name and one certificate serve all
//! buckets, and a bucket's name may contain dots.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
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
use quick_xml::de::from_str;
use reqwest::{Method, Response, header};
use secrecy::ExposeSecret;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncWriteExt};
use url::Url;

use super::{
    answer::Rejection,
    call::{Aws, date_of},
    endpoint::Service,
    retry::{BACKOFF, is_transient},
};
use crate::{
    adapters::{host, imds::RoleCredentials},
    error::{Context, Error, Result},
    ports::Created,
};

/// sha256 of an empty body.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A transfer slower than this, in bytes per second, is aborted; the answer gets another minute.
const SLOWEST: u64 = 1 << 20;

/// S3 in the instance's region.
#[derive(Clone)]
pub struct S3(Arc<Aws>, Encryption);

/// How S3 encrypts what is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket is configured.
    #[default]
    OfTheBucket,
    /// With this KMS key: its id, alias or ARN.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/specifying-kms-encryption.html>
    WithKey(String),
}

/// A request to S3.
struct Request<'a> {
    method: Method,
    /// The IAM action, such as `s3:PutObject`.
    action: &'static str,
    bucket: &'a str,
    key: &'a str,
    query: Vec<(&'static str, String)>,
    /// The body to send.
    upload: Option<Upload>,
}

struct Upload {
    kind: Kind,
    content: Content,
    bytes: u64,
    sha256: String,
}

/// How an object is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Once: an existing object stays.
    Once,
    /// As the newest version of a document that everybody may read. A key of KMS would hide it from
    /// all who may not use the key.
    Document,
}

enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// The result of a request.
enum Outcome {
    Done(Response),
    Rejected(Rejection, String),
}

impl S3 {
    /// S3 with these credentials and endpoints.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(aws, Encryption::OfTheBucket)
    }

    /// The same, with this encryption for all writes.
    #[must_use]
    pub fn encrypting(self, encryption: Encryption) -> Self {
        Self(self.0, encryption)
    }

    /// Writes an object unless the key exists, see [`crate::ports::Archive::put`].
    pub async fn put(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        let path = file.to_owned();
        let reading = || format!("cannot read {}", file.display());
        let (bytes, sha256) =
            host::blocking(move || Ok((std::fs::metadata(&path)?.len(), host::sha256_of(&path)?)))
                .await
                .attempting(reading)?;
        let upload = Upload {
            kind: Kind::Once,
            content: Content::File(file.to_owned()),
            bytes,
            sha256,
        };
        self.write(bucket, key, upload).await.map(drop)
    }

    /// Writes a small object unless the key exists; returns whether it did.
    pub async fn create(&self, bucket: &str, key: &str, content: Vec<u8>) -> Result<Created> {
        let upload = Upload::of(Kind::Once, content);
        self.write(bucket, key, upload).await
    }

    /// Writes a JSON document, see [`crate::ports::Archive::publish`].
    pub async fn publish(&self, bucket: &str, key: &str, document: &str) -> Result<()> {
        let upload = Upload::of(Kind::Document, document.as_bytes().to_vec());
        self.write(bucket, key, upload).await.map(drop)
    }

    async fn write(&self, bucket: &str, key: &str, upload: Upload) -> Result<Created> {
        let request = Request {
            upload: Some(upload),
            ..Request::new(Method::PUT, "s3:PutObject", bucket, key)
        };
        match self.call(&request).await? {
            Outcome::Done(_) => Ok(Created::Yes),
            Outcome::Rejected(no, _) if no.status == 412 => Ok(Created::AlreadyThere),
            Outcome::Rejected(no, role) => Err(self.error(&request, no, &role)),
        }
    }

    /// A small object; `None` if the key does not exist.
    pub async fn read(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let request = Request::new(Method::GET, "s3:GetObject", bucket, key);
        let answer = match self.call(&request).await? {
            Outcome::Done(answer) => answer,
            Outcome::Rejected(no, _) if no.code == "NoSuchKey" => return Ok(None),
            Outcome::Rejected(no, role) => return Err(self.error(&request, no, &role)),
        };
        let content = answer.bytes().await.map_err(reqwest::Error::without_url);
        let content = content.attempting(|| "the transfer was interrupted".to_owned());
        let content = content.map_err(|error| error.during(self.attempted(&request)))?;
        Ok(Some(content.into()))
    }

    /// Downloads an object into a file, see [`crate::ports::Archive::get`].
    pub async fn get(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        let request = Request::new(Method::GET, "s3:GetObject", bucket, key);
        let answer = self.done(&request).await?;
        receive(answer, file)
            .await
            .map_err(|error| error.during(self.attempted(&request)))
    }

    /// The keys with this prefix, sorted.
    pub async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Page {
            #[serde(default)]
            contents: Vec<Object>,
            next_continuation_token: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Object {
            key: String,
        }
        let mut keys = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut request = Request::new(Method::GET, "s3:ListBucket", bucket, "");
            request.query = vec![("list-type", "2".to_owned()), ("prefix", prefix.to_owned())];
            if let Some(token) = next.take() {
                request.query.push(("continuation-token", token));
            }
            let answer = self.done(&request).await?;
            let unread = || format!("cannot read the listing of s3://{bucket}/{prefix}");
            let text = answer
                .text()
                .await
                .map_err(reqwest::Error::without_url)
                .attempting(unread)?;
            let page: Page = from_str(&text).attempting(unread)?;
            keys.extend(page.contents.into_iter().map(|object| object.key));
            match page.next_continuation_token {
                Some(token) if !token.is_empty() => next = Some(token),
                _ => break,
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// Deletes an object; one that does not exist is no error.
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        let request = Request::new(Method::DELETE, "s3:DeleteObject", bucket, key);
        self.done(&request).await.map(drop)
    }

    async fn done(&self, request: &Request<'_>) -> Result<Response> {
        match self.call(request).await? {
            Outcome::Done(answer) => Ok(answer),
            Outcome::Rejected(no, role) => Err(self.error(request, no, &role)),
        }
    }

    fn attempted(&self, request: &Request<'_>) -> String {
        format!(
            "cannot call {} on s3://{}/{} in {}",
            request.action, request.bucket, request.key, self.0.endpoints.region
        )
    }

    fn error(&self, request: &Request<'_>, rejection: Rejection, role: &str) -> Error {
        let Request { bucket, action, .. } = request;
        let region = &self.0.endpoints.region;
        let hint = match (rejection.code.as_str(), rejection.status) {
            ("NoSuchBucket", _) => Some(format!(
                "create the bucket {bucket} in {region}, or use another bucket"
            )),
            ("AccessDenied" | "KMS.DisabledException" | "KMS.NotFoundException", _)
                if rejection.message.contains("kms:") || rejection.code.starts_with("KMS") =>
            {
                Some(format!(
                    "allow kms:GenerateDataKey and kms:Decrypt on the key of snapshots.kms_key for the IAM role {role}, in {region}"
                ))
            }
            ("AccessDenied", _) => Some(format!(
                "allow the action {action} on the bucket {bucket} for the IAM role {role}, and check the bucket's own policy"
            )),
            (
                "AuthorizationHeaderMalformed"
                | "PermanentRedirect"
                | "IllegalLocationConstraintException",
                _,
            )
            | (_, 301 | 307) => Some(format!(
                "the bucket {bucket} is not in {region}: use a bucket in this region"
            )),
            _ => None,
        };
        let text = format!(
            "S3 answered {} {}: {}",
            rejection.status, rejection.code, rejection.message
        );
        let error = match hint {
            Some(hint) => Error::failed(text).hint(hint),
            None => rejection.into_error(action, role),
        };
        error.during(self.attempted(request))
    }

    /// As [`Aws::call`] does it.
    async fn call(&self, request: &Request<'_>) -> Result<Outcome> {
        let aws = &self.0;
        let url = self.url(request)?;
        let mut retries = BACKOFF.begin(&*aws.clock);
        let (mut clock_corrected, mut credentials_renewed) = (false, false);
        loop {
            let credentials = aws.credentials.current().await;
            let credentials = credentials.map_err(|error| error.during(self.attempted(request)))?;
            let missed = match self.attempt(&url, request, &credentials).await {
                Ok(answer) if answer.status().is_success() => return Ok(Outcome::Done(answer)),
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let date = date_of(&answer);
                    let rejection = rejection(status, &answer.text().await.unwrap_or_default());
                    if rejection.is_about_credentials() {
                        if !clock_corrected && aws.take_time_from(date) {
                            clock_corrected = true;
                            continue;
                        }
                        if !credentials_renewed {
                            credentials_renewed = true;
                            aws.credentials.forget().await;
                            continue;
                        }
                    }
                    // 409: another write of the key is in progress.
                    if status != 409 && !is_transient(status, &rejection.code) {
                        return Ok(Outcome::Rejected(rejection, credentials.role.clone()));
                    }
                    rejection.into_error(request.action, &credentials.role)
                }
                Err(error) => error,
            };
            let attempts = retries.attempt();
            let Some(pause) = retries.next_pause(&*aws.clock) else {
                return Err(missed.during(format!(
                    "{}: gave up after {attempts} attempts",
                    self.attempted(request)
                )));
            };
            aws.clock.sleep(pause).await;
        }
    }

    fn url(&self, request: &Request<'_>) -> Result<Url> {
        let mut url = self.0.endpoints.url(Service::S3)?;
        url.set_path(&format!("/{}/{}", request.bucket, request.key));
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        Ok(url)
    }

    async fn attempt(
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
            own = self.own_headers(upload.kind);
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
    fn own_headers(&self, kind: Kind) -> Vec<(&'static str, &str)> {
        let mut headers = match kind {
            Kind::Once => vec![("if-none-match", "*")],
            Kind::Document => {
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
    fn of(kind: Kind, content: Vec<u8>) -> Self {
        Self {
            kind,
            bytes: content.len() as u64,
            sha256: hex::encode(Sha256::digest(&content)),
            content: Content::Bytes(content),
        }
    }
}

impl<'a> Request<'a> {
    fn new(method: Method, action: &'static str, bucket: &'a str, key: &'a str) -> Self {
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

/// `<Error><Code>...</Code><Message>...</Message></Error>`
fn rejection(status: u16, body: &str) -> Rejection {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Said {
        code: String,
        #[serde(default)]
        message: String,
    }
    let said = from_str(body).unwrap_or_else(|_| Said {
        code: String::new(),
        message: body.chars().take(200).collect(),
    });
    Rejection {
        status,
        code: said.code,
        message: said.message,
    }
}

/// Writes what arrives to a temporary file, which is renamed once it is complete and on disk.
async fn receive(mut answer: Response, file: &Path) -> Result<()> {
    let writing = || format!("cannot write {}", file.display());
    let target = file.to_owned();
    let part = host::blocking(move || host::written_next_to(&target, b"", 0o600))
        .await
        .attempting(writing)?;
    let mut out = File::from_std(part.as_file().try_clone().attempting(writing)?);
    let expected = answer.content_length();
    let mut bytes: u64 = 0;
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(reqwest::Error::without_url)
        .attempting(|| "the transfer was interrupted".to_owned())?
    {
        bytes += chunk.len() as u64;
        out.write_all(&chunk).await.attempting(writing)?;
    }
    if expected.is_some_and(|expected| expected != bytes) {
        return Err(Error::failed(format!(
            "the transfer ended after {bytes} bytes"
        )));
    }
    out.sync_all().await.attempting(writing)?;
    drop(out);
    let target = file.to_owned();
    host::blocking(move || {
        part.persist(&target)
            .map_err(|error| io::Error::other(error.error))?;
        host::sync_folder(host::folder_of(&target))
    })
    .await
    .attempting(writing)
}

#[cfg(test)]
mod tests;
