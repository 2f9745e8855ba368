//! Writes a streamed snapshot to a file.

use std::path::{Path, PathBuf};

use reqwest::Response;
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt,
};

use super::{
    messages::{Bytes, Piece},
    seal::Seal,
};
use crate::{
    error::{Context, Error, Result},
    ports::Snapshot,
};

/// etcd sends 32 KiB at a time; base64 adds a third.
const LONGEST_LINE: usize = 1 << 20;

/// Writes what arrives to a temporary file, which is renamed once it is complete and verified.
pub async fn receive(answer: Response, file: &Path) -> Result<Snapshot> {
    let part = part_of(file);
    let received = write(answer, &part).await;
    let placed = match received {
        Ok(snapshot) => place(&part, file).await.map(|()| snapshot),
        Err(error) => Err(error),
    };
    if placed.is_err() {
        // The rest is of no use; the error says why.
        let _ = fs::remove_file(&part).await;
    }
    placed
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

async fn write(mut answer: Response, part: &Path) -> Result<Snapshot> {
    let writing = || format!("cannot write {}", part.display());
    if let Some(folder) = part.parent() {
        fs::create_dir_all(folder).await.attempting(writing)?;
    }
    // Created again, since the mode applies only to a new file.
    match fs::remove_file(part).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::failed(writing()).because(&error));
        }
        _ => {}
    }
    let mut out = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(part)
        .await
        .attempting(writing)?;
    let mut seal = Seal::default();
    let mut waiting = Vec::new();
    let mut remaining = None;
    while let Some(chunk) = next(&mut answer).await? {
        waiting.extend_from_slice(chunk.as_ref());
        let mut begin = 0;
        while let Some(length) = waiting[begin..].iter().position(|byte| *byte == b'\n') {
            let line = &waiting[begin..begin + length];
            begin += length + 1;
            if line.is_empty() {
                continue;
            }
            let bytes = Piece::read(line)?;
            remaining = Some(put(&mut out, &mut seal, bytes).await.attempting(writing)?);
        }
        waiting.drain(..begin);
        if waiting.len() > LONGEST_LINE {
            return Err(Error::failed("etcd's answer is not a snapshot stream"));
        }
    }
    if !waiting.is_empty() {
        let bytes = Piece::read(&waiting)?;
        remaining = Some(put(&mut out, &mut seal, bytes).await.attempting(writing)?);
    }
    if remaining != Some(0) {
        return Err(Error::failed("the snapshot stream was interrupted"));
    }
    out.sync_all().await.attempting(writing)?;
    seal.verify()
}

async fn next(answer: &mut Response) -> Result<Option<impl AsRef<[u8]> + use<>>> {
    answer
        .chunk()
        .await
        .map_err(reqwest::Error::without_url)
        .attempting(|| "the snapshot stream was interrupted".to_owned())
}

/// Writes the bytes; returns how many follow.
async fn put(out: &mut File, seal: &mut Seal, bytes: Bytes) -> std::io::Result<u64> {
    seal.update(&bytes.content);
    out.write_all(&bytes.content).await?;
    Ok(bytes.remaining)
}

async fn place(part: &Path, file: &Path) -> Result<()> {
    let writing = || format!("cannot write {}", file.display());
    fs::rename(part, file).await.attempting(writing)?;
    if let Some(folder) = file.parent() {
        let folder = File::open(folder).await.attempting(writing)?;
        folder.sync_all().await.attempting(writing)?;
    }
    Ok(())
}
