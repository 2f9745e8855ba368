#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod archives;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Mutex, atomic::AtomicBool},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{error::Kind, ports::Target};

/// A server that sends the bytes of our choice and then closes, as no proper server does.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` gets the number of the request and the range's first byte.
    async fn start(answer: impl Fn(usize, Option<usize>) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            let mut number = 0;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break, // cancelled before it was asked
                    }
                }
                if head.is_empty() {
                    continue;
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                let from = head
                    .lines()
                    .find_map(|line| line.strip_prefix("range: bytes="))
                    .map(|range| range.trim_end_matches('-').parse().unwrap());
                seen.lock().unwrap().push(head);
                let _ = stream.write_all(&answer(number, from)).await;
                let _ = stream.shutdown().await;
                number += 1;
            }
        });
        Self { url, requests }
    }

    fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn asked_for(&self, number: usize, range: &str) -> bool {
        self.requests.lock().unwrap()[number].contains(&format!("range: bytes={range}"))
    }
}

fn ok(body: &[u8], sent: usize) -> Vec<u8> {
    answer(
        "200 OK",
        &format!("content-length: {}", body.len()),
        &body[..sent],
    )
}

fn partial(body: &[u8], from: usize, to: usize) -> Vec<u8> {
    let headers = format!(
        "content-length: {}\r\ncontent-range: bytes {from}-{}/{}",
        body.len() - from,
        body.len() - 1,
        body.len()
    );
    answer("206 Partial Content", &headers, &body[from..to])
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 {status}\r\n{headers}\r\nconnection: close\r\n\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn body() -> Vec<u8> {
    (0..300_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect()
}

fn sha(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

fn downloads(root: &Path) -> HttpDownloads {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .tls_certs_only(Vec::new())
        .no_proxy()
        .build()
        .unwrap();
    HttpDownloads::new(client, 2, Duration::from_secs(20)).at(root)
}

fn kubelet(server: &Server, sha256: String) -> Download {
    Download {
        url: format!("{}/release/kubelet", server.url),
        sha256,
        target: Target::Program("/usr/local/bin/kubelet".into()),
    }
}

/// Every file below a folder, including hidden ones.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // A folder that is being removed has no entries.
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
                if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
                    continue; // only hidden folders count
                }
            }
            found.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_program_is_verified_and_put_in_place_with_its_mode() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let server = Server::start(move |_, _| ok(&bytes, bytes.len())).await;
    downloads(root.path())
        .fetch(&kubelet(&server, sha(&content).to_uppercase()))
        .await
        .unwrap();
    let program = root.path().join("usr/local/bin/kubelet");
    assert_eq!(fs::read(&program).unwrap(), content);
    assert_eq!(
        fs::metadata(&program).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(files(root.path()), ["usr/local/bin/kubelet"]);
}

#[tokio::test]
async fn a_file_is_not_made_executable() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let server = Server::start(move |_, _| ok(&bytes, bytes.len())).await;
    let download = Download {
        target: Target::File("/var/lib/bundle.tar".into()),
        ..kubelet(&server, sha(&content))
    };
    downloads(root.path()).fetch(&download).await.unwrap();
    let file = root.path().join("var/lib/bundle.tar");
    assert_eq!(fs::read(&file).unwrap(), content);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[tokio::test]
async fn a_truncated_download_is_resumed_where_it_broke() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let server = Server::start(move |number, from| match (number, from) {
        (0, None) => ok(&bytes, 100_000),
        (1, Some(from)) => partial(&bytes, from, 200_000),
        (2, _) => answer("503 Service Unavailable", "content-length: 0", b""),
        (_, Some(from)) => partial(&bytes, from, bytes.len()),
        _ => panic!("asked for the whole file again"),
    })
    .await;
    let work = Work::default();
    downloads(root.path())
        .counting(work.clone())
        .fetch(&kubelet(&server, sha(&content)))
        .await
        .unwrap();
    assert!(server.asked_for(1, "100000-") && server.asked_for(3, "200000-"));
    assert_eq!(work.counts().downloaded_bytes, content.len() as u64);
    assert_eq!(
        fs::read(root.path().join("usr/local/bin/kubelet")).unwrap(),
        content
    );
    assert_eq!(files(root.path()), ["usr/local/bin/kubelet"]);
}

