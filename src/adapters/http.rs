//! How every HTTP client of the agent is built.
//!
//! TLS is rustls with ring, named explicitly. It trusts the embedded Mozilla roots plus the
//! machine's own bundle, so that a private CA works with the usual `update-ca-certificates`. Names
//! are resolved in the process, see [`resolver`].

pub mod resolver;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, header};
use reqwest::{Client, ClientBuilder, NoProxy, redirect::Policy};
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::CertificateResult;

use self::resolver::SystemResolver;
use crate::{
    config::Settings,
    error::{Context, Result},
    report::Work,
};

/// The `User-Agent` of all requests.
pub const USER_AGENT: &str = concat!("k8s-bootstrap/", env!("CARGO_PKG_VERSION"));

/// Builds clients that share trusted roots and the resolver's cache.
#[derive(Debug, Clone)]
pub struct Clients {
    tls: ClientConfig,
    resolver: SystemResolver,
    /// The settings' proxies; if there are none, the environment's variables count.
    proxies: Vec<reqwest::Proxy>,
    /// What AWS and downloads count as.
    work: Work,
}

impl Clients {
    /// Reads the machine's certificates. A broken bundle is logged and is no error: the embedded
    /// roots still work.
    pub fn new() -> Result<Self> {
        Self::trusting(roots(rustls_native_certs::load_native_certs()))
    }

    fn trusting(roots: RootCertStore) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .attempting(|| "cannot set up TLS".to_owned())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            tls,
            resolver: SystemResolver::default(),
            proxies: Vec::new(),
            work: Work::default(),
        })
    }

    /// The same clients; their requests count as this work.
    #[must_use]
    pub fn counting(mut self, work: Work) -> Self {
        self.work = work;
        self
    }

    /// Where those who use the clients count.
    pub fn work(&self) -> Work {
        self.work.clone()
    }

    /// The same clients behind the settings' proxy, if there is one.
    pub fn behind(&self, settings: &Settings) -> Result<Self> {
        let (http, https) = (&settings.proxy.http, &settings.proxy.https);
        let direct = NoProxy::from_string(&settings.no_proxy());
        let mut clients = self.clone();
        for (url, proxy) in [
            (http, reqwest::Proxy::http(http)),
            (https, reqwest::Proxy::https(https)),
        ] {
            if !url.is_empty() {
                let proxy = proxy.attempting(|| format!("cannot use the proxy {url}"))?;
                clients.proxies.push(proxy.no_proxy(direct.clone()));
            }
        }
        Ok(clients)
    }

    fn builder(&self) -> ClientBuilder {
        let proxies = self.proxies.iter().cloned();
        proxies.fold(
            Client::builder()
                .user_agent(USER_AGENT)
                .tls_backend_preconfigured(self.tls.clone())
                .dns_resolver(Arc::new(self.resolver.clone())),
            ClientBuilder::proxy,
        )
    }

    /// For release sites and mirrors: uses the proxy and follows redirects; 10 s to connect,
    /// and 30 s without a byte end a transfer.
    pub fn downloads(&self) -> Result<Client> {
        self.authorized(None)
    }

    /// Like [`Self::downloads`], with this `Authorization`, which a redirect to another host does not
    /// get.
    pub fn authorized(&self, authorization: Option<HeaderValue>) -> Result<Client> {
        let headers = authorization.map(|value| (header::AUTHORIZATION, value));
        self.builder()
            .default_headers(headers.into_iter().collect())
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(30))
            .build()
            .attempting(|| "cannot set up the HTTP client for downloads".to_owned())
    }

    /// For AWS APIs: uses the proxy, returns a redirect like any other answer (a signature is
    /// valid for one host), 5 s to connect, 20 s for the whole call.
    pub fn aws(&self) -> Result<Client> {
        self.builder()
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20))
            .build()
            .attempting(|| "cannot set up the HTTP client for AWS".to_owned())
    }

    /// For the metadata service, which is one hop away and never behind a proxy: at most 1 s to
    /// connect and 5 s for the whole call.
    pub fn metadata(&self) -> Result<Client> {
        self.builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(5))
            .build()
            .attempting(|| "cannot set up the HTTP client for the metadata service".to_owned())
    }
}

