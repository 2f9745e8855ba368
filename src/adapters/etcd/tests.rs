//! A stand-in for members of etcd; the scenarios are below `tests/`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod connection;
mod maintenance;
mod members;
mod snapshot;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_blocking,
};

use super::*;

/// A CA, and certificates signed by it.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client's files, as kubeadm names them.
    fn write(&self, folder: &Path) {
        let (certificate, key) = self.sign(&["healthcheck"]);
        for (name, content) in [
            ("ca.crt", self.certificate.pem()),
            ("healthcheck-client.crt", certificate.pem()),
            ("healthcheck-client.key", key.serialize_pem()),
        ] {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }

    fn server(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let (certificate, key) = self.sign(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}

/// A member's answers by call: status and body.
type Answers = BTreeMap<&'static str, Box<dyn Fn(&Value) -> (u16, String) + Send + Sync>>;

/// A member that speaks the gateway's protocol; it requires client certificates as etcd does.
struct Server {
    answers: Mutex<Answers>,
    asked: Mutex<Vec<String>>,
    tls: Mutex<Arc<ServerConfig>>,
}

impl Server {
    /// Serves connections, one request each.
    fn serve(self: Arc<Self>, listener: TcpListener) {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = self.clone();
                spawn_blocking(move || server.one(stream));
            }
        });
    }

    fn one(&self, stream: TcpStream) -> Option<()> {
        use std::io::{BufRead, BufReader, Read, Write};
        let stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let tls = self.tls.lock().unwrap().clone();
        let connection = rustls::ServerConnection::new(tls).unwrap();
        let mut stream = BufReader::new(rustls::StreamOwned::new(connection, stream));
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let call = line.split(' ').nth(1)?.strip_prefix("/v3/")?.to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).ok()?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.asked.lock().unwrap().push(format!("{call} {body}"));
        let (status, text) = match self.answers.lock().unwrap().get(call.as_str()) {
            Some(answer) => answer(&body),
            None => (404, r#"{"code":5,"message":"Not Found"}"#.to_owned()),
        };
        let length = text.len();
        let out = stream.get_mut();
        let head =
            format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        out.write_all(head.as_bytes()).ok()?;
        out.write_all(text.as_bytes()).ok()?;
        out.conn.send_close_notify();
        out.flush().ok()
    }
}

/// Members at 127.0.0.1, 127.0.0.2, … on one port, and the adapter with certificates for them.
struct Stand {
    servers: Vec<Arc<Server>>,
    folder: tempfile::TempDir,
    etcd: EtcdGateway,
}

impl Stand {
    async fn of(count: u8) -> Self {
        let authority = Authority::new();
        let folder = tempfile::tempdir().unwrap();
        authority.write(folder.path());
        let (servers, port) = Self::listen(count, &authority).await;
        let etcd = EtcdGateway::at(folder.path(), Ipv4Addr::LOCALHOST, port);
        Self {
            servers,
            folder,
            etcd,
        }
    }

    /// All on the first port that is free on every address.
    async fn listen(count: u8, authority: &Authority) -> (Vec<Arc<Server>>, u16) {
        'port: loop {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            let mut listeners = vec![first];
            for last in 2..=count {
                match TcpListener::bind((Ipv4Addr::from([127, 0, 0, last]), port)).await {
                    Ok(listener) => listeners.push(listener),
                    Err(_) => continue 'port,
                }
            }
            let servers = listeners.into_iter().map(|listener| {
                let server = Arc::new(Server {
                    answers: Mutex::default(),
                    asked: Mutex::default(),
                    tls: Mutex::new(authority.server()),
                });
                server.clone().serve(listener);
                server
            });
            return (servers.collect(), port);
        }
    }

    /// Sets a member's answer to a call from now on.
    fn on(&self, member: usize, call: &'static str, status: u16, body: impl Into<String>) {
        let body = body.into();
        self.when(member, call, move |_| (status, body.clone()));
    }

    fn when(
        &self,
        member: usize,
        call: &'static str,
        answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static,
    ) {
        let mut answers = self.servers[member].answers.lock().unwrap();
        answers.insert(call, Box::new(answer));
    }

    fn asked(&self, member: usize) -> Vec<String> {
        std::mem::take(&mut self.servers[member].asked.lock().unwrap())
    }

    fn snapshot_is(&self, lines: &str) {
        self.on(0, "maintenance/snapshot", 200, lines);
    }

    async fn take(&self) -> (Result<Snapshot>, Vec<String>) {
        let folder = self.folder.path().join("snapshots");
        let taken = self.etcd.snapshot(&folder.join("one")).await;
        let left = std::fs::read_dir(folder).map(|entries| {
            entries
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect()
        });
        (taken, left.unwrap_or_default())
    }
}

const MEMBERS: &str = r#"{"header":{"cluster_id":"1","member_id":"7","raft_term":"2"},"members":[
    {"ID":"13148557906461751675","name":"b","peerURLs":["https://127.0.0.2:2380"],"clientURLs":["https://127.0.0.2:2379"]},
    {"ID":"7","name":"a","peerURLs":["https://127.0.0.1:2380"],"clientURLs":["https://127.0.0.1:2379"]},
    {"ID":"9","peerURLs":["https://127.0.0.3:2380"],"isLearner":true}]}"#;

fn status(leader: &str, agreed: u64, applied: u64) -> String {
    format!(
        r#"{{"header":{{"member_id":"7"}},"version":"3.6.8","leader":"{leader}","raftIndex":"{agreed}","raftAppliedIndex":"{applied}"}}"#
    )
}

fn member(id: u64, last: u8) -> Member {
    Member {
        id,
        name: "x".to_owned(),
        address: Ipv4Addr::from([127, 0, 0, last]),
        learner: false,
    }
}

const NO_LEADER: &str = r#"{"code":14,"message":"etcdserver: no leader"}"#;
