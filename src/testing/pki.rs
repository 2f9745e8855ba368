//! A cluster's certificates and kubeconfigs, as kubeadm leaves them.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::phases::kubeadm::paths;

/// A whole PKI folder as kubeadm leaves it, by name below it.
pub struct Pki {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Pki {
    pub fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let mut files = BTreeMap::new();
        let mut put = |base: &str, certificate: &rcgen::Certificate, key: &KeyPair| {
            files.insert(format!("{base}.crt"), certificate.pem().into_bytes());
            files.insert(format!("{base}.key"), key.serialize_pem().into_bytes());
        };
        for (ca, leaves) in [
            ("ca", &["apiserver", "apiserver-kubelet-client"][..]),
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
        ] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let certificate = params.self_signed(&key).unwrap();
            put(ca, &certificate, &key);
            let issuer = Issuer::new(params, key);
            for leaf in leaves {
                let key = KeyPair::generate().unwrap();
                let mut params = CertificateParams::new([name_of(leaf).to_owned()]).unwrap();
                params.use_authority_key_identifier_extension = true;
                let certificate = params.signed_by(&key, &issuer).unwrap();
                put(leaf, &certificate, &key);
            }
        }
        let key = KeyPair::generate().unwrap();
        files.insert("sa.key".into(), key.serialize_pem().into_bytes());
        files.insert("sa.pub".into(), key.public_key_pem().into_bytes());
        Self { files }
    }
}

/// A name by which a certificate is known; of the API server's names, one.
fn name_of(leaf: &str) -> &str {
    match leaf {
        "apiserver" => "kubernetes.default.svc",
        _ => "x",
    }
}

pub fn kubeconfig(ca: &[u8]) -> String {
    let data = BASE64_STANDARD.encode(ca);
    let key = BASE64_STANDARD.encode(rcgen::KeyPair::generate().unwrap().serialize_pem());
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {data}\n    \
         server: https://127.0.0.1:7443\n  name: demo\nkind: Config\nusers:\n- name: x\n  user:\n    \
         client-certificate-data: {data}\n    client-key-data: {key}\n"
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
