//! The hash of the cluster's CA that joiners pin, and the upload of a control plane's certificates.

use std::path::Path;

use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::paths;
use crate::{
    error::{Context, Error, Result},
    ports::{Command, Host, World},
};

/// [`ca_cert_hash`] of this node's cluster.
pub async fn own_ca_cert_hash(host: &dyn Host) -> Result<String> {
    let ca = host.read(Path::new(paths::CA)).await?.ok_or_else(|| {
        Error::failed(format!(
            "{} does not exist: this node has no cluster yet",
            paths::CA
        ))
    })?;
    ca_cert_hash(&ca)
}

/// `sha256:` and the digest of the certificate's `SubjectPublicKeyInfo`, in kubeadm's format.
pub fn ca_cert_hash(pem: &[u8]) -> Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem)
        .requiring(|| "the cluster CA's certificate is not PEM".to_owned())?;
    key_hash(&pem.contents)
        .ok_or_else(|| Error::refused("the cluster CA's certificate is not X.509"))
}

/// Same, for a DER certificate; `None` if it is not one.
pub fn key_hash(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let digest = Sha256::digest(certificate.public_key().raw);
    Some(format!("sha256:{}", hex::encode(digest)))
}

/// Uploads this control plane's certificates to the cluster, encrypted with a new key, for another
/// control plane that joins. kubeadm keeps them for two hours. Returns the key.
///
/// Replaces the previous upload, so a joiner's key is valid until the next joiner asks.
pub async fn upload_certificates(world: &World) -> Result<SecretString> {
    let upload = Command::new(
        "kubeadm",
        [
            "init",
            "phase",
            "upload-certs",
            "--upload-certs",
            "--config",
            paths::INIT_CONFIG,
        ],
    );
    let said = world.commands.succeed(upload.clone()).await?;
    // kubeadm prints no other line of this form.
    said.stdout
        .lines()
        .map(str::trim)
        .find(|line| line.len() == 64 && line.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(SecretString::from)
        .ok_or_else(|| Error::failed(format!("`{}` printed no certificate key", upload.line())))
}

#[cfg(test)]
mod tests;
