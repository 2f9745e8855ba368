//! The keys that a restored cluster needs: without them no node and no pod trusts it.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    error::{Context, Error, Result},
    kubernetes::paths,
    ports::Host,
};

/// What all control planes share, below kubeadm's PKI folder; each one makes the rest itself.
pub const SHARED: [&str; 8] = [
    "ca.crt",
    "ca.key",
    "etcd/ca.crt",
    "etcd/ca.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "sa.key",
    "sa.pub",
];

/// No key or certificate is longer than this, in bytes.
const LONGEST: u64 = 64 << 10;

/// File contents by their names below the PKI folder.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Reads these files on a control plane.
pub async fn read(host: &dyn Host) -> Result<Files> {
    let mut files = Files::new();
    for name in SHARED {
        let path = path(name);
        let content = host.read(&path).await?.ok_or_else(|| {
            Error::failed(format!("{} does not exist", path.display()))
                .hint("a backup without the cluster's keys could not be restored")
        })?;
        files.insert(name.to_owned(), content);
    }
    Ok(files)
}

/// A file's path on a control plane.
pub fn path(name: &str) -> PathBuf {
    Path::new(paths::PKI).join(name)
}

/// A file's mode: keys are readable for their owner alone.
pub fn mode(name: &str) -> u32 {
    if Path::new(name).extension().is_some_and(|e| e == "key") {
        0o600
    } else {
        0o644
    }
}

/// Packs the files into a tar file; the same keys give the same bytes.
pub fn pack(files: &Files) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let packing = || "cannot pack the cluster's keys".to_owned();
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode(name));
        tar.append_data(&mut header, name, content.as_slice())
            .attempting(packing)?;
    }
    tar.into_inner().attempting(packing)
}

/// Unpacks such a tar file: exactly the files of a cluster, whatever else it names.
pub fn unpack(content: &[u8]) -> Result<Files> {
    let unread = || "the backup's keys cannot be read".to_owned();
    let mut files = Files::new();
    for entry in tar::Archive::new(content).entries().requiring(unread)? {
        let entry = entry.requiring(unread)?;
        let name = entry.path().requiring(unread)?.display().to_string();
        if !SHARED.contains(&name.as_str()) {
            return Err(Error::refused(format!(
                "the backup's keys contain the unexpected file `{name}`"
            )));
        }
        let expected = entry.size();
        let mut content = Vec::new();
        entry
            .take(LONGEST)
            .read_to_end(&mut content)
            .requiring(unread)?;
        if content.len() as u64 != expected {
            return Err(Error::refused(format!(
                "the backup's {name} is truncated or too long"
            )));
        }
        files.insert(name, content);
    }
    let missing: Vec<&str> = SHARED
        .into_iter()
        .filter(|name| !files.contains_key(*name))
        .collect();
    if missing.is_empty() {
        return Ok(files);
    }
    Err(Error::refused(format!(
        "the backup's keys lack {}",
        missing.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{FakeWorld, Pki};

    #[tokio::test]
    async fn the_keys_of_a_cluster_are_packed_and_unpacked_unchanged() {
        let fake = FakeWorld::new().with_pki(&Pki::new());
        let files = read(fake.host.as_ref()).await.unwrap();
        let packed = pack(&files).unwrap();
        assert_eq!(packed, pack(&files).unwrap());
        assert_eq!(unpack(&packed).unwrap(), files);
        assert!(!files.contains_key("apiserver.key"));
    }

    #[test]
    fn an_archive_with_other_files_or_without_some_is_refused() {
        let all: Files = SHARED.map(|name| (name.to_owned(), vec![1; 600])).into();
        let mut more = all.clone();
        more.insert("admin.conf".to_owned(), vec![]);
        let mut fewer = all.clone();
        fewer.remove("sa.key");
        for (case, files) in [("more", more), ("fewer", fewer), ("none", Files::new())] {
            assert!(unpack(&pack(&files).unwrap()).is_err(), "{case}");
        }
        let whole = pack(&all).unwrap();
        assert!(unpack(&whole[..700]).is_err(), "cut");
        assert!(unpack(b"nonsense, and longer than nothing").is_err());
    }

    #[tokio::test]
    async fn without_a_key_there_is_no_backup() {
        let fake = FakeWorld::new().with_pki(&Pki::new());
        fake.files.delete("/etc/kubernetes/pki/ca.key");
        let error = read(fake.host.as_ref()).await.unwrap_err();
        assert!(error.one_line().contains("pki/ca.key"), "{error}");
    }
}
