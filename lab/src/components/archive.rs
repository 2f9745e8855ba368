//! Archives and digests. The same content gives the same bytes: digests go into the agent's pins,
//! and a rebuilt archive must not look like a different one.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::command::{nice, run};

/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// A writer that hashes the data that passes through.
pub struct Hashing<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Hashing<W> {
    /// Hashes everything written to `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            length: 0,
        }
    }

    /// The hexadecimal sha256 and the number of bytes of everything written.
    pub fn finish(self) -> (String, u64) {
        (hex::encode(self.hash.finalize()), self.length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(data.get(..written).unwrap_or_default());
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The sha256 of a file, in hexadecimal.
///
/// # Errors If it cannot be read.
pub fn digest_of(file: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut source = File::open(file)?;
        let mut sink = Hashing::new(io::sink());
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = source.read(&mut chunk)?;
            if length == 0 {
                return Ok(sink.finish().0);
            }
            sink.write_all(chunk.get(..length).unwrap_or_default())?;
        }
    };
    read().with_context(|| format!("hash {}", file.display()))
}

/// Packs `folder` as a gzipped tar without times and owners. `members` are the top-level names in
/// the archive.
///
/// # Errors
/// When tar or gzip fail.
pub fn pack(folder: &Path, members: &[&str], archive: &Path, log: &Path) -> Result<()> {
    let mut tar = nice("tar");
    tar.args(["--create", "--sort=name", "--mtime=@0", "--owner=0"])
        .args(["--group=0", "--numeric-owner", "--format=ustar"])
        // Level 1: the archive only travels over loopback, so packing time matters more than size.
        .args(["--use-compress-program", "gzip -n -1", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .args(members);
    run(&mut tar, log)
}

/// A buffered reader of `path`, with its length.
///
/// # Errors
/// When it cannot be opened.
pub fn open(path: &Path) -> Result<(BufReader<File>, u64)> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let length = file.metadata()?.len();
    Ok((BufReader::with_capacity(CHUNK, file), length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;

    use super::*;

    #[test]
    fn the_same_content_packs_to_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut digests = Vec::new();
        for names in [["b", "a"], ["a", "b"]] {
            let folder = dir.path().join(names.concat()).join("bin");
            fs::create_dir_all(&folder).unwrap();
            for name in names {
                fs::write(folder.join(name), name).unwrap();
            }
            let archive = dir.path().join("archive");
            pack(folder.parent().unwrap(), &["bin"], &archive, &log).unwrap();
            digests.push(digest_of(&archive).unwrap());
        }
        assert_eq!(digests[0], digests[1]);
    }

    #[test]
    fn a_file_has_the_digest_that_sha256sum_gives() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("abc");
        fs::write(&file, "abc").unwrap();
        assert_eq!(
            digest_of(&file).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
