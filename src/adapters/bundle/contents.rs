//! Reads a bundle where it lies, without unpacking it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{Descriptor, Index, NAME};
use crate::error::{Context, Error, Result};

/// Larger indexes are not ours.
const LARGEST_INDEX: u64 = 8 << 20;

/// Where in the file a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub at: u64,
    pub length: u64,
}

/// What is in a bundle.
#[derive(Debug)]
pub(super) struct Contents {
    pub file: PathBuf,
    /// By sha256.
    blobs: HashMap<String, Span>,
    /// By reference.
    images: HashMap<String, Descriptor>,
}

impl Contents {
    /// Reads the archive's headers and its index.
    pub fn read(file: &Path) -> Result<Self> {
        let attempt = || format!("cannot read the bundle {}", file.display());
        let opened = File::open(file).attempting(attempt)?;
        let mut archive = tar::Archive::new(BufReader::new(opened));
        let mut contents = Self {
            file: file.to_owned(),
            blobs: HashMap::new(),
            images: HashMap::new(),
        };
        let mut indexed = false;
        for entry in archive.entries_with_seek().attempting(attempt)? {
            let entry = entry.attempting(attempt)?;
            let path = entry.path().attempting(attempt)?.into_owned();
            if path == Path::new("index.json") {
                let mut text = Vec::new();
                entry
                    .take(LARGEST_INDEX)
                    .read_to_end(&mut text)
                    .attempting(attempt)?;
                contents.name_images(&text).attempting(attempt)?;
                indexed = true;
            } else if let Ok(name) = path.strip_prefix("blobs/sha256") {
                let span = Span {
                    at: entry.raw_file_position(),
                    length: entry.size(),
                };
                contents.blobs.insert(name.display().to_string(), span);
            }
        }
        if !indexed {
            return Err(Error::refused(format!(
                "{} is not a bundle: it has no index.json",
                file.display()
            ))
            .hint("make it with `k8s-bootstrap bundle`"));
        }
        Ok(contents)
    }

    fn name_images(&mut self, text: &[u8]) -> serde_json::Result<()> {
        let index: Index = serde_json::from_slice(text)?;
        for image in index.manifests {
            if let Some(name) = image.annotations.get(NAME) {
                self.images.insert(name.clone(), image);
            }
        }
        Ok(())
    }

    /// The blob with this sha256.
    pub fn blob(&self, sha256: &str) -> Option<Span> {
        self.blobs.get(sha256).copied()
    }

    /// The image with this reference.
    pub fn image(&self, reference: &str) -> Option<&Descriptor> {
        self.images.get(reference)
    }

    /// A small blob's bytes.
    pub fn small(&self, span: Span) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(span.at))?;
        let mut bytes = Vec::new();
        file.take(span.length.min(LARGEST_INDEX))
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
