//! Connections to etcd: mutual TLS with kubeadm's certificates, which may be renewed meanwhile.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reqwest::{Client, redirect::Policy};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::sync::Mutex;

use crate::{
    adapters::http::USER_AGENT,
    error::{Context, Error, Result},
};

/// The CA that signs all certificates of etcd: its members' and its clients'.
const CA: &str = "ca.crt";
/// The client certificate of etcd's probes; both founding and joining create it.
const CERTIFICATE: &str = "healthcheck-client.crt";
const KEY: &str = "healthcheck-client.key";

/// A client that is created when needed, and again when one of its files has changed.
pub struct Connection {
    folder: PathBuf,
    silence: Duration,
    current: Mutex<Option<(Credentials, Client)>>,
}

#[derive(PartialEq, Eq)]
struct Credentials {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Connection {
    /// Uses the files in this folder; no part of an answer may take longer than `silence`.
    pub fn with(folder: PathBuf, silence: Duration) -> Self {
        Self {
            folder,
            silence,
            current: Mutex::new(None),
        }
    }

    /// A client with the current certificates.
    pub async fn client(&self) -> Result<Client> {
        let credentials = Credentials {
            ca: read(&self.folder.join(CA)).await?,
            certificate: read(&self.folder.join(CERTIFICATE)).await?,
            key: read(&self.folder.join(KEY)).await?,
        };
        let mut current = self.current.lock().await;
        if let Some((known, client)) = &*current
            && *known == credentials
        {
            return Ok(client.clone());
        }
        let client = connect(&credentials, self.silence)
            .map_err(|error| error.during(format!("cannot use {}", self.folder.display())))?;
        *current = Some((credentials, client.clone()));
        Ok(client)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>> {
    match tokio::fs::read(path).await {
        Ok(content) => Ok(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::failed(format!(
            "cannot connect to etcd: {} does not exist",
            path.display()
        ))
        .hint("etcd runs on control planes that have founded or joined a cluster")),
        Err(error) => Err(Error::failed(format!("cannot read {}", path.display())).because(&error)),
    }
}

fn connect(credentials: &Credentials, silence: Duration) -> Result<Client> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&credentials.ca) {
        let certificate = certificate.attempting(|| format!("{CA} is not PEM"))?;
        roots
            .add(certificate)
            .attempting(|| format!("{CA} is not a usable certificate"))?;
    }
    let chain = CertificateDer::pem_slice_iter(&credentials.certificate)
        .collect::<std::result::Result<Vec<_>, _>>()
        .attempting(|| format!("{CERTIFICATE} is not PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(&credentials.key)
        .attempting(|| format!("{KEY} is not PEM"))?;
    let mut tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .attempting(|| "cannot set up TLS".to_owned())?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .attempting(|| format!("{CERTIFICATE} does not match {KEY}"))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Client::builder()
        .user_agent(USER_AGENT)
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(Duration::from_secs(2))
        .read_timeout(silence)
        .build()
        .attempting(|| "cannot set up the HTTP client for etcd".to_owned())
}
