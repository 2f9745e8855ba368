//! Downloads over HTTP that stay hidden until their digest is verified.
//!
//! A download goes to a hidden part file next to its target, is hashed while it arrives and renamed
//! into place at the end. An archive is also unpacked while it arrives, into a hidden staging
//! folder. After an interruption, of the connection or of the agent, it resumes at the same byte.

mod place;
mod receive;
mod transfer;
mod unpack;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, sync::mpsc, time::Instant};

use self::{
    place::{Journal, Place},
    receive::{Outcome, Received},
    transfer::{Stop, Transfer},
};
use super::host;
use crate::{
    error::{Context, Error, Kind, Result},
    ports::{Download, Downloads, is_sha256},
    report::Work,
};

/// The most that `text` reads: manifests are far smaller.
const LARGEST_TEXT: usize = 8 * 1024 * 1024;

/// Downloads with one HTTP client, several in parallel.
#[derive(Debug, Clone)]
pub struct HttpDownloads {
    client: reqwest::Client,
    root: PathBuf,
    deadline: Duration,
    slots: Arc<Semaphore>,
    work: Work,
}

impl HttpDownloads {
    /// At most `parallel` files at the same time; each has `deadline`, including its retries.
    pub fn new(client: reqwest::Client, parallel: usize, deadline: Duration) -> Self {
        Self {
            client,
            root: PathBuf::from("/"),
            deadline,
            slots: Arc::new(Semaphore::new(parallel.max(1))),
            work: Work::default(),
        }
    }

    /// The same; what is received counts as this work.
    #[must_use]
    pub fn counting(mut self, work: Work) -> Self {
        self.work = work;
        self
    }

    /// The same, with this folder as `/`.
    #[must_use]
    pub fn at(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// One pass over the download. `None` if its parts do not fit together, or if parts that may be
    /// damaged do not give the wanted file: neither says anything about the server's file.
    async fn pass(
        &self,
        download: &Download,
        place: &Place,
        wanted: &str,
        end: Instant,
        doubtful: bool,
    ) -> Result<Option<()>> {
        let held = {
            let (place, journal) = (place.clone(), Journal::of(download));
            let held = host::blocking(move || Ok(place.held(&journal))).await;
            held.attempting(|| format!("cannot check for an earlier part of {}", download.url))?
        };
        let total = Arc::new(AtomicU64::new(0));
        let (pieces, queue) = mpsc::channel(16);
        let receiving = {
            let (place, download) = (place.clone(), download.clone());
            let wanted = wanted.to_owned();
            tokio::task::spawn_blocking(move || {
                receive::receive(&place, &download, &wanted, held, queue)
            })
        };
        let mut transfer = Transfer {
            client: &self.client,
            work: &self.work,
            url: &download.url,
            folder: &place.folder,
            at: held,
            resumed: held > 0,
            total: &total,
            last: None,
        };
        let sent = tokio::time::timeout_at(end, transfer.run(pieces)).await;
        let (at, resumed, last) = (transfer.at, transfer.resumed, transfer.last.take());
        let received = receiving
            .await
            .attempting(|| format!("cannot receive {}", download.url))?;

        let needed = total.load(Ordering::Relaxed).max(at);
        match (received, sent) {
            (Err(cause), _) => Err(receive::not_stored(
                &cause,
                &download.url,
                &place.folder,
                needed,
            )),
            (
                Ok(Received {
                    outcome: Outcome::Installed,
                    ..
                }),
                _,
            ) => Ok(Some(())),
            (Ok(_), Ok(Err(Stop::Spoiled))) => Ok(None),
            (Ok(_), Ok(Err(Stop::Again(error)))) => Err(error),
            (Ok(_), Ok(Err(Stop::Final(error)))) => {
                // What came before the server denied the rest is still valid.
                if error.kind() != Kind::Doubtful || at == 0 {
                    place.clear();
                }
                Err(error)
            }
            (Ok(_), Err(_)) => Err(late(&download.url, self.deadline, at, &total, last)),
            (Ok(received), Ok(Ok(()))) => match received.outcome {
                Outcome::WrongDigest if resumed && doubtful => Ok(None),
                Outcome::WrongDigest => Err(wrong_digest(
                    &download.url,
                    wanted,
                    &received.sha256,
                    received.bytes,
                )),
                Outcome::NotAnArchive(why) => Err(Error::refused(format!(
                    "{} has the right sha256 but is not a gzipped tar archive of programs: {why}",
                    download.url
                ))
                .hint("set `url` and `sha256` of its pin to those of the release's archive")),
                Outcome::Installed | Outcome::Interrupted => Err(Error::failed(format!(
                    "{} was interrupted after {at} bytes",
                    download.url
                ))),
            },
        }
    }
}

#[async_trait]
impl Downloads for HttpDownloads {
    async fn fetch(&self, download: &Download) -> Result<()> {
        let wanted = digest(&download.sha256, &download.url)?;
        let place = Place::of(&self.root, download)?;
        let _slot = self
            .slots
            .acquire()
            .await
            .attempting(|| format!("cannot start the download of {}", download.url))?;
        let begun = Instant::now();
        let end = begun + self.deadline;
        // The part of an earlier run may be damaged; the second pass starts over.
        for doubtful in [true, false] {
            let pass = self.pass(download, &place, &wanted, end, doubtful);
            if pass.await?.is_some() {
                tracing::info!(
                    DURATION_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "downloaded and verified {}",
                    download.url
                );
                return Ok(());
            }
            tracing::warn!(
                url = download.url,
                "the downloaded parts do not match the sha256; starting over"
            );
            place.clear();
        }
        Err(Error::failed(format!(
            "{} changed or was damaged during the download, twice; its parts do not have the sha256 {wanted}",
            download.url
        ))
        .hint("try again; if it persists, check the mirrors in [downloads.mirrors]"))
    }

