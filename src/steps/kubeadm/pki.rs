//! Whether the cluster's certificates are complete, and what to remove if not.
//!
//! kubeadm writes key and certificate of a pair one after the other. On the next run it takes a key
//! without its certificate for a user's mistake and stops (kubeadm #2095). So half-written pairs
//! are removed before it runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use x509_parser::prelude::{FromDer, ParsedExtension, Pem, X509Certificate};

use crate::{
    error::{Error, Result},
    kubernetes::paths,
    ports::Host,
};

/// Certificate authorities and what each of them signs, as paths below the PKI folder without extension.
const PAIRS: [(&str, &[&str]); 3] = [
    ("ca", &["apiserver", "apiserver-kubelet-client"]),
    ("front-proxy-ca", &["front-proxy-client"]),
    (
        "etcd/ca",
        &[
            "etcd/server",
            "etcd/peer",
            "etcd/healthcheck-client",
            "apiserver-etcd-client",
        ],
    ),
];

/// The service accounts' keys: the private one, then the public one.
const SERVICE_ACCOUNT: [&str; 2] = ["sa.key", "sa.pub"];

/// What is wrong with the certificates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Files that kubeadm will make.
    pub missing: Vec<String>,
    /// Files in kubeadm's way, with the reason.
    pub remove: BTreeMap<String, String>,
    /// A CA certificate without its key, which no interruption causes.
    pub keyless: Option<String>,
    /// Whether continuing means a new CA or new service account keys.
    pub foundations: bool,
}

impl Verdict {
    /// Whether there is nothing to do.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.remove.is_empty() && self.keyless.is_none()
    }

    /// The first problem, for a person.
    pub fn reason(&self) -> String {
        if let Some(ca) = &self.keyless {
            return format!("{ca}.crt has no key");
        }
        if let Some((file, why)) = self.remove.first_key_value() {
            return format!("{file} {why}");
        }
        match self.missing.as_slice() {
            [] => "whole".to_owned(),
            [one] => format!("{one} is missing"),
            [first, rest @ ..] => format!("{first} and {} more are missing", rest.len()),
        }
    }
}

/// Reads and judges the PKI folder.
pub async fn examine(host: &dyn Host) -> Result<Verdict> {
    let mut files = BTreeMap::new();
    for name in names() {
        if let Some(content) = host.read(&path(&name)).await? {
            files.insert(name, content);
        }
    }
    Ok(judge(&files))
}

/// Removes half-written files; refuses to remove what a running cluster depends on.
pub async fn cure(host: &dyn Host) -> Result<()> {
    let verdict = examine(host).await?;
    if let Some(ca) = &verdict.keyless {
        return Err(
            Error::refused(format!("{}/{ca}.crt exists without its key", paths::PKI)).hint(
                "restore the key, or remove the certificate if this node is to found a new cluster",
            ),
        );
    }
    if verdict.foundations && host.exists(Path::new(paths::ETCD_MEMBER)).await? {
        return Err(Error::refused(format!(
            "{}, but {} has a cluster's data: a new one would invalidate all credentials",
            verdict.reason(),
            paths::ETCD
        ))
        .hint("restore the file from a backup or from another control plane"));
    }
    for name in verdict.remove.keys() {
        host.remove(&path(name)).await?;
    }
    Ok(())
}

/// Removes half-written files of a control plane that joins: it gets its authorities from the
/// others and makes the rest again.
pub async fn remove_half_written(host: &dyn Host) -> Result<()> {
    let verdict = examine(host).await?;
    let keyless = verdict.keyless.iter().map(|ca| format!("{ca}.crt"));
    for name in verdict.remove.into_keys().chain(keyless) {
        host.remove(&path(&name)).await?;
    }
    Ok(())
}

fn path(name: &str) -> PathBuf {
    Path::new(paths::PKI).join(name)
}

fn names() -> impl Iterator<Item = String> {
    PAIRS
        .iter()
        .flat_map(|(ca, leaves)| std::iter::once(ca).chain(*leaves))
        .flat_map(|base| [format!("{base}.crt"), format!("{base}.key")])
        .chain(SERVICE_ACCOUNT.map(str::to_owned))
}

