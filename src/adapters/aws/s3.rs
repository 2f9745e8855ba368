//! Objects in S3, large and small: one part each, for which S3's limit is 5 GiB.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>
//!
//! The bucket is part of the path, not of the host: one host name and one certificate serve all
//! buckets, and a bucket's name may contain dots.

mod request;

use std::{io, path::Path, sync::Arc};

use quick_xml::de::from_str;
use reqwest::{Method, Response};
use serde::Deserialize;
use tokio::{fs::File, io::AsyncWriteExt};

use super::{
    answer::Rejection,
    call::{Aws, date_of},
    retry::{BACKOFF, is_transient},
};
use crate::{
    adapters::host,
    error::{Context, Error, Result},
    ports::Created,
};

use request::{Content, Request, Upload, Writing};

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
            writing: Writing::Once,
            content: Content::File(file.to_owned()),
            bytes,
            sha256,
        };
        self.write(bucket, key, upload).await.map(drop)
    }

    /// Writes a small object unless the key exists; returns whether it did.
    pub async fn create(&self, bucket: &str, key: &str, content: Vec<u8>) -> Result<Created> {
        let upload = Upload::of(Writing::Once, content);
        self.write(bucket, key, upload).await
    }

    /// Writes a JSON document, see [`crate::ports::Archive::publish`].
    pub async fn publish(&self, bucket: &str, key: &str, document: &str) -> Result<()> {
        let upload = Upload::of(Writing::Document, document.as_bytes().to_vec());
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
