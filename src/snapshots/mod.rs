//! Backups of a cluster: etcd's snapshot, and the keys without which nobody trusts what is restored
//! from it.
//!
//! A backup has three files, `UID/TIME.db`, `.pki.tar` and `.json`, written in this order: the last
//! one describes the others, and a backup without it does not count.

mod etcdutl;
pub mod fetch;
pub mod pki;
pub mod restore;
mod take;
pub mod verify;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Serialize};

pub use fetch::{Fetched, Purpose};
pub use take::{Subject, Taken, newest, take};

use crate::{
    error::{Context, Error, Result},
    observe::record::Recorded,
    ports::Snapshot,
};

/// Where a backup is assembled and unpacked.
pub const WORK: &str = "/var/lib/k8s-bootstrap/snapshots";

/// The format version of [`Manifest`].
const VERSION: u32 = 1;

/// The time format in a backup's name. Milliseconds, since the agent and a person may take a backup
/// in the same second, or a person may retry.
const TIME: &str = "%Y%m%dT%H%M%S%.3fZ";

/// The suffixes of a backup's files, in the order of writing.
const ENDINGS: [&str; 3] = [DATA, PKI, MANIFEST];
const DATA: &str = ".db";
const PKI: &str = ".pki.tar";
const MANIFEST: &str = ".json";

/// What a backup contains, and the digests of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's uid, from its founder's claim.
    pub cluster_uid: String,
    /// `sha256:…` of its CA's public key.
    pub ca_hash: String,
    /// When it was taken.
    pub time: Timestamp,
    /// The instance that took it.
    pub instance: String,
    /// The cluster's Kubernetes version, `kubernetes.version` of the settings.
    pub kubernetes: String,
    /// etcd's data.
    pub snapshot: Snapshot,
    /// sha256 of the tar file of keys.
    pub pki_sha256: String,
    /// The cluster in the store's record; absent in backups of older agents, and if the store did
    /// not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Recorded>,
}

impl Manifest {
    /// Parses a manifest.
    pub fn read(name: &str, content: &[u8]) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(content)
            .requiring(|| format!("{name} does not describe a backup"))?;
        if manifest.version != VERSION {
            return Err(Error::refused(format!(
                "{name} has version {}, but this agent supports version {VERSION}",
                manifest.version
            ))
            .hint("restore with the agent version that took it"));
        }
        Ok(manifest)
    }

    /// The cluster as the store recorded it, or else as it may have been recorded.
    pub fn recorded(&self) -> Recorded {
        self.record.clone().unwrap_or_else(|| {
            Recorded::first(&self.cluster_uid, &self.ca_hash, &self.instance, self.time)
        })
    }
}

/// A backup's name, `UID/TIME`, to which its files add their suffixes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The folder: the cluster's uid.
    pub folder: String,
    time: String,
}

impl Name {
    /// The name of a backup taken now.
    fn new(cluster_uid: &str, now: Timestamp) -> Self {
        Self {
            folder: cluster_uid.to_owned(),
            time: now.strftime(TIME).to_string(),
        }
    }

    /// The backup that a file in the folder belongs to.
    fn of(folder: &str, file: &str) -> Option<Self> {
        let time = ENDINGS
            .iter()
            .find_map(|ending| file.strip_suffix(ending))?;
        let name = Self {
            folder: folder.to_owned(),
            time: time.to_owned(),
        };
        name.taken().map(|_| name)
    }

    /// When it was taken.
    pub fn taken(&self) -> Option<Timestamp> {
        let civil = DateTime::strptime(TIME, &self.time).ok()?;
        TimeZone::UTC.to_timestamp(civil).ok()
    }

    fn file(&self, ending: &str) -> String {
        format!("{self}{ending}")
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.folder, self.time)
    }
}

/// The complete backups among a folder's files, oldest first.
fn whole(folder: &str, files: &[String]) -> Vec<Name> {
    let manifests = files.iter().filter(|file| file.ends_with(MANIFEST));
    let mut names: Vec<Name> = manifests
        .filter_map(|file| Name::of(folder, file))
        .collect();
    names.sort();
    names
}