/// Judges the files by name.
fn judge(files: &BTreeMap<String, Vec<u8>>) -> Verdict {
    let mut verdict = Verdict::default();
    for (ca, leaves) in PAIRS {
        let key_id = match pair(files, ca) {
            Pair::Whole(ids) => ids.own,
            Pair::Absent => {
                verdict.foundations = true;
                verdict.expect_pair(ca);
                None
            }
            Pair::NoKey => {
                verdict.keyless = Some(ca.to_owned());
                return verdict;
            }
            Pair::Broken(why) => {
                verdict.foundations = true;
                verdict.discard(files, ca, why);
                None
            }
        };
        for leaf in leaves {
            match pair(files, leaf) {
                Pair::Whole(ids) if key_id.is_some() && ids.issuer == key_id => {}
                Pair::Whole(_) => {
                    verdict.discard(files, leaf, &format!("is not signed by {ca}.crt"));
                }
                Pair::Absent => verdict.expect_pair(leaf),
                Pair::NoKey => verdict.discard(files, leaf, "has no key"),
                Pair::Broken(why) => verdict.discard(files, leaf, why),
            }
        }
    }
    let whole = |name: &str| files.get(name).map(|content| pem(content).is_some());
    match SERVICE_ACCOUNT.map(whole) {
        [Some(true), Some(true)] => {}
        [None, None] => {
            verdict.foundations = true;
            verdict.missing.extend(SERVICE_ACCOUNT.map(str::to_owned));
        }
        // kubeadm derives the public key from the private one; only a damaged public key stops it.
        [Some(true), None] => verdict.missing.push(SERVICE_ACCOUNT[1].to_owned()),
        _ => {
            verdict.foundations = true;
            for name in SERVICE_ACCOUNT
                .into_iter()
                .filter(|n| files.contains_key(*n))
            {
                verdict
                    .remove
                    .insert(name.to_owned(), "is incomplete".to_owned());
            }
        }
    }
    verdict
}

impl Verdict {
    fn expect_pair(&mut self, base: &str) {
        self.missing
            .extend([format!("{base}.crt"), format!("{base}.key")]);
    }

    fn discard(&mut self, files: &BTreeMap<String, Vec<u8>>, base: &str, why: &str) {
        for name in [format!("{base}.crt"), format!("{base}.key")] {
            if files.contains_key(&name) {
                self.remove.insert(name, why.to_owned());
            }
        }
    }
}

enum Pair {
    Whole(KeyIds),
    Absent,
    NoKey,
    Broken(&'static str),
}

/// The key identifiers that link a certificate to its issuer's key.
struct KeyIds {
    own: Option<Vec<u8>>,
    issuer: Option<Vec<u8>>,
}

fn pair(files: &BTreeMap<String, Vec<u8>>, base: &str) -> Pair {
    let certificate = files.get(&format!("{base}.crt"));
    let key = files.get(&format!("{base}.key"));
    match (certificate, key) {
        (None, None) => Pair::Absent,
        (None, Some(_)) => Pair::Broken("has no certificate"),
        (Some(certificate), key) => match (key_ids(certificate), key) {
            (None, _) => Pair::Broken("is incomplete"),
            (Some(_), None) => Pair::NoKey,
            (Some(_), Some(key)) if pem(key).is_none() => Pair::Broken("is incomplete"),
            (Some(ids), Some(_)) => Pair::Whole(ids),
        },
    }
}

/// The first PEM block, if it is complete.
pub fn pem(content: &[u8]) -> Option<Pem> {
    // The parser accepts a block with its last dashes cut off; kubeadm does not.
    if !content.trim_ascii_end().ends_with(b"-----") {
        return None;
    }
    x509_parser::pem::parse_x509_pem(content)
        .ok()
        .map(|(_, pem)| pem)
}

fn key_ids(content: &[u8]) -> Option<KeyIds> {
    let pem = pem(content)?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    let mut ids = KeyIds {
        own: None,
        issuer: None,
    };
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => ids.own = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                ids.issuer = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    Some(ids)
}

#[cfg(test)]
mod tests;