#[tokio::test]
async fn a_server_that_ignores_ranges_does_not_spoil_a_resumed_download() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let server =
        Server::start(move |number, _| ok(&bytes, if number == 0 { 123_456 } else { bytes.len() }))
            .await;
    let work = Work::default();
    downloads(root.path())
        .counting(work.clone())
        .fetch(&kubelet(&server, sha(&content)))
        .await
        .unwrap();
    assert!(server.asked_for(1, "123456-"));
    let received = content.len() as u64 + 123_456;
    assert_eq!(
        work.counts().downloaded_bytes,
        received,
        "with what came twice"
    );
    assert_eq!(
        fs::read(root.path().join("usr/local/bin/kubelet")).unwrap(),
        content
    );
}

#[tokio::test]
async fn a_deadline_keeps_the_part_and_the_next_run_resumes_it() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let repaired = Arc::new(AtomicBool::new(false));
    let is_repaired = repaired.clone();
    let server = Server::start(move |number, from| match (number, from) {
        (0, None) => ok(&bytes, 250_000),
        (_, Some(from)) if is_repaired.load(Ordering::Relaxed) => {
            partial(&bytes, from, bytes.len())
        }
        _ => answer("500 Internal Server Error", "content-length: 0", b""),
    })
    .await;
    let mut downloads = downloads(root.path());
    downloads.deadline = Duration::from_millis(800);
    let download = kubelet(&server, sha(&content));
    let error = downloads.fetch(&download).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(
        error
            .one_line()
            .contains("was not downloaded within 0.8 s: 250000 of 300000 bytes arrived: "),
        "{error}"
    );
    assert!(error.remedy().unwrap().contains("the next run resumes"));
    assert_eq!(
        files(root.path()),
        [
            "usr/local/bin/.kubelet.part",
            "usr/local/bin/.kubelet.part.json"
        ]
    );

    repaired.store(true, Ordering::Relaxed);
    downloads.deadline = Duration::from_secs(20);
    downloads.fetch(&download).await.unwrap();
    assert!(server.asked_for(server.asked() - 1, "250000-"));
    assert_eq!(files(root.path()), ["usr/local/bin/kubelet"]);
}

#[tokio::test]
async fn a_damaged_part_of_an_earlier_run_is_dropped_and_the_whole_file_fetched() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let server = Server::start(move |_, from| match from {
        Some(from) => partial(&bytes, from, bytes.len()),
        None => ok(&bytes, bytes.len()),
    })
    .await;
    let download = kubelet(&server, sha(&content));
    let folder = root.path().join("usr/local/bin");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(".kubelet.part"), [7; 1000]).unwrap();
    let journal = serde_json::to_vec(&Journal::of(&download)).unwrap();
    fs::write(folder.join(".kubelet.part.json"), journal).unwrap();
    downloads(root.path()).fetch(&download).await.unwrap();
    assert!(server.asked_for(0, "1000-"));
    assert_eq!(fs::read(folder.join("kubelet")).unwrap(), content);
    assert_eq!(files(root.path()), ["usr/local/bin/kubelet"]);
}

#[tokio::test]
async fn a_part_of_another_version_is_not_resumed() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let server = Server::start(move |_, _| ok(&bytes, bytes.len())).await;
    let folder = root.path().join("usr/local/bin");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(".kubelet.part"), [7; 1000]).unwrap();
    let other = serde_json::to_vec(&Journal::of(&kubelet(&server, sha(b"old")))).unwrap();
    fs::write(folder.join(".kubelet.part.json"), other).unwrap();
    downloads(root.path())
        .fetch(&kubelet(&server, sha(&content)))
        .await
        .unwrap();
    assert!(!server.asked_for(0, ""), "the old part was resumed");
    assert_eq!(fs::read(folder.join("kubelet")).unwrap(), content);
}

#[tokio::test]
async fn a_wrong_digest_ends_the_attempt_and_leaves_only_the_old_program() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let server = Server::start(move |_, _| ok(&bytes, bytes.len())).await;
    let program = root.path().join("usr/local/bin/kubelet");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(&program, "the old one").unwrap();
    let error = downloads(root.path())
        .fetch(&kubelet(&server, sha(b"another")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Doubtful);
    assert_eq!(
        error.one_line(),
        format!(
            "{}/release/kubelet has the wrong sha256: expected {}, got {} (300000 bytes)",
            server.url,
            sha(b"another"),
            sha(&content)
        )
    );
    assert!(
        error
            .remedy()
            .unwrap()
            .contains("put its digest into `sha256` of its pin")
    );
    assert_eq!(server.asked(), 1);
    assert_eq!(files(root.path()), ["usr/local/bin/kubelet"]);
    assert_eq!(fs::read(&program).unwrap(), b"the old one");
}

