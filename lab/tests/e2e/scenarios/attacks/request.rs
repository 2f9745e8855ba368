//! Certificate requests, as kubelets make them and as an attacker would change them.

use base64::{Engine, prelude::BASE64_STANDARD};
use libtest_mimic::Failed;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};

use super::foothold::Foothold;

pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const SERVING: &str = "kubernetes.io/kubelet-serving";
pub const ANY_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// A draft of a request: it is what a kubelet asks for, until a test changes it.
pub struct Draft {
    pub signer: &'static str,
    pub usages: Vec<&'static str>,
    pub groups: Vec<(DnType, &'static str)>,
    pub name: String,
    pub sans: Vec<San>,
    pub extensions: Vec<CustomExtension>,
    /// The user name that the requester claims.
    pub username: Option<String>,
}

/// A subject alternative name.
pub enum San {
    Dns(String),
    Ip(String),
    Mail(String),
    Uri(String),
}

pub type Change<'a> = &'a dyn Fn(&mut Draft);

/// The user name of a node.
pub fn user(node: &str) -> String {
    format!("system:node:{node}")
}

impl Draft {
    pub fn new(signer: &'static str, usage: &'static str, node: &str) -> Self {
        Self {
            signer,
            usages: vec!["digital signature", usage],
            groups: vec![(DnType::OrganizationName, "system:nodes")],
            name: user(node),
            sans: Vec::new(),
            extensions: Vec::new(),
            username: None,
        }
    }

    pub fn client(of: &Foothold) -> Self {
        Self::new(CLIENT, "client auth", &of.node)
    }

    pub fn serving(of: &Foothold) -> Self {
        let mut draft = Self::new(SERVING, "server auth", &of.node);
        draft.sans(&[&of.node], &[&of.address]);
        draft
    }

    pub fn sans(&mut self, names: &[&str], addresses: &[&str]) {
        let names = names.iter().map(|name| San::Dns((*name).to_owned()));
        let addresses = addresses.iter().map(|at| San::Ip((*at).to_owned()));
        self.sans = names.chain(addresses).collect();
    }

    pub fn object(self, name: &str) -> Result<Value, Failed> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name = DistinguishedName::new();
        for (kind, group) in self.groups {
            params.distinguished_name.push(kind, group);
        }
        params
            .distinguished_name
            .push(DnType::CommonName, self.name);
        for san in self.sans {
            params.subject_alt_names.push(match san {
                San::Dns(name) => SanType::DnsName(name.try_into()?),
                San::Ip(address) => SanType::IpAddress(address.parse()?),
                San::Mail(address) => SanType::Rfc822Name(address.try_into()?),
                San::Uri(uri) => SanType::URI(uri.try_into()?),
            });
        }
        params.custom_extensions = self.extensions;
        let pem = params.serialize_request(&KeyPair::generate()?)?.pem()?;
        Ok(json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name, "labels": {"e2e": "attack"}},
            "spec": {
                "signerName": self.signer, "usages": self.usages, "username": self.username,
                "request": BASE64_STANDARD.encode(pem),
            },
        }))
    }
}
