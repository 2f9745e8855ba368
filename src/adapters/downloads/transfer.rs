//! The sending end: one body over as many requests as necessary.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use http::{StatusCode, header};
use tokio::sync::mpsc;

use super::receive::{Piece, no_space};
use crate::{
    adapters::host,
    error::{Error, Kind, Result},
    kubernetes::BUNDLE_SERVER,
    report::Work,
    wait::schedules::DOWNLOAD,
};

/// A server that is silent for this long counts as gone.
const SILENCE: Duration = Duration::from_secs(30);

/// The largest file that is accepted from a server, whatever it announces.
const LARGEST: u64 = 4 << 30;

/// The pauses of the schedule [`DOWNLOAD`]; backon's jitter is [`crate::wait::Jitter::Added`].
fn pauses() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(DOWNLOAD.first)
        .with_factor(DOWNLOAD.factor)
        .with_max_delay(DOWNLOAD.longest)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Why a transfer ended early.
pub(super) enum Stop {
    /// The received bytes cannot be part of this file: start over.
    Spoiled,
    /// Another attempt may get further.
    Again(Error),
    /// Another attempt now would fail the same way.
    Final(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error.kind() {
            Kind::Failed => Self::Again(error),
            Kind::Doubtful | Kind::Refused | Kind::Usage => Self::Final(error),
        }
    }
}

/// The state of one download's transfer.
pub(super) struct Transfer<'a> {
    pub client: &'a reqwest::Client,
    /// What is received counts as this.
    pub work: &'a Work,
    pub url: &'a str,
    /// The folder where the bytes will be stored.
    pub folder: &'a Path,
    /// How many bytes the receiver has.
    pub at: u64,
    /// Whether the bytes come from more than one request.
    pub resumed: bool,
    /// The whole file's length once known, else 0.
    pub total: &'a AtomicU64,
    /// The error of the last attempt.
    pub last: Option<Error>,
}

