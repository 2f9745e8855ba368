//! Archives: unpacked before they are verified, so nothing in them is trusted.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

/// The most that an archive may unpack to: it is unpacked before it is verified, and must not fill
/// the disk meanwhile.
const LARGEST_UNPACKED: u64 = 4 << 30;

/// Why an archive could not be unpacked.
#[derive(Debug)]
pub(super) enum Unpacking {
    /// Its content is invalid.
    Archive(String),
    /// Its files could not be written.
    Disk(io::Error),
}

/// Unpacks the regular files by their base names; paths in the archive are never used.
pub(super) fn unpack(
    archive: impl Read,
    into: &Path,
) -> Result<BTreeMap<String, String>, Unpacking> {
    let broken = |cause: io::Error| Unpacking::Archive(cause.to_string());
    let mut left = LARGEST_UNPACKED;
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(MultiGzDecoder::new(archive));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(broken)?.into_owned();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(Unpacking::Archive(format!(
                "its member `{}` has no usable name",
                path.display()
            )));
        };
        if name.starts_with('.') {
            continue; // hidden names are this module's own
        }
        if files.contains_key(name) {
            return Err(Unpacking::Archive(format!(
                "it has two files named `{name}`"
            )));
        }
        left = left
            .checked_sub(entry.size())
            .ok_or_else(|| Unpacking::Archive("it unpacks to more than 4 GiB".to_owned()))?;
        let digest = store(&mut entry, &into.join(name), broken)?;
        files.insert(name.to_owned(), digest);
    }
    if files.is_empty() {
        return Err(Unpacking::Archive("it has no regular file".to_owned()));
    }
    // The trailer of the compressed stream shows whether it was cut off.
    let mut rest = archive.into_inner().take(LARGEST_UNPACKED);
    io::copy(&mut rest, &mut io::sink()).map_err(broken)?;
    Ok(files)
}

/// Writes one member and returns its digest.
fn store(
    member: &mut impl Read,
    path: &Path,
    broken: impl Fn(io::Error) -> Unpacking,
) -> Result<String, Unpacking> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(path)
        .map_err(Unpacking::Disk)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = member.read(&mut buffer).map_err(&broken)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(Unpacking::Disk)?;
    }
    file.set_permissions(fs::Permissions::from_mode(0o755))
        .and_then(|()| file.sync_all())
        .map_err(Unpacking::Disk)?;
    Ok(hex::encode(hash.finalize()))
}
