//! The receiving end: hashes, stores and unpacks in one pass, then installs.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Seek, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{
    place::{Journal, Place},
    unpack::{Unpacking, unpack},
};
use crate::{adapters::host, error::Error, ports::Download, steps::host::Inventory};

/// What the sender passes on.
pub(super) enum Piece {
    /// The next bytes.
    Bytes(Vec<u8>),
    /// The end of the body. If the channel ends without it, the transfer was interrupted.
    End,
}

/// The result of receiving.
pub(super) struct Received {
    pub outcome: Outcome,
    pub sha256: String,
    pub bytes: u64,
}

/// How receiving ended.
pub(super) enum Outcome {
    /// Verified and in place.
    Installed,
    /// The sender gave up; the part stays for the next run.
    Interrupted,
    /// The digest is wrong; nothing was kept.
    WrongDigest,
    /// The digest is right, but the content is not. Nothing was kept.
    NotAnArchive(String),
}

/// Receives a whole download, of which `held` bytes are in the part already.
///
/// Errors come from the disk; then nothing is left behind.
pub(super) fn receive(
    place: &Place,
    download: &Download,
    wanted: &str,
    held: u64,
    pieces: mpsc::Receiver<Piece>,
) -> io::Result<Received> {
    let received = receive_into(place, download, wanted, held, pieces);
    match &received {
        Ok(Received {
            outcome: Outcome::Interrupted,
            ..
        }) => place.clear_staging(),
        _ => place.clear(),
    }
    received
}

fn receive_into(
    place: &Place,
    download: &Download,
    wanted: &str,
    held: u64,
    pieces: mpsc::Receiver<Piece>,
) -> io::Result<Received> {
    host::make_folders(&place.folder)?;
    let mut intake = Intake {
        replay: held,
        part: open_part(place, download, held)?,
        hash: Sha256::new(),
        bytes: 0,
        pieces,
        piece: Vec::new(),
        taken: 0,
        state: Flow::Open,
    };
    let unpacked = if place.file.is_some() {
        Ok(BTreeMap::new())
    } else {
        place.make_staging()?;
        unpack(&mut intake, &place.staging)
    };
    if let Err(Unpacking::Disk(cause)) = unpacked {
        return Err(cause);
    }
    // Unpacking may stop before the end, but the digest covers all bytes.
    let drained = io::copy(&mut intake, &mut io::sink());
    match intake.state {
        Flow::Open => drained.map(drop)?,
        Flow::Ended => {}
        Flow::Broken => {
            return Ok(intake.received(Outcome::Interrupted));
        }
        Flow::DiskFailed(cause) => return Err(cause),
    }
    let part = intake.part.try_clone()?;
    let mut received = intake.received(Outcome::Installed);
    if received.sha256 != wanted {
        received.outcome = Outcome::WrongDigest;
        return Ok(received);
    }
    match unpacked {
        Ok(_) if let Some((file, mode)) = &place.file => {
            part.set_permissions(fs::Permissions::from_mode(*mode))?;
            part.sync_all()?;
            fs::rename(&place.part, file)?;
            host::sync_folder(&place.folder)?;
        }
        Ok(files) => install(place, &received.sha256, download, files)?,
        Err(Unpacking::Disk(cause)) => return Err(cause),
        Err(Unpacking::Archive(why)) => received.outcome = Outcome::NotAnArchive(why),
    }
    Ok(received)
}

fn open_part(place: &Place, download: &Download, held: u64) -> io::Result<fs::File> {
    if held > 0 {
        return fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&place.part);
    }
    place.clear();
    let journal = serde_json::to_vec(&Journal::of(download)).map_err(io::Error::other)?;
    host::write_whole(&place.journal, &journal, 0o600)?;
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&place.part)
}

/// Moves verified files into place and records their source.
fn install(
    place: &Place,
    sha256: &str,
    download: &Download,
    files: BTreeMap<String, String>,
) -> io::Result<()> {
    for name in files.keys() {
        fs::rename(place.staging.join(name), place.folder.join(name))?;
    }
    host::sync_folder(&place.folder)?;
    let inventory = Inventory {
        url: download.url.clone(),
        sha256: sha256.to_owned(),
        files,
    };
    let text = serde_json::to_vec_pretty(&inventory).map_err(io::Error::other)?;
    host::write_whole(&place.inventory, &text, 0o644)
}

