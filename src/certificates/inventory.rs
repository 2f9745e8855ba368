//! Every certificate on this machine, with its dates.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Serialize;
use serde_json::Value;
use x509_parser::prelude::{FromDer, Pem, X509Certificate};

use crate::{error::Result, ports::Host};

/// Who renews a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeper {
    /// The agent of this control plane.
    Agent,
    /// The kubelet, which requests the next one from the cluster. If the last one has expired, the
    /// agent admits it again.
    Kubelet,
    /// A person: a certificate authority is not renewed automatically.
    Person,
}

impl Keeper {
    /// As `k8s-bootstrap certificates` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Kubelet => "kubelet",
            Self::Person => "a person",
        }
    }
}

/// Where a certificate is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Its name: kubeadm's, for those that kubeadm renews.
    pub name: &'static str,
    /// The file that holds it: PEM, or a kubeconfig.
    pub file: &'static str,
    /// The file with its key; the same file if it holds both.
    pub key: Option<&'static str>,
    /// The name here of the authority that signs it; `None` for an authority.
    pub issued_by: Option<&'static str>,
    /// Who renews it.
    pub keeper: Keeper,
}

impl Source {
    const fn authority(name: &'static str, file: &'static str) -> Self {
        Self {
            name,
            file,
            key: None,
            issued_by: None,
            keeper: Keeper::Person,
        }
    }

    const fn leaf(
        name: &'static str,
        issued_by: &'static str,
        file: &'static str,
        key: &'static str,
    ) -> Self {
        Self {
            name,
            file,
            key: Some(key),
            issued_by: Some(issued_by),
            keeper: Keeper::Agent,
        }
    }

    /// Embedded in a kubeconfig, with its key.
    const fn kubeconfig(name: &'static str, file: &'static str) -> Self {
        Self::leaf(name, "ca", file, file)
    }

    const fn kubelet(name: &'static str, file: &'static str) -> Self {
        Self {
            keeper: Keeper::Kubelet,
            ..Self::leaf(name, "ca", file, file)
        }
    }

    /// The source with this name.
    pub fn of(name: &str) -> Option<&'static Self> {
        SOURCES.iter().find(|source| source.name == name)
    }

    /// The files that hold it and its key, without duplicates.
    pub fn files(&self) -> impl Iterator<Item = &'static str> {
        let key = self.key.filter(|key| *key != self.file);
        std::iter::once(self.file).chain(key)
    }
}

/// Every place of a certificate on a node. The join service shows the API server's certificate.
#[rustfmt::skip] // one certificate a line, to be read as a table
pub const SOURCES: &[Source] = &[
    Source::authority("ca", "/etc/kubernetes/pki/ca.crt"),
    Source::authority("etcd-ca", "/etc/kubernetes/pki/etcd/ca.crt"),
    Source::authority("front-proxy-ca", "/etc/kubernetes/pki/front-proxy-ca.crt"),
    Source::leaf("etcd-server", "etcd-ca", "/etc/kubernetes/pki/etcd/server.crt", "/etc/kubernetes/pki/etcd/server.key"),
    Source::leaf("etcd-peer", "etcd-ca", "/etc/kubernetes/pki/etcd/peer.crt", "/etc/kubernetes/pki/etcd/peer.key"),
    Source::leaf("etcd-healthcheck-client", "etcd-ca", "/etc/kubernetes/pki/etcd/healthcheck-client.crt", "/etc/kubernetes/pki/etcd/healthcheck-client.key"),
    Source::leaf("apiserver-etcd-client", "etcd-ca", "/etc/kubernetes/pki/apiserver-etcd-client.crt", "/etc/kubernetes/pki/apiserver-etcd-client.key"),
    Source::leaf("apiserver", "ca", "/etc/kubernetes/pki/apiserver.crt", "/etc/kubernetes/pki/apiserver.key"),
    Source::leaf("apiserver-kubelet-client", "ca", "/etc/kubernetes/pki/apiserver-kubelet-client.crt", "/etc/kubernetes/pki/apiserver-kubelet-client.key"),
    Source::leaf("front-proxy-client", "front-proxy-ca", "/etc/kubernetes/pki/front-proxy-client.crt", "/etc/kubernetes/pki/front-proxy-client.key"),
    Source::kubeconfig("admin.conf", "/etc/kubernetes/admin.conf"),
    Source::kubeconfig("super-admin.conf", "/etc/kubernetes/super-admin.conf"),
    Source::kubeconfig("controller-manager.conf", "/etc/kubernetes/controller-manager.conf"),
    Source::kubeconfig("scheduler.conf", "/etc/kubernetes/scheduler.conf"),
    // On the founder, until the kubelet has its own.
    Source::kubelet("kubelet.conf", "/etc/kubernetes/kubelet.conf"),
    Source::kubelet("kubelet-client", "/var/lib/kubelet/pki/kubelet-client-current.pem"),
    Source::kubelet("kubelet-server", "/var/lib/kubelet/pki/kubelet-server-current.pem"),
];

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// As in [`Source::name`].
    pub name: &'static str,
    /// The file that holds it: PEM, or a kubeconfig.
    pub file: &'static str,
    /// Its subject's distinguished name, such as `CN=kube-apiserver`.
    pub subject: String,
    /// Its issuer's distinguished name, such as `CN=kubernetes`.
    pub issuer: String,
    /// Its serial number in hexadecimal digits.
    pub serial: String,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub authority: bool,
    /// Who renews it.
    pub renewed_by: Keeper,
}

