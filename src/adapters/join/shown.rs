//! What a control plane shows to everyone: the certificate of its API server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::SERVER_NAME;
use crate::{
    error::{Context, Result},
    ports::Peers,
};

/// How long a control plane has to show its certificate.
const LONGEST: Duration = Duration::from_secs(3);

/// Reads certificates and sends no request.
pub struct ShownCertificates {
    config: Arc<ClientConfig>,
}

impl ShownCertificates {
    /// Trusts nobody: it only reads the certificate.
    pub fn new() -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .attempting(|| "cannot set up TLS".to_owned())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnApiServers(provider)))
            .with_no_client_auth();
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

#[async_trait]
impl Peers for ShownCertificates {
    async fn shows_a_cluster(&self, server: SocketAddr) -> bool {
        let shown = async {
            let stream = TcpStream::connect(server).await.ok()?;
            let name = ServerName::try_from(SERVER_NAME).ok()?;
            let connector = TlsConnector::from(self.config.clone());
            connector.connect(name, stream).await.ok()
        };
        matches!(timeout(LONGEST, shown).await, Ok(Some(_)))
    }
}

/// Accepts a certificate that has an API server's name, whoever signed it and however old it is: a
/// cluster with expired certificates is still a cluster.
#[derive(Debug)]
struct AnApiServers(Arc<CryptoProvider>);

impl ServerCertVerifier for AnApiServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if is_an_api_servers(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("this is not an API server".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn is_an_api_servers(der: &[u8]) -> bool {
    let Ok((_, certificate)) = parse_x509_certificate(der) else {
        return false;
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    names.is_some_and(|names| {
        let mut names = names.value.general_names.iter();
        names.any(|name| matches!(name, GeneralName::DNSName(name) if *name == SERVER_NAME))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::adapters::join::Certificate;
    use crate::testing::{FakeWorld, Pki};

    /// A server that shows this certificate once; `None` closes the connection at once.
    async fn server(names: Option<&[&str]>) -> SocketAddr {
        let config = names.map(|names| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let made = rcgen::generate_simple_self_signed(names).unwrap();
            let key = made.signing_key.serialize_der().try_into().unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.into()], key);
            Arc::new(config.unwrap())
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Some(config) = config {
                let _ = TlsAcceptor::from(config).accept(stream).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn an_api_servers_certificate_shows_a_cluster_and_nothing_else_does() {
        let looks = ShownCertificates::new().unwrap();
        let api: &[&str] = &["kubernetes", SERVER_NAME, "ip-10-42-0-10"];
        for (case, names, expected) in [
            ("an API server", Some(api), true),
            ("another server", Some(&["example.com"][..]), false),
            ("an agent without a cluster", None, false),
        ] {
            let server = server(names).await;
            assert_eq!(looks.shows_a_cluster(server).await, expected, "{case}");
        }
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        assert!(!looks.shows_a_cluster(address).await, "nothing listens");
    }

    #[tokio::test]
    async fn the_join_service_shows_a_cluster() {
        let fake = FakeWorld::founded().with_pki(&Pki::new());
        let config = Certificate::new(fake.host.clone()).config().await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = async {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = TlsAcceptor::from(config).accept(stream).await;
        };
        let looks = ShownCertificates::new().unwrap();
        let (shown, ()) = tokio::join!(looks.shows_a_cluster(address), served);
        assert!(shown);
    }
}