impl Transfer<'_> {
    /// Sends everything from `at` on; retries after interruptions until stopped from outside.
    pub async fn run(&mut self, pieces: mpsc::Sender<Piece>) -> Result<(), Stop> {
        let mut pause = pauses();
        loop {
            let before = self.at;
            match self.attempt(&pieces).await {
                Ok(()) => {
                    // If the receiver has ended, it has its own error.
                    let _ = pieces.send(Piece::End).await;
                    return Ok(());
                }
                Err(Stop::Again(error)) if !pieces.is_closed() => {
                    if self.at > before {
                        pause = pauses();
                    }
                    let pause = pause.next().unwrap_or(SILENCE);
                    tracing::warn!(
                        url = self.url,
                        at = self.at,
                        error = error.one_line(),
                        "download interrupted; resuming"
                    );
                    self.last = Some(error);
                    tokio::time::sleep(pause).await;
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    async fn attempt(&mut self, pieces: &mpsc::Sender<Piece>) -> Result<(), Stop> {
        let mut request = self.client.get(self.url);
        if self.at > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.at));
            self.resumed = true;
        }
        let response = answered(request, self.url).await?;
        let range = content_range(&response);
        let (mut skip, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => match range {
                Some((Some(start), total)) if start == self.at => (0, total),
                _ => {
                    return Err(Error::failed(format!(
                        "{} did not return the requested range from byte {}",
                        self.url, self.at
                    ))
                    .into());
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return match range {
                    Some((None, Some(total))) if total == self.at => Ok(()),
                    _ => Err(Stop::Spoiled),
                };
            }
            // The server does not support ranges: it sends the bytes that are already here again.
            StatusCode::OK => (self.at, response.content_length()),
            status => return Err(unwanted(status, self.url).into()),
        };
        self.expect(total)?;

        let mut body = response.bytes_stream();
        while let Some(bytes) = heard(body.next(), self.url).await? {
            let bytes = bytes.map_err(|cause| broke(self.url, self.at).because(&cause))?;
            self.work.downloaded(bytes.len());
            let known = usize::try_from(skip).map_or(bytes.len(), |s| s.min(bytes.len()));
            skip -= known as u64;
            let new = &bytes[known..];
            if new.is_empty() {
                continue;
            }
            self.at += new.len() as u64;
            if self.at > LARGEST {
                return Err(too_large(self.url, LARGEST).into());
            }
            if pieces.send(Piece::Bytes(new.to_vec())).await.is_err() {
                return Err(broke(self.url, self.at).into());
            }
        }
        match total {
            Some(total) if self.at < total => Err(broke(self.url, self.at).into()),
            _ if skip > 0 => Err(Stop::Spoiled),
            _ => Ok(()),
        }
    }

    /// Records the whole length, and refuses a file that does not fit before any of it is stored.
    fn expect(&self, total: Option<u64>) -> Result<(), Stop> {
        let Some(total) = total else { return Ok(()) };
        self.total.store(total, Ordering::Relaxed);
        if total < self.at {
            return Err(Stop::Spoiled);
        }
        let free = host::free_bytes(self.folder).unwrap_or(u64::MAX);
        if free < total - self.at {
            // A later run may find more space; an attempt right now would not.
            return Err(Stop::Final(no_space(self.url, self.folder, total)));
        }
        if total > LARGEST {
            return Err(too_large(self.url, LARGEST).into());
        }
        Ok(())
    }
}

/// A body of at most `limit` bytes, retried until it is complete or stopped from outside.
pub(super) async fn whole(client: &reqwest::Client, url: &str, limit: usize) -> Result<Vec<u8>> {
    let mut pause = pauses();
    loop {
        match body(client, url, limit).await {
            Err(error) if error.kind() == Kind::Failed => {
                tracing::warn!(
                    url,
                    error = error.one_line(),
                    "download interrupted; retrying"
                );
                tokio::time::sleep(pause.next().unwrap_or(SILENCE)).await;
            }
            finished => return finished,
        }
    }
}

async fn body(client: &reqwest::Client, url: &str, limit: usize) -> Result<Vec<u8>> {
    let response = answered(client.get(url), url).await?;
    if response.status() != StatusCode::OK {
        return Err(unwanted(response.status(), url));
    }
    let mut content = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(bytes) = heard(stream.next(), url).await? {
        let bytes = bytes.map_err(|cause| broke(url, content.len() as u64).because(&cause))?;
        if content.len() + bytes.len() > limit {
            return Err(too_large(url, limit as u64));
        }
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

async fn answered(request: reqwest::RequestBuilder, url: &str) -> Result<reqwest::Response> {
    heard(request.send(), url).await?.map_err(|cause| {
        let error = Error::failed(format!("cannot reach {url}")).because(&cause);
        let hint = "correct the `url` of its pin or [downloads.mirrors]";
        if cause.is_builder() {
            return error.for_a_person().hint(hint);
        }
        if cause.is_redirect() {
            return error.unless_it_passes().hint(hint);
        }
        error
    })
}

async fn heard<T>(what: impl Future<Output = T>, url: &str) -> Result<T> {
    tokio::time::timeout(SILENCE, what)
        .await
        .map_err(|_| Error::failed(format!("{url} sent nothing for {} s", SILENCE.as_secs())))
}

fn broke(url: &str, at: u64) -> Error {
    Error::failed(format!("{url} was interrupted after {at} bytes"))
}

fn too_large(url: &str, limit: u64) -> Error {
    Error::refused(format!("{url} is larger than {limit} bytes"))
        .hint("check the `url` of its pin and [downloads.mirrors]")
}

/// The error for a status without a file. Registries and release sites answer 401, 403 and 404
/// under load and by region, and mirrors until they are filled.
/// <https://github.com/kubernetes/k8s.io/issues/4214>
fn unwanted(status: StatusCode, url: &str) -> Error {
    let what = format!("{url} answered {status}");
    let passes = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    if passes {
        return Error::failed(what);
    }
    if url.contains(BUNDLE_SERVER) {
        return Error::doubtful(what).hint(
            "the bundle does not have this file: make it again with `k8s-bootstrap bundle` and these settings",
        );
    }
    Error::doubtful(what).hint(
        "check `version` and `url` of its pin; a mirror named in [downloads.mirrors] must have the same layout as the origin",
    )
}

/// The first byte and the total of a Content-Range: `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
fn content_range(response: &reqwest::Response) -> Option<(Option<u64>, Option<u64>)> {
    let value = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let start = range
        .split_once('-')
        .and_then(|(start, _)| start.parse().ok());
    Some((start, total.parse().ok()))
}