/// The certificates on a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The certificates, in the order of [`SOURCES`].
    pub certificates: Vec<Certificate>,
    /// Those whose file exists but holds no complete certificate, or whose key belongs to another
    /// one: what an interrupted write leaves.
    pub broken: Vec<&'static str>,
}

impl Inventory {
    /// The inventory of these files: content by path.
    pub fn of(files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let mut inventory = Self::default();
        for source in SOURCES {
            let Some(content) = files.get(Path::new(source.file)) else {
                continue;
            };
            let key = source.key.and_then(|key| files.get(Path::new(key)));
            match examine(source, content, key.map(Vec::as_slice)) {
                Found::Whole(certificate) => inventory.certificates.push(certificate),
                Found::Broken => inventory.broken.push(source.name),
                Found::Elsewhere => {}
            }
        }
        inventory
    }

    /// The inventory of this machine.
    pub async fn read(host: &dyn Host) -> Result<Self> {
        let mut files = BTreeMap::new();
        for path in SOURCES.iter().flat_map(Source::files) {
            let path = PathBuf::from(path);
            if let Some(content) = host.read(&path).await? {
                files.insert(path, content);
            }
        }
        Ok(Self::of(&files))
    }

    /// The certificate with this name.
    pub fn get(&self, name: &str) -> Option<&Certificate> {
        self.certificates.iter().find(|c| c.name == name)
    }

    /// The one that expires first.
    pub fn next_end(&self) -> Option<&Certificate> {
        self.certificates.iter().min_by_key(|c| c.not_after)
    }
}

enum Found {
    Whole(Certificate),
    Broken,
    /// A kubeconfig that refers to another file.
    Elsewhere,
}

fn examine(source: &'static Source, content: &[u8], key: Option<&[u8]>) -> Found {
    let (content, key) = if is_kubeconfig(source) {
        match embedded(content) {
            Embedded::Here { certificate, key } => (certificate, Some(key)),
            Embedded::Elsewhere => return Found::Elsewhere,
            Embedded::Broken => return Found::Broken,
        }
    } else {
        (content.to_vec(), key.map(<[u8]>::to_vec))
    };
    let Some(certificate) = certificate(source, &content) else {
        return Found::Broken;
    };
    let fits = match (source.key, key) {
        (None, _) => true,
        (Some(_), Some(key)) => belong_together(&content, &key),
        (Some(_), None) => false,
    };
    if fits {
        Found::Whole(certificate)
    } else {
        Found::Broken
    }
}

fn is_kubeconfig(source: &Source) -> bool {
    Path::new(source.file)
        .extension()
        .is_some_and(|extension| extension == "conf")
}

enum Embedded {
    Here { certificate: Vec<u8>, key: Vec<u8> },
    Elsewhere,
    Broken,
}

fn embedded(content: &[u8]) -> Embedded {
    let file: Option<Value> = std::str::from_utf8(content)
        .ok()
        .and_then(|text| serde_saphyr::from_str(text).ok());
    let Some(file) = file else {
        return Embedded::Broken;
    };
    let user = &file["users"][0]["user"];
    if user["client-certificate"].is_string() {
        return Embedded::Elsewhere;
    }
    let data = |part: &str| BASE64_STANDARD.decode(user[part].as_str()?).ok();
    match (data("client-certificate-data"), data("client-key-data")) {
        (Some(certificate), Some(key)) => Embedded::Here { certificate, key },
        _ => Embedded::Broken,
    }
}

