//! The lab's certificate authority, which signs for AWS's names inside the VPC.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::network::{API, REGION};

/// AWS services that have an endpoint in the region.
pub const REGIONAL: [&str; 7] = [
    "ec2",
    "ssm",
    "sts",
    "s3",
    "route53",
    "autoscaling",
    "api.ecr",
];

/// Every AWS name that the lab serves.
pub fn aws_names() -> Vec<String> {
    REGIONAL
        .iter()
        .map(|service| format!("{service}.{REGION}.amazonaws.com"))
        .chain(["sts.amazonaws.com".into(), "route53.amazonaws.com".into()])
        .collect()
}

/// The name of a bucket of the region.
pub fn bucket_host(bucket: &str) -> String {
    format!("{bucket}.s3.{REGION}.amazonaws.com")
}

/// The bucket with this name; `None` if it is no bucket's, or one that the certificate does not
/// cover.
pub fn bucket_of(host: &str) -> Option<&str> {
    host.strip_suffix(&bucket_host(""))
        .filter(|bucket| !bucket.is_empty() && !bucket.contains('.'))
}

/// Creates a CA and a server certificate for AWS's names: writes the CA's certificate to `ca_file`
/// and returns the server's settings.
pub fn create(ca_file: &Path) -> Result<Arc<ServerConfig>> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name
        .push(DnType::CommonName, "k8s-bootstrap lab");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

    let mut names = aws_names();
    names.push(API.to_string());
    names.push(bucket_host("*"));
    let mut server = CertificateParams::new(names)?;
    server
        .distinguished_name
        .push(DnType::CommonName, "lab AWS API");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &authority)?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    fs::write(ca_file, authority.pem())
        .with_context(|| format!("cannot write the lab's authority to {}", ca_file.display()))?;
    Ok(Arc::new(config))
}