/// The embedded roots and the usable certificates of the machine.
fn roots(native: CertificateResult) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    for error in &native.errors {
        tracing::warn!(%error, "cannot read some of the machine's trusted certificates");
    }
    let (_, unusable) = roots.add_parsable_certificates(native.certs);
    if unusable > 0 {
        tracing::warn!(
            unusable,
            "the machine trusts certificates that rustls cannot use"
        );
    }
    roots
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

    use super::*;

    #[tokio::test]
    async fn a_client_sends_its_user_agent() {
        let server = MockServer::start().await;
        Mock::given(matchers::header("user-agent", USER_AGENT))
            .respond_with(ResponseTemplate::new(204))
            .mount(&server)
            .await;
        let clients = Clients::new().unwrap();
        for client in [clients.downloads(), clients.aws(), clients.metadata()] {
            let answer = client.unwrap().get(server.uri()).send().await.unwrap();
            assert_eq!(answer.status(), 204);
        }
    }

    #[test]
    fn a_broken_bundle_loses_only_its_own_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("ca-certificates.crt");
        let trusted = |content: &str| {
            std::fs::write(&bundle, content).unwrap();
            roots(rustls_native_certs::load_certs_from_paths(
                Some(&bundle),
                None,
            ))
            .len()
        };
        let embedded = trusted("");
        assert!(embedded > 50, "{embedded}");
        let own = generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        let own = own.cert.pem();
        assert_eq!(trusted(&own), embedded + 1);
        let broken = "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n";
        assert_eq!(trusted(broken), embedded);
        let half = &own[..own.len() / 2];
        assert_eq!(trusted(half), embedded);
        std::fs::remove_file(&bundle).unwrap();
        let missing = rustls_native_certs::load_certs_from_paths(Some(&bundle), None);
        assert!(!missing.errors.is_empty());
        assert_eq!(roots(missing).len(), embedded);
    }

    /// Nothing listens here: only a proxy can answer.
    const NOBODY: &str = "http://127.0.0.1:1/";

    /// Set in the child process that has proxy variables.
    const BEHIND_A_PROXY: &str = "K8S_BOOTSTRAP_TEST_BEHIND_A_PROXY";

    /// The environment belongs to the process, so this test runs itself in a child process.
    #[tokio::test]
    async fn proxy_variables_apply_except_to_the_metadata_service() {
        if std::env::var_os(BEHIND_A_PROXY).is_some() {
            return behind_a_proxy().await;
        }
        let proxy = MockServer::start().await;
        Mock::given(matchers::any())
            .respond_with(ResponseTemplate::new(418))
            .expect(2)
            .mount(&proxy)
            .await;
        let this = "adapters::http::tests::proxy_variables_apply_except_to_the_metadata_service";
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this])
            .env(BEHIND_A_PROXY, "yes")
            .env("http_proxy", proxy.uri())
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }

    async fn behind_a_proxy() {
        let clients = Clients::new().unwrap();
        for client in [clients.downloads(), clients.aws()] {
            assert_eq!(
                client.unwrap().get(NOBODY).send().await.unwrap().status(),
                418
            );
        }
        let direct = clients.metadata().unwrap().get(NOBODY).send().await;
        assert!(direct.unwrap_err().is_connect());
    }

    #[tokio::test]
    async fn the_settings_proxy_is_used_except_for_what_is_requested_directly() {
        let proxy = MockServer::start().await;
        Mock::given(matchers::any())
            .respond_with(ResponseTemplate::new(418))
            .mount(&proxy)
            .await;
        let mut settings = crate::testing::settings();
        settings.proxy.http = proxy.uri();
        let clients = Clients::new().unwrap().behind(&settings).unwrap();
        for client in [clients.downloads(), clients.aws()] {
            let client = client.unwrap();
            // No lookup: the proxy resolves the name.
            let proxied = client.get("http://release.example/").send().await.unwrap();
            assert_eq!(proxied.status(), 418);
            let direct = client.get(NOBODY).send().await;
            assert!(direct.unwrap_err().is_connect());
        }
        let metadata = clients.metadata().unwrap().get(NOBODY).send().await;
        assert!(metadata.unwrap_err().is_connect());
    }

    #[tokio::test]
    async fn redirects_are_followed_for_downloads_only() {
        let server = MockServer::start().await;
        Mock::given(matchers::path("/old"))
            .respond_with(ResponseTemplate::new(302).insert_header("location", "/new"))
            .mount(&server)
            .await;
        Mock::given(matchers::path("/new"))
            .respond_with(ResponseTemplate::new(204))
            .mount(&server)
            .await;
        let clients = Clients::new().unwrap();
        let old = format!("{}/old", server.uri());
        let status = async |client: Client| client.get(&old).send().await.unwrap().status();
        assert_eq!(status(clients.downloads().unwrap()).await, 204);
        assert_eq!(status(clients.aws().unwrap()).await, 302);
        assert_eq!(status(clients.metadata().unwrap()).await, 302);
    }

    /// Serves one TLS connection after the other with a certificate for `localhost`.
    async fn tls_server() -> (
        std::net::SocketAddr,
        rustls::pki_types::CertificateDer<'static>,
    ) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = stream.into_std().unwrap();
                let config = config.clone();
                stream.set_nonblocking(false).unwrap();
                tokio::task::spawn_blocking(move || serve_one(stream, config));
            }
        });
        (address, cert.der().clone())
    }

    fn serve_one(stream: std::net::TcpStream, config: Arc<rustls::ServerConfig>) {
        use std::io::{Read, Write};
        let connection = rustls::ServerConnection::new(config).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let mut request = [0; 4096];
        if tls.read(&mut request).is_ok_and(|n| n > 0) {
            let _ = tls.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    }

    #[tokio::test]
    async fn only_trusted_certificates_are_accepted() {
        let (address, certificate) = tls_server().await;
        let url = format!("https://localhost:{}/", address.port());
        let stranger = Clients::trusting(RootCertStore::empty()).unwrap();
        let refusal = stranger.aws().unwrap().get(&url).send().await.unwrap_err();
        assert!(
            format!("{refusal:?}").contains("UnknownIssuer"),
            "{refusal:?}"
        );

        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let friend = Clients::trusting(roots).unwrap();
        let answer = friend.aws().unwrap().get(&url).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    }

    #[tokio::test]
    async fn a_server_that_never_answers_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
            let _ = stream.shutdown().await;
        });
        let client = Clients::new().unwrap().metadata().unwrap();
        let error = client
            .get(format!("http://{address}/"))
            .send()
            .await
            .unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
    }
}
