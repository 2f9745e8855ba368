//! Connections: TLS, and HTTP requests that are too large, too slow or invalid.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::stage::{Stage, applicant, workers};
use crate::{
    adapters::join::{SERVER_NAME, pin},
    kubernetes::{ca::ca_cert_hash, paths},
    testing::Pki,
};

/// How long an attacker waits: far longer than the server.
const END: Duration = Duration::from_secs(15);

async fn tls(stage: &Stage) -> TlsStream<TcpStream> {
    let config = Arc::new(pin::config(&stage.pin).unwrap());
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let stream = TcpStream::connect(stage.address).await.unwrap();
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap()
}

/// Sends bytes and returns what arrives until the server closes.
async fn raw(stage: &Stage, bytes: &[u8]) -> String {
    let mut stream = tls(stage).await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(END, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the server never closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits for the log entry: the server writes it after the client has seen the end.
async fn logged(stage: &Stage, case: &str, reason: &str) {
    let there = async {
        while !stage.log().contains(reason) {
            tokio::task::yield_now().await;
        }
    };
    let found = timeout(END, there).await;
    assert!(found.is_ok(), "{case}: {}", stage.log());
    stage.logged(case, reason);
}

#[tokio::test]
async fn only_the_two_requests_are_answered() {
    let stage = Stage::new().await;
    for (method, path, status, reason) in [
        ("GET", "/join", 400, "the method is not allowed"),
        ("PUT", "/join", 400, "the method is not allowed"),
        ("POST", "/nonce", 400, "the method is not allowed"),
        ("GET", "/", 404, "there is no such path"),
        ("GET", "/nonce/../join", 400, "the method is not allowed"),
        (
            "GET",
            "/nonce?n=100",
            400,
            "the request must not have a query",
        ),
        (
            "POST",
            "/join?Action=AssumeRole",
            400,
            "the request must not have a query",
        ),
        ("POST", "/join", 400, "is malformed"),
    ] {
        let answer = stage.request(method, path).send().await.unwrap();
        let answer = (answer.status().as_u16(), answer.text().await.unwrap());
        stage.refused(&format!("{method} {path}"), answer, status, reason);
    }
    for body in ["", "null", "[]", "{", "{\"applicant\": {}}", "\u{0}"] {
        let answer = stage
            .request("POST", "/join")
            .body(body)
            .send()
            .await
            .unwrap();
        let answer = (answer.status().as_u16(), answer.text().await.unwrap());
        stage.refused(body, answer, 400, "is malformed");
    }
}

#[tokio::test]
async fn an_oversized_body_is_not_read() {
    let stage = Stage::new().await;
    let large = raw(
        &stage,
        &[
            b"POST /join HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n".as_slice(),
            " ".repeat(20_000).as_bytes(),
        ]
        .concat(),
    )
    .await;
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    logged(&stage, "a large body", "the body is too large").await;

    let mut chunks =
        b"POST /join HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        chunks.extend_from_slice(format!("400\r\n{}\r\n", " ".repeat(1024)).as_bytes());
    }
    let endless = raw(&stage, &chunks).await;
    assert!(endless.starts_with("HTTP/1.1 413"), "{endless}");
}

#[tokio::test]
async fn slow_connections_are_closed() {
    let stage = Stage::new().await;
    let body = b"POST /join HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    let answer = raw(&stage, body).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    logged(&stage, "a slow body", "the body took too long").await;

    raw(&stage, b"GET /nonce HTTP/1.1\r\nhost: ").await;
    logged(&stage, "a slow header", "invalid request").await;

    let mut silent = TcpStream::connect(stage.address).await.unwrap();
    let closed = timeout(END, silent.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "a silent connection is kept");
    logged(
        &stage,
        "a silent connection",
        "the TLS handshake took too long",
    )
    .await;
}

#[tokio::test]
async fn oversized_headers_are_not_read() {
    let stage = Stage::new().await;
    let many: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x: {}\r\n", "1".repeat(20_000));
    for (case, headers) in [("many headers", many), ("a long header", long)] {
        let answer = raw(
            &stage,
            format!("GET /nonce HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes(),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{case}: {answer}");
        logged(&stage, case, "invalid request").await;
    }
    let both =
        b"POST /join HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}";
    let answer = raw(&stage, both).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_connection_carries_one_request() {
    let stage = Stage::new().await;
    let twice = "GET /nonce HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    let answer = raw(&stage, twice.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn connections_without_tls_are_closed() {
    let stage = Stage::new().await;
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream
        .write_all(b"GET /nonce HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let closed = timeout(END, stream.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "plain HTTP is kept open");
    logged(&stage, "plain HTTP", "TLS failed").await;
}

#[tokio::test]
async fn one_address_gets_few_nonces_and_few_connections() {
    let stage = Stage::new().await;
    for _ in 0..8 {
        stage.nonce().await;
    }
    let ninth = stage.request("GET", "/nonce").send().await.unwrap();
    let ninth = (ninth.status().as_u16(), ninth.text().await.unwrap());
    stage.refused(
        "nonces",
        ninth,
        429,
        "too many unused nonces for this address",
    );

    // A burst of 20 in total, then nothing: not even a handshake.
    let mut refused = 0;
    for _ in 0..20 {
        refused += usize::from(stage.request("GET", "/nonce").send().await.is_err());
    }
    assert_eq!(refused, 9);
    stage.logged("connections", "this address makes too many requests");
    stage.clock.forward(Duration::from_mins(2));
    stage.join().await.unwrap();

    stage.clock.forward(Duration::from_mins(2));
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(tls(&stage).await);
    }
    assert!(stage.request("GET", "/nonce").send().await.is_err());
    let log = stage.log();
    assert!(
        log.contains("too many connections from this address"),
        "{log}"
    );
}

/// A joiner sends nothing to a server that is not a control plane of its cluster.
#[tokio::test]
async fn a_joiner_trusts_only_the_pinned_ca_and_the_name_of_an_api_server() {
    let stage = Stage::new().await;
    let ask = async |stage: &Stage, pin: &str| {
        let client = crate::adapters::join::JoinClient::new(stage.fake.sts.clone());
        let applicant = applicant();
        let asked = crate::ports::JoinServices::ask(&client, stage.address, pin, &applicant);
        asked.await.map(drop).map_err(|error| error.one_line())
    };
    let other = ca_cert_hash(&Pki::new().files["ca.crt"]).unwrap();
    let error = ask(&stage, &other).await.unwrap_err();
    assert!(error.contains("does not present the CA"), "{error}");
    let error = ask(&stage, "").await.unwrap_err();
    assert!(error.contains("does not present the CA"), "{error}");

    // The pinned CA, with a certificate that another CA signed.
    let strange = Pki::new();
    let put = |path: &str, name: &str| stage.fake.files.put(path, &strange.files[name]);
    put(paths::API_SERVER, "apiserver.crt");
    put(paths::API_SERVER_KEY, "apiserver.key");
    let error = ask(&stage, &stage.pin).await.unwrap_err();
    assert!(
        error.contains("no answer") && !error.contains("refused"),
        "{error}"
    );

    // A certificate from the right CA, without an API server's name: a kubelet's.
    let stage = Stage::new().await;
    for (path, name) in [
        (
            paths::API_SERVER,
            "/etc/kubernetes/pki/apiserver-kubelet-client.crt",
        ),
        (
            paths::API_SERVER_KEY,
            "/etc/kubernetes/pki/apiserver-kubelet-client.key",
        ),
    ] {
        let content = stage.fake.files.get(name).unwrap();
        stage.fake.files.put(path, content);
    }
    let error = ask(&stage, &stage.pin).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let requests = stage.sts.received_requests().await.unwrap();
    assert!(requests.is_empty());
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() {
    let mut stage = Stage::new().await;
    stage.join_as(&workers(), &applicant()).await.unwrap();
    let renewed = Pki::new();
    for (path, name) in [
        (paths::API_SERVER, "apiserver.crt"),
        (paths::API_SERVER_KEY, "apiserver.key"),
        (paths::CA, "ca.crt"),
    ] {
        stage.fake.files.put(path, &renewed.files[name]);
    }
    assert!(stage.join().await.is_err());
    stage.pin = ca_cert_hash(&renewed.files["ca.crt"]).unwrap();
    stage.join().await.unwrap();
}
