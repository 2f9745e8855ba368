//! How etcd seals a snapshot: the sha256 of the database follows it.

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    ports::Snapshot,
};

const DIGEST: usize = 32;

/// The database's size is a multiple of this.
const SECTOR: u64 = 512;

/// Hashes a snapshot while it passes through.
#[derive(Default)]
pub struct Seal {
    database: Sha256,
    /// The last bytes so far: the digest, if nothing follows.
    tail: Vec<u8>,
    bytes: u64,
}

impl Seal {
    /// The next bytes.
    pub fn update(&mut self, content: &[u8]) {
        self.bytes += content.len() as u64;
        self.tail.extend_from_slice(content);
        let sure = self.tail.len().saturating_sub(DIGEST);
        self.database.update(&self.tail[..sure]);
        self.tail.drain(..sure);
    }

    /// The snapshot's size and digest, if it was complete and as etcd wrote it.
    pub fn verify(self) -> Result<Snapshot> {
        let database = self.bytes.saturating_sub(DIGEST as u64);
        if database == 0 || !database.is_multiple_of(SECTOR) {
            return Err(Error::failed(format!(
                "{} bytes are not a complete etcd snapshot",
                self.bytes
            ))
            .hint("it was truncated, or has no digest at its end"));
        }
        let mut whole = self.database.clone();
        whole.update(&self.tail);
        if self.database.finalize()[..] != self.tail[..] {
            return Err(Error::failed(
                "the snapshot's content does not match the digest at its end",
            )
            .hint("it was damaged in transit or on disk"));
        }
        Ok(Snapshot {
            bytes: self.bytes,
            sha256: hex::encode(whole.finalize()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::sealed;

    fn verified(content: &[u8], at_once: usize) -> Result<Snapshot> {
        let mut seal = Seal::default();
        for part in content.chunks(at_once) {
            seal.update(part);
        }
        seal.verify()
    }

    #[test]
    fn a_snapshot_is_verified_in_chunks_of_any_size() {
        let snapshot = sealed(&[7; 4096]);
        for at_once in [1, 31, 32, 33, 4096, 9999] {
            let found = verified(&snapshot, at_once).unwrap();
            assert_eq!(found.bytes, 4128);
            assert_eq!(found.sha256, hex::encode(Sha256::digest(&snapshot)));
        }
    }

    #[test]
    fn a_truncated_or_changed_snapshot_is_rejected() {
        let snapshot = sealed(&[7; 4096]);
        let mut changed = snapshot.clone();
        changed[100] ^= 1;
        let mut other_digest = snapshot.clone();
        other_digest[4127] ^= 1;
        // Cut at a page boundary, so the size alone does not show it.
        let cut_at_a_page = &snapshot[..512 + 32];
        for (case, content) in [
            ("empty", &[][..]),
            ("only a digest", &snapshot[4096..]),
            ("without the digest", &snapshot[..4096]),
            ("without its end", &snapshot[..4127]),
            ("truncated at a page", cut_at_a_page),
            ("changed", &changed),
            ("with another digest", &other_digest),
        ] {
            assert!(verified(content, 100).is_err(), "{case}");
        }
    }
}
