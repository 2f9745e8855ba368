#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Mutex;

use async_trait::async_trait;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    health::{Answer, Probe},
    *,
};
use crate::error::Error;
use crate::ports::ApiHealth;

/// The answers of these servers; others do not answer.
#[derive(Default)]
struct Scripted(Mutex<Vec<(SocketAddr, Answer)>>);

impl Scripted {
    fn ready(&self, servers: &[SocketAddr]) {
        self.answer(servers, Answer::Ready);
    }

    fn answer(&self, servers: &[SocketAddr], answer: Answer) {
        *self.0.lock().unwrap() = servers.iter().map(|server| (*server, answer)).collect();
    }
}

#[async_trait]
impl Probe for Scripted {
    async fn probe(&self, server: SocketAddr) -> Result<Answer> {
        let answers = self.0.lock().unwrap();
        let answer = answers.iter().find(|(of, _)| *of == server);
        answer
            .map(|(_, answer)| *answer)
            .ok_or_else(|| Error::failed("not ready"))
    }
}

/// A server that greets with its name and then keeps the connection open.
async fn server(name: &'static str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            client.write_all(name.as_bytes()).await.unwrap();
            kept.push(client);
        }
    });
    (address, task)
}

struct Stage {
    address: SocketAddr,
    listed: watch::Sender<Vec<SocketAddr>>,
    health: Arc<Health>,
}

async fn balancer(servers: &[SocketAddr]) -> Stage {
    let (listed, seen) = watch::channel(servers.to_vec());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = Arc::new(Health::default());
    tokio::spawn(serve(listener, seen, health.clone()));
    Stage {
        address,
        listed,
        health,
    }
}

/// A connection, and the name of the server that greeted it.
async fn connect(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 16];
    let read = stream.read(&mut greeting).await.unwrap();
    (
        stream,
        String::from_utf8_lossy(&greeting[..read]).into_owned(),
    )
}

async fn greeting(address: SocketAddr) -> String {
    connect(address).await.1
}

#[tokio::test]
async fn the_next_connection_goes_to_a_running_server() {
    let (first, first_task) = server("first").await;
    let (second, _task) = server("second").await;
    let stage = balancer(&[first, second]).await;
    assert_eq!(greeting(stage.address).await, "first");
    first_task.abort();
    let _ = first_task.await;
    assert_eq!(greeting(stage.address).await, "second");
    stage.listed.send_replace(Vec::new());
    assert_eq!(greeting(stage.address).await, "");
    stage.listed.send_replace(vec![second]);
    assert_eq!(greeting(stage.address).await, "second");
}

#[tokio::test]
async fn a_server_that_is_not_ready_loses_its_connections_to_one_that_is() {
    let (first, _first) = server("first").await;
    let (second, _second) = server("second").await;
    let servers = [first, second];
    let stage = balancer(&servers).await;
    let probe = Scripted::default();
    probe.ready(&servers);
    stage.health.round(&servers, &probe).await;
    let (mut stream, name) = connect(stage.address).await;
    assert_eq!(name, "first");
    probe.ready(&[second]);
    stage.health.round(&servers, &probe).await;
    // New connections go elsewhere at once; the old one is closed once the failure is certain.
    assert_eq!(greeting(stage.address).await, "second");
    stage.health.round(&servers, &probe).await;
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn while_all_servers_fail_connections_stay_and_each_is_tried() {
    let (first, _first) = server("first").await;
    let servers = [first];
    let stage = balancer(&servers).await;
    let probe = Scripted::default();
    let (stream, name) = connect(stage.address).await;
    assert_eq!(name, "first");
    assert!(!stage.health.all_dead());
    for _ in 0..3 {
        stage.health.round(&servers, &probe).await;
    }
    assert!(stage.health.all_dead());
    // A closed connection would end the read; an open one has no data.
    assert!(stream.try_read(&mut [0; 16]).is_err());
    assert_eq!(greeting(stage.address).await, "first");
    probe.ready(&servers);
    stage.health.round(&servers, &probe).await;
    assert!(!stage.health.all_dead());
}

#[tokio::test]
async fn ready_servers_come_first_and_unlisted_ones_are_removed() {
    let [a, b, c]: [SocketAddr; 3] =
        ["10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:6443"].map(|text| text.parse().unwrap());
    let health = Health::default();
    let probe = Scripted::default();
    probe.ready(&[b]);
    health.round(&[a, b], &probe).await;
    assert_eq!(health.order(&[a, b, c]), [b, c, a]);
    health.missed(b);
    assert_eq!(health.order(&[a, b, c]), [c, a, b]);
    health.round(&[c], &probe).await;
    assert_eq!(health.order(&[a, b, c]), [a, b, c]);
}

/// A TLS server that answers every request with this status.
async fn api_server(status: &'static str) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 1024]).await;
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, cert.pem())
}

/// An API server that is starting forbids everything until it has read its rules.
#[tokio::test]
async fn a_server_that_keeps_forbidding_the_probe_counts_as_ready() {
    let [old, new]: [SocketAddr; 2] =
        ["10.42.0.10:6443", "10.42.0.11:6443"].map(|a| a.parse().unwrap());
    let (health, probe) = (Health::default(), Scripted::default());
    // A restart: closed, then forbidding, then busy starting, then ready.
    health.round(&[new, old], &probe).await;
    for answers in [
        vec![(new, Answer::Forbidden), (old, Answer::Ready)],
        vec![(old, Answer::Ready)],
    ] {
        *probe.0.lock().unwrap() = answers;
        health.round(&[new, old], &probe).await;
        assert_eq!(health.order(&[new, old]), [old, new]);
    }
    probe.ready(&[new, old]);
    health.round(&[new, old], &probe).await;
    assert_eq!(health.order(&[new, old]), [new, old]);
    // A person forbids anonymous requests while it serves, or has always done so.
    probe.answer(&[new], Answer::Forbidden);
    health.round(&[new, old], &probe).await;
    assert_eq!(health.order(&[old, new]), [new, old]);
    let health = Health::default();
    let mut looks = 0;
    while health.order(&[old, new]) != [new, old] {
        assert!(!health.all_dead());
        health.round(&[new], &probe).await;
        looks += 1;
    }
    assert_eq!(looks, 5);
}

#[tokio::test]
async fn readyz_is_requested_with_the_clusters_ca_only() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    let probe = ReadyzProbe::new(&file);
    let (ready, ca) = api_server("200 OK").await;
    let (failing, failing_ca) = api_server("500 Internal Server Error").await;
    let (stranger, stranger_ca) = api_server("401 Unauthorized").await;
    let (forbidding, forbidding_ca) = api_server("403 Forbidden").await;
    // Without the CA no request is possible, but a closed port is still a failure.
    probe.probe(failing).await.unwrap();
    let closed = "127.0.0.1:1".parse().unwrap();
    probe.probe(closed).await.unwrap_err();
    std::fs::write(&file, &ca).unwrap();
    probe.probe(ready).await.unwrap();
    let error = probe.probe(stranger).await.unwrap_err();
    assert!(error.one_line().contains("certificate"), "{error}");
    // The CA is read again when it has changed.
    std::fs::write(&file, format!("{failing_ca}{stranger_ca}{forbidding_ca}")).unwrap();
    let error = probe.probe(failing).await.unwrap_err();
    assert!(error.one_line().contains("500"), "{error}");
    assert_eq!(probe.probe(stranger).await.unwrap(), Answer::Ready);
    assert_eq!(probe.probe(forbidding).await.unwrap(), Answer::Forbidden);
}