enum Flow {
    Open,
    Ended,
    Broken,
    DiskFailed(io::Error),
}

/// Reads what is already in the part, then what arrives; stores and hashes it.
struct Intake {
    /// Bytes of the part still to be read back.
    replay: u64,
    part: fs::File,
    hash: Sha256,
    bytes: u64,
    pieces: mpsc::Receiver<Piece>,
    piece: Vec<u8>,
    taken: usize,
    state: Flow,
}

impl Intake {
    fn received(self, outcome: Outcome) -> Received {
        Received {
            outcome,
            sha256: hex::encode(self.hash.finalize()),
            bytes: self.bytes,
        }
    }

    /// The next bytes of the part or of the channel; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.replay > 0 {
            let mut buffer = vec![0; usize::try_from(self.replay.min(128 * 1024)).unwrap_or(1)];
            self.part.read_exact(&mut buffer)?;
            self.replay -= buffer.len() as u64;
            if self.replay == 0 {
                self.part.seek(io::SeekFrom::End(0))?;
            }
            return Ok(Some(buffer));
        }
        match self.pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => {
                self.part.write_all(&bytes)?;
                Ok(Some(bytes))
            }
            Some(Piece::End) => Ok(None),
            None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Read for Intake {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            match &self.state {
                Flow::Open => {}
                Flow::Ended => return Ok(0),
                Flow::Broken | Flow::DiskFailed(_) => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            match self.next() {
                Ok(Some(piece)) => {
                    self.hash.update(&piece);
                    self.bytes += piece.len() as u64;
                    (self.piece, self.taken) = (piece, 0);
                }
                Ok(None) => self.state = Flow::Ended,
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {
                    self.state = Flow::Broken;
                }
                Err(cause) => self.state = Flow::DiskFailed(cause),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.taken);
        buffer[..count].copy_from_slice(&self.piece[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

/// The error for a disk that could not store the download.
pub(super) fn not_stored(cause: &io::Error, url: &str, folder: &Path, needed: u64) -> Error {
    if cause.kind() == io::ErrorKind::StorageFull {
        return no_space(url, folder, needed).because(cause);
    }
    Error::failed(format!("cannot store {url} in {}", folder.display())).because(cause)
}

/// The error for a full disk.
pub(super) fn no_space(url: &str, folder: &Path, needed: u64) -> Error {
    let free = host::free_bytes(folder).map_or_else(|_| "?".to_owned(), mib);
    Error::failed(format!(
        "no space in {} for {url}: it needs at least {} MiB, {free} MiB are free",
        folder.display(),
        mib(needed)
    ))
    .hint("free some space or give the instance a larger volume; the download was discarded")
}

#[allow(clippy::cast_precision_loss)] // for a person
fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_full_disk_is_distinguished_from_an_interrupted_download() {
        let (sender, pieces) = mpsc::channel(4);
        sender
            .try_send(Piece::Bytes(b"some bytes".to_vec()))
            .unwrap();
        let mut intake = Intake {
            replay: 0,
            part: fs::OpenOptions::new()
                .write(true)
                .open("/dev/full")
                .unwrap(),
            hash: Sha256::new(),
            bytes: 0,
            pieces,
            piece: Vec::new(),
            taken: 0,
            state: Flow::Open,
        };
        intake.read(&mut [0; 16]).unwrap_err();
        let Flow::DiskFailed(cause) = intake.state else {
            panic!("not the disk's error");
        };
        let error = not_stored(&cause, "http://host/kubelet", Path::new("/tmp"), 3 << 20);
        let text = error.to_string();
        assert!(
            text.starts_with(
                "error: no space in /tmp for http://host/kubelet: it needs at least 3.0 MiB, "
            ),
            "{text}"
        );
        assert!(text.contains("because: No space left on device"), "{text}");
        assert!(text.contains("hint: free some space"), "{text}");
    }
}