/// The first certificate in the PEM blocks.
fn certificate(source: &'static Source, content: &[u8]) -> Option<Certificate> {
    let block = Pem::iter_from_buffer(content)
        .map_while(std::result::Result::ok)
        .find(|block| block.label == "CERTIFICATE")?;
    let (_, parsed) = X509Certificate::from_der(&block.contents).ok()?;
    let time = |second: i64| Timestamp::from_second(second).ok();
    Some(Certificate {
        name: source.name,
        file: source.file,
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: hex::encode(parsed.raw_serial()),
        not_before: time(parsed.validity().not_before.timestamp())?,
        not_after: time(parsed.validity().not_after.timestamp())?,
        authority: parsed.is_ca(),
        renewed_by: source.keeper,
    })
}

/// Whether the key belongs to the certificate: a program that writes one after the other may be
/// interrupted between them.
fn belong_together(certificate: &[u8], key: &[u8]) -> bool {
    let (Ok(certificate), Ok(key)) = (
        CertificateDer::from_pem_slice(certificate),
        PrivateKeyDer::from_pem_slice(key),
    ) else {
        return false;
    };
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(vec![certificate], key, &provider).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::Pki;

    fn files(pki: &Pki) -> BTreeMap<PathBuf, Vec<u8>> {
        pki.on_disk()
    }

    fn year() -> Pki {
        Pki::between("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")
    }

    #[test]
    fn a_control_planes_certificates_are_listed_with_their_dates() {
        let inventory = Inventory::of(&files(&year()));
        let names: Vec<&str> = inventory.certificates.iter().map(|c| c.name).collect();
        assert_eq!(
            names,
            [
                "ca",
                "etcd-ca",
                "front-proxy-ca",
                "etcd-server",
                "etcd-peer",
                "etcd-healthcheck-client",
                "apiserver-etcd-client",
                "apiserver",
                "apiserver-kubelet-client",
                "front-proxy-client",
                "admin.conf",
                "controller-manager.conf",
                "scheduler.conf",
                "kubelet-client",
                "kubelet-server",
            ]
        );
        assert!(inventory.broken.is_empty());
        let leaf = inventory.get("etcd-peer").unwrap();
        assert_eq!(leaf.not_before.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(leaf.not_after.to_string(), "2027-01-01T00:00:00Z");
        assert_eq!(leaf.issuer, "CN=etcd-ca");
        assert_eq!(leaf.subject, "CN=etcd-peer");
        assert!(!leaf.authority && leaf.serial.len() > 8);
        assert!(inventory.get("front-proxy-ca").unwrap().authority);
        assert_eq!(
            inventory.next_end().unwrap().not_after.to_string(),
            "2027-01-01T00:00:00Z"
        );
    }

    #[test]
    fn a_worker_has_the_ca_and_its_kubelets_certificates() {
        let mut files = files(&year());
        files.retain(|path, _| path.ends_with("pki/ca.crt") || path.starts_with("/var"));
        let inventory = Inventory::of(&files);
        let names: Vec<&str> = inventory.certificates.iter().map(|c| c.name).collect();
        assert_eq!(names, ["ca", "kubelet-client", "kubelet-server"]);
    }

    #[test]
    fn a_half_written_certificate_is_broken() {
        let whole = files(&year());
        let other = files(&year());
        let apiserver = PathBuf::from("/etc/kubernetes/pki/apiserver.crt");
        let key = PathBuf::from("/etc/kubernetes/pki/apiserver.key");
        let admin = PathBuf::from("/etc/kubernetes/admin.conf");
        for (case, path, content) in [
            ("empty", &apiserver, Vec::new()),
            ("cut", &apiserver, whole[&apiserver][..200].to_vec()),
            ("another's key", &key, other[&key].clone()),
            ("no key yet", &key, Vec::new()),
        ] {
            let mut files = whole.clone();
            files.insert(path.clone(), content);
            assert_eq!(Inventory::of(&files).broken, ["apiserver"], "{case}");
        }
        let mut files = whole.clone();
        files.insert(admin.clone(), whole[&admin][..300].to_vec());
        assert_eq!(Inventory::of(&files).broken, ["admin.conf"]);
        let mut files = whole.clone();
        files.remove(&key);
        assert_eq!(Inventory::of(&files).broken, ["apiserver"]);
    }

    #[test]
    fn a_certificate_embedded_in_kubelet_conf_is_listed() {
        let pki = year();
        let mut files = files(&pki);
        let conf = PathBuf::from("/etc/kubernetes/kubelet.conf");
        assert!(Inventory::of(&files).get("kubelet.conf").is_none());
        let admin = files[Path::new("/etc/kubernetes/admin.conf")].clone();
        files.insert(conf, admin);
        assert!(Inventory::of(&files).get("kubelet.conf").is_some());
    }
}