/// Which files to remove so that `keep` complete backups are left, in the order of removal: of each
/// backup the manifest first. Files of an interrupted attempt are removed too, once a newer backup
/// is complete.
fn retired(folder: &str, files: &[String], keep: usize) -> Vec<String> {
    let whole = whole(folder, files);
    let Some(newest) = whole.last() else {
        return Vec::new();
    };
    let kept = &whole[whole.len().saturating_sub(keep.max(1))..];
    let mut leaving: Vec<(Name, usize)> = files
        .iter()
        .filter_map(|file| {
            let ending = ENDINGS.iter().position(|ending| file.ends_with(ending))?;
            Some((Name::of(folder, file)?, ending))
        })
        .filter(|(name, _)| name < newest && !kept.contains(name))
        .collect();
    leaving.sort_by(|(a, a_ending), (b, b_ending)| (a, b_ending).cmp(&(b, a_ending)));
    leaving
        .into_iter()
        .map(|(name, ending)| name.file(ENDINGS[ending]))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn files(stems: &[(&str, &[&str])]) -> Vec<String> {
        stems
            .iter()
            .flat_map(|(time, endings)| endings.iter().map(move |e| format!("{time}{e}")))
            .collect()
    }

    const ONE: &str = "20261124T120000.000Z";
    const TWO: &str = "20261124T130000.000Z";
    const THREE: &str = "20261124T140000.000Z";

    #[test]
    fn a_name_is_the_uid_and_the_time_and_can_be_parsed() {
        let noon = "2026-11-24T12:00:00.7Z".parse().unwrap();
        let name = Name::new("uid", noon);
        assert_eq!(name.file(DATA), "uid/20261124T120000.700Z.db");
        assert_eq!(
            Name::of("uid", "20261124T120000.700Z.pki.tar"),
            Some(name.clone())
        );
        assert_eq!(name.taken(), Some(noon));
        for other in ["readme.json", ONE, "20269924T120000.000Z.db", ".json"] {
            assert_eq!(Name::of("uid", other), None, "{other}");
        }
    }

    #[test]
    fn the_oldest_backups_are_removed_with_their_manifests_first() {
        let all = files(&[(THREE, &ENDINGS), (ONE, &ENDINGS), (TWO, &ENDINGS)]);
        let gone = |time: &str| {
            [MANIFEST, PKI, DATA]
                .map(|e| format!("uid/{time}{e}"))
                .to_vec()
        };
        assert_eq!(retired("uid", &all, 3), Vec::<String>::new());
        assert_eq!(retired("uid", &all, 2), gone(ONE));
        assert_eq!(retired("uid", &all, 1), [gone(ONE), gone(TWO)].concat());
        assert_eq!(retired("uid", &all, 0), [gone(ONE), gone(TWO)].concat());
    }

    #[test]
    fn an_incomplete_backup_does_not_count_and_is_removed_after_a_newer_complete_one() {
        let half: &[&str] = &[DATA, PKI];
        let interrupted = files(&[(ONE, &ENDINGS), (TWO, half), ("notes", &[".txt"])]);
        assert_eq!(whole("uid", &interrupted).len(), 1);
        let removed = retired("uid", &interrupted, 1);
        assert!(removed.is_empty(), "it may be in progress: {removed:?}");
        let again = files(&[(ONE, &ENDINGS), (TWO, half), (THREE, &ENDINGS)]);
        assert_eq!(
            retired("uid", &again, 2),
            [format!("uid/{TWO}{PKI}"), format!("uid/{TWO}{DATA}")]
        );
    }

    #[test]
    fn a_backup_of_an_older_agent_has_a_record_too() {
        let old = r#"{"version": 1, "cluster": "demo", "cluster_uid": "uid", "ca_hash": "sha256:ca",
            "time": "2026-11-24T12:00:00Z", "instance": "i-1", "kubernetes": "1.36.3",
            "snapshot": {"bytes": 1, "sha256": "00"}, "pki_sha256": "00"}"#;
        let manifest = Manifest::read("x.json", old.as_bytes()).unwrap();
        let Recorded {
            number,
            claim,
            initialized,
        } = manifest.recorded();
        assert_eq!(
            (number, claim.cluster_uid.as_str(), claim.instance.as_str()),
            (1, "uid", "i-1")
        );
        assert_eq!(initialized.ca_hash, "sha256:ca");
    }

    #[test]
    fn a_manifest_without_the_required_fields_is_refused() {
        let error = Manifest::read("x.json", b"{}").unwrap_err();
        assert!(error.one_line().contains("x.json"), "{error}");
    }
}
