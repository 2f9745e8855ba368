//! The join server's certificate.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use secrecy::zeroize::Zeroizing;
use tokio::sync::Mutex;

use crate::{
    error::{Context, Error, Result},
    kubernetes::paths,
    ports::Host,
};

/// The API server's certificate and key with its CA, as they are on disk now: they are renewed
/// while the agent runs.
pub struct Certificate {
    host: Arc<dyn Host>,
    held: Mutex<Option<Held>>,
}

struct Held {
    files: [Zeroizing<Vec<u8>>; 3],
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// The certificate of this control plane.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self {
            host,
            held: Mutex::default(),
        }
    }

    /// The TLS configuration for the next connection.
    pub async fn config(&self) -> Result<Arc<ServerConfig>> {
        let files = [
            self.read(paths::API_SERVER).await?,
            self.read(paths::CA).await?,
            self.read(paths::API_SERVER_KEY).await?,
        ];
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && held.files == files
        {
            return Ok(held.config.clone());
        }
        let config = Arc::new(config(&files)?);
        *held = Some(Held {
            files,
            config: config.clone(),
        });
        Ok(config)
    }

    async fn read(&self, path: &str) -> Result<Zeroizing<Vec<u8>>> {
        let content = self.host.read(Path::new(path)).await?;
        content
            .map(Zeroizing::new)
            .ok_or_else(|| Error::failed(format!("{path} does not exist")))
    }
}

fn config([certificate, ca, key]: &[Zeroizing<Vec<u8>>; 3]) -> Result<ServerConfig> {
    let read = |pem: &[u8], path: &str| {
        CertificateDer::from_pem_slice(pem).attempting(|| format!("cannot read {path}"))
    };
    let chain = vec![read(certificate, paths::API_SERVER)?, read(ca, paths::CA)?];
    let key = PrivateKeyDer::from_pem_slice(key)
        .attempting(|| format!("cannot read {}", paths::API_SERVER_KEY))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .attempting(|| "cannot set up TLS".to_owned())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .attempting(|| format!("{} does not match its key", paths::API_SERVER))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