#[tokio::test]
async fn a_file_that_the_server_denies_for_a_while_is_downloaded_later() {
    let root = tempfile::tempdir().unwrap();
    let content = body();
    let bytes = content.clone();
    let server = Server::start(move |number, from| match (number, from) {
        (0, _) => answer("401 Unauthorized", "content-length: 0", b""),
        (1, _) => ok(&bytes, 100_000),
        (2, Some(_)) => answer("403 Forbidden", "content-length: 0", b""),
        (_, Some(from)) => partial(&bytes, from, bytes.len()),
        _ => panic!("asked for the whole file again"),
    })
    .await;
    let downloads = downloads(root.path());
    let wanted = kubelet(&server, sha(&content));
    for status in ["401", "403"] {
        let error = downloads.fetch(&wanted).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Doubtful);
        assert!(error.one_line().contains(status), "{error}");
    }
    // What arrived before the denial is kept.
    downloads.fetch(&wanted).await.unwrap();
    assert!(server.asked_for(3, "100000-"));
}

#[tokio::test]
async fn a_missing_file_is_reported_with_what_to_check() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| answer("404 Not Found", "content-length: 0", b"")).await;
    let error = downloads(root.path())
        .fetch(&kubelet(&server, sha(b"x")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Doubtful);
    assert_eq!(
        error.one_line(),
        format!("{}/release/kubelet answered 404 Not Found", server.url)
    );
    let remedy = error.remedy().unwrap();
    assert!(
        remedy.contains("`version` and `url` of its pin") && remedy.contains("[downloads.mirrors]")
    );
    assert_eq!(server.asked(), 1);
    assert!(files(root.path()).is_empty());
}

#[tokio::test]
async fn a_file_too_large_for_the_disk_fails_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| {
        let petabyte = format!("content-length: {}", 1_u64 << 50);
        answer("200 OK", &petabyte, b"start")
    })
    .await;
    let error = downloads(root.path())
        .fetch(&kubelet(&server, sha(b"x")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    let text = error.one_line();
    assert!(text.starts_with("no space in "), "{error}");
    assert!(
        text.contains("it needs at least 1073741824.0 MiB, "),
        "{error}"
    );
    assert!(
        error
            .remedy()
            .unwrap()
            .contains("the download was discarded")
    );
    assert_eq!(server.asked(), 1);
    assert!(files(root.path()).is_empty());
}

#[tokio::test]
async fn a_text_is_verified_limited_and_retried() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(|number, _| match number {
        0 => answer("429 Too Many Requests", "content-length: 0", b""),
        1 => ok(b"kind: Namespace", 4),
        4.. => ok(&vec![b' '; LARGEST_TEXT + 1], LARGEST_TEXT + 1),
        _ => ok(b"kind: Namespace", 15),
    })
    .await;
    let downloads = downloads(root.path());
    let (url, digest) = (
        format!("{}/calico.yaml", server.url),
        sha(b"kind: Namespace"),
    );
    assert_eq!(
        downloads.text(&url, &digest).await.unwrap(),
        "kind: Namespace"
    );
    assert_eq!(server.asked(), 3);
    let error = downloads.text(&url, &sha(b"other")).await.unwrap_err();
    assert!(error.one_line().contains("has the wrong sha256"), "{error}");
    let error = downloads.text(&url, &digest).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.one_line().contains("is larger than 8388608 bytes"),
        "{error}"
    );
    let error = downloads.text(&url, "abc").await.unwrap_err();
    assert!(
        error.one_line().starts_with("`abc` is not a sha256 for "),
        "{error}"
    );
    assert_eq!(server.asked(), 5);
}

#[tokio::test]
async fn no_more_downloads_run_at_once_than_allowed() {
    let root = tempfile::tempdir().unwrap();
    let server = wiremock::MockServer::start().await;
    let slow = wiremock::ResponseTemplate::new(200)
        .set_body_bytes(body())
        .set_delay(Duration::from_millis(150));
    wiremock::Mock::given(wiremock::matchers::any())
        .respond_with(slow)
        .mount(&server)
        .await;
    let downloads = HttpDownloads {
        slots: Arc::new(Semaphore::new(1)),
        ..downloads(root.path())
    };
    let download = |name: &str| Download {
        url: format!("{}/{name}", server.uri()),
        sha256: sha(&body()),
        target: Target::Program(Path::new("/usr/local/bin").join(name)),
    };
    let begun = Instant::now();
    let (kubeadm, kubectl) = (download("kubeadm"), download("kubectl"));
    tokio::try_join!(downloads.fetch(&kubeadm), downloads.fetch(&kubectl)).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        files(root.path()),
        ["usr/local/bin/kubeadm", "usr/local/bin/kubectl"]
    );
}