    async fn text(&self, url: &str, sha256: &str) -> Result<String> {
        let wanted = digest(sha256, url)?;
        let body = match tokio::time::timeout(
            self.deadline,
            transfer::whole(&self.client, url, LARGEST_TEXT),
        )
        .await
        {
            Ok(body) => body?,
            Err(_) => return Err(late(url, self.deadline, 0, &AtomicU64::new(0), None)),
        };
        let got = hex::encode(Sha256::digest(&body));
        if got != wanted {
            return Err(wrong_digest(url, &wanted, &got, body.len() as u64));
        }
        String::from_utf8(body).requiring(|| format!("{url} is not UTF-8 text"))
    }
}

fn late(url: &str, deadline: Duration, at: u64, total: &AtomicU64, last: Option<Error>) -> Error {
    let of = match total.load(Ordering::Relaxed) {
        0 => String::new(),
        total => format!(" of {total}"),
    };
    let late = format!(
        "{url} was not downloaded within {} s: {at}{of} bytes arrived",
        deadline.as_secs_f32()
    );
    last.map_or_else(|| Error::failed(late.clone()), |last| last.during(late.clone()))
        .hint("check the network to this server, or set a mirror in [downloads.mirrors]; the next run resumes")
}

/// The content may be a proxy's login page, or the mirror is still being filled.
fn wrong_digest(url: &str, wanted: &str, got: &str, bytes: u64) -> Error {
    Error::doubtful(format!(
        "{url} has the wrong sha256: expected {wanted}, got {got} ({bytes} bytes)"
    ))
    .hint("the download was discarded; if the file is the right one, put its digest into `sha256` of its pin, otherwise check `url` and [downloads.mirrors]")
}

/// The digest in lower case, if it is one.
fn digest(text: &str, url: &str) -> Result<String> {
    if is_sha256(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(
        Error::refused(format!("`{text}` is not a sha256 for {url}"))
            .hint("a sha256 has 64 hexadecimal digits"),
    )
}

#[cfg(test)]
mod tests;
