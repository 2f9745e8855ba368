//! A cluster's certificates and kubeconfigs, as kubeadm leaves them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};

use crate::kubernetes::paths;

/// A whole PKI as kubeadm leaves it.
pub struct Pki {
    /// Files of the PKI folder, by name relative to it.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files in other places, by path.
    pub elsewhere: BTreeMap<PathBuf, Vec<u8>>,
}

/// rcgen's time type cannot be named here; the parser returns the same type.
macro_rules! time {
    ($text:expr) => {{
        let second = $text.parse::<Timestamp>().unwrap().as_second();
        let time = x509_parser::time::ASN1Time::from_timestamp(second).unwrap();
        time.to_datetime()
    }};
}

/// The CAs, and what each of them signs.
const SIGNED: [(&str, &[&str]); 3] = [
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

/// What the cluster's CA signs for kubeconfigs and kubelets, by file.
const EMBEDDED: [&str; 5] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/var/lib/kubelet/pki/kubelet-client-current.pem",
    "/var/lib/kubelet/pki/kubelet-server-current.pem",
];

impl Pki {
    /// A PKI with certificates that are valid in every test.
    pub fn new() -> Self {
        Self::between("2020-01-01T00:00:00Z", "2035-12-31T00:00:00Z")
    }

    /// A PKI with leaf certificates valid from `not_before` to `not_after`, and CAs from 2020 to
    /// 2036.
    pub fn between(not_before: &str, not_after: &str) -> Self {
        let (not_before, not_after) = (time!(not_before), time!(not_after));
        let mut files = BTreeMap::new();
        let mut elsewhere = BTreeMap::new();
        for (ca, leaves) in SIGNED {
            let key = KeyPair::generate().unwrap();
            let mut params = named(&ca.replace('/', "-"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.not_before = time!("2020-01-01T00:00:00Z");
            params.not_after = time!("2036-01-01T00:00:00Z");
            let certificate = params.self_signed(&key).unwrap();
            files.insert(format!("{ca}.crt"), certificate.pem().into_bytes());
            files.insert(format!("{ca}.key"), key.serialize_pem().into_bytes());
            let issuer = Issuer::new(params, key);
            let sign = |name: &str, dns: &str| {
                let key = KeyPair::generate().unwrap();
                let mut params = named(&name.replace('/', "-"));
                params.subject_alt_names = CertificateParams::new([dns.to_owned()])
                    .unwrap()
                    .subject_alt_names;
                params.use_authority_key_identifier_extension = true;
                (params.not_before, params.not_after) = (not_before, not_after);
                let certificate = params.signed_by(&key, &issuer).unwrap();
                (certificate.pem(), key.serialize_pem())
            };
            for leaf in leaves {
                let (certificate, key) = sign(leaf, name_of(leaf));
                files.insert(format!("{leaf}.crt"), certificate.into_bytes());
                files.insert(format!("{leaf}.key"), key.into_bytes());
            }
            for path in EMBEDDED.iter().filter(|_| ca == "ca") {
                let (certificate, key) = sign("somebody", "x");
                let content = if path.starts_with("/var/lib/kubelet/pki") {
                    format!("{certificate}{key}")
                } else {
                    kubeconfig_of(&files["ca.crt"], certificate.as_bytes(), key.as_bytes())
                };
                elsewhere.insert(PathBuf::from(path), content.into_bytes());
            }
        }
        let key = KeyPair::generate().unwrap();
        files.insert("sa.key".into(), key.serialize_pem().into_bytes());
        files.insert("sa.pub".into(), key.public_key_pem().into_bytes());
        Self { files, elsewhere }
    }

    /// All files by path: the PKI folder, the kubeconfigs and the kubelet's certificates.
    pub fn on_disk(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let pki = self.files.iter();
        let pki = pki.map(|(name, content)| (Path::new(paths::PKI).join(name), content.clone()));
        pki.chain(self.elsewhere.clone()).collect()
    }
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

/// A name in a certificate; for the API server, one of its names.
fn name_of(leaf: &str) -> &str {
    match leaf {
        "apiserver" => "kubernetes.default.svc",
        _ => "x",
    }
}

pub fn kubeconfig(ca: &[u8]) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = named("x").self_signed(&key).unwrap().pem();
    kubeconfig_of(ca, certificate.as_bytes(), key.serialize_pem().as_bytes())
}

fn kubeconfig_of(ca: &[u8], certificate: &[u8], key: &[u8]) -> String {
    let [data, certificate, key] = [ca, certificate, key].map(|pem| BASE64_STANDARD.encode(pem));
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {data}\n    \
         server: https://127.0.0.1:7443\n  name: demo\nkind: Config\nusers:\n- name: x\n  user:\n    \
         client-certificate-data: {certificate}\n    client-key-data: {key}\n"
    )
}

pub fn rotating_kubeconfig(ca: &[u8]) -> String {
    let data = BASE64_STANDARD.encode(ca);
    let pem = paths::KUBELET_CLIENT;
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {data}\n  name: demo\n\
         users:\n- name: x\n  user:\n    client-certificate: {pem}\n    client-key: {pem}\n"
    )
}
