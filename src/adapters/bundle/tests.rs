#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

use axum::http::StatusCode;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{header, method, path, query_param},
};

use super::{
    contents::Contents,
    pull::{Reference, Repository},
    *,
};
use crate::{adapters::http::Clients, config, error::Kind};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", sha256(bytes)),
        "size": bytes.len(),
    })
}

/// A registry with one image of two architectures, a file server, and what they hold.
struct Origin {
    server: MockServer,
    index: Vec<u8>,
    manifest: Vec<u8>,
}

const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer";
const PROGRAM: &[u8] = b"#!/bin/true";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

impl Origin {
    async fn start() -> Self {
        let server = MockServer::start().await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", LAYER)],
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut ours = descriptor(MANIFEST_TYPE, &manifest);
        ours["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        let mut others = descriptor(MANIFEST_TYPE, b"another");
        others["platform"] = json!({ "architecture": "s390x", "os": "linux" });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [others, ours],
        });
        let origin = Self {
            index: serde_json::to_vec(&index).unwrap(),
            manifest,
            server,
        };
        let digest = format!("manifests/sha256:{}", sha256(&origin.manifest));
        origin.serve("manifests/1", INDEX_TYPE, &origin.index).await;
        origin.serve(&digest, MANIFEST_TYPE, &origin.manifest).await;
        for blob in [CONFIG, LAYER] {
            let place = format!("blobs/sha256:{}", sha256(blob));
            origin.serve(&place, "application/octet-stream", blob).await;
        }
        Mock::given(path("/program"))
            .respond_with(ResponseTemplate::new(200).set_body_bytes(PROGRAM))
            .mount(&origin.server)
            .await;
        origin
    }

    async fn serve(&self, place: &str, media_type: &str, content: &[u8]) {
        Mock::given(path(format!("/v2/team/app/{place}")))
            .and(query_param("ns", "registry.example.com"))
            .respond_with(ResponseTemplate::new(200).set_body_raw(content, media_type))
            .mount(&self.server)
            .await;
    }

    fn maker(&self, arch: &str, output: &Path) -> Maker {
        let mut settings = config::load(&[]).unwrap();
        let mirrors = vec![self.server.uri()];
        settings
            .images
            .mirrors
            .insert("registry.example.com".to_owned(), mirrors);
        Maker::new(&Clients::new().unwrap(), &settings, arch, output).unwrap()
    }

    /// Makes a bundle of everything; returns its sha256.
    async fn bundle(&self, output: &Path) -> String {
        let mut maker = self.maker("amd64", output);
        maker
            .file(&format!("{}/program", self.server.uri()), &sha256(PROGRAM))
            .await
            .unwrap();
        maker
            .image("registry.example.com/team/app:1")
            .await
            .unwrap();
        maker.finish().unwrap()
    }
}

/// What the node's registry answers: status, media type, body.
async fn ask(file: &Path, verb: &str, url: &str) -> (StatusCode, String, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(axum::serve(listener, serve::router(file)).into_future());
    let client = Clients::new().unwrap().downloads().unwrap();
    let request = client.request(verb.parse().unwrap(), format!("http://{address}{url}"));
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let media_type = answer.headers().get("content-type").unwrap();
    let media_type = media_type.to_str().unwrap().to_owned();
    let body = answer.bytes().await.unwrap().to_vec();
    served.abort();
    (status, media_type, body)
}

#[tokio::test]
async fn a_node_gets_from_its_bundle_what_the_registry_had() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle.tar");
    let digest = origin.bundle(&file).await;
    assert_eq!(sha256(&fs::read(&file).unwrap()), digest);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    let manifest = sha256(&origin.manifest);
    let index = sha256(&origin.index);
    for (place, media_type, content) in [
        (
            "manifests/1?ns=registry.example.com",
            INDEX_TYPE,
            origin.index.as_slice(),
        ),
        (
            &format!("manifests/sha256:{index}"),
            INDEX_TYPE,
            &origin.index,
        ),
        (
            &format!("manifests/sha256:{manifest}"),
            MANIFEST_TYPE,
            &origin.manifest,
        ),
        (
            &format!("blobs/sha256:{}", sha256(LAYER)),
            "application/octet-stream",
            LAYER,
        ),
        (
            &format!("blobs/sha256:{}", sha256(CONFIG)),
            "application/octet-stream",
            CONFIG,
        ),
        (
            &format!("blobs/sha256:{}", sha256(PROGRAM)),
            "application/octet-stream",
            PROGRAM,
        ),
    ] {
        let url = format!("/v2/team/app/{place}");
        let expected = (StatusCode::OK, media_type.to_owned(), content.to_vec());
        assert_eq!(ask(&file, "GET", &url).await, expected, "{place}");
        let (status, _, body) = ask(&file, "HEAD", &url).await;
        assert_eq!((status, body), (StatusCode::OK, Vec::new()), "{place}");
    }
    for missing in [
        "/v2/team/app/manifests/2?ns=registry.example.com",
        "/v2/team/app/manifests/1?ns=another.example.com",
        "/v2/team/app/blobs/sha256:00",
        "/v2/team/app/tags/list",
    ] {
        let (status, _, body) = ask(&file, "GET", missing).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{missing}");
        assert!(String::from_utf8_lossy(&body).contains("NOT_FOUND"));
    }
}

#[tokio::test]
async fn the_same_content_gives_the_same_bundle() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    assert_eq!(origin.bundle(&one).await, origin.bundle(&two).await);
}

#[tokio::test]
async fn a_bundle_that_is_not_there_yet_or_is_none_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle.tar");
    let (status, ..) = ask(&file, "GET", "/v2/a/blobs/sha256:00").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    fs::write(&file, vec![0; 1024]).unwrap();
    let error = Contents::read(&file).unwrap_err();
    assert!(error.one_line().contains("is not a bundle"), "{error}");
    assert_eq!(error.kind(), Kind::Refused);
}

#[tokio::test]
async fn an_image_without_this_architecture_is_refused() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut maker = origin.maker("arm64", &folder.path().join("bundle.tar"));
    let error = maker.image("registry.example.com/team/app:1").await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("cannot pull registry.example.com/team/app:1"),
        "{error}"
    );
    assert!(error.contains("no image for linux/arm64"), "{error}");
}

#[tokio::test]
async fn a_changed_blob_is_discarded_and_no_archive_is_left() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("bundle.tar");
    let maker = origin.maker("amd64", &output);
    let url = format!("{}/program", origin.server.uri());
    let error = maker.file(&url, &sha256(b"another")).await.unwrap_err();
    assert!(error.one_line().contains("has the wrong sha256"), "{error}");
    drop(maker);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// As Docker's and GitHub's registries do it, for anybody and for each repository.
#[tokio::test]
async fn a_registry_that_wants_a_token_gets_one() {
    let server = MockServer::start().await;
    let challenge = format!(
        r#"Bearer realm="{}/token",service="registry",scope="repository:team/app:pull""#,
        server.uri()
    );
    Mock::given(path("/token"))
        .and(query_param("service", "registry"))
        .and(query_param("scope", "repository:team/app:pull"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "token": "for-all" })))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/v2/team/app/manifests/1"))
        .and(header("authorization", "Bearer for-all"))
        .respond_with(ResponseTemplate::new(200).set_body_raw("{}", MANIFEST_TYPE))
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(path("/v2/team/app/manifests/1"))
        .respond_with(
            ResponseTemplate::new(401).insert_header("www-authenticate", challenge.as_str()),
        )
        .mount(&server)
        .await;
    let reference = Reference::parse("registry.example.com/team/app:1").unwrap();
    let mirrors = [("*".to_owned(), vec![server.uri()])].into();
    let repository = &Repository::of(&reference, &mirrors)[0];
    let clients = Clients::new().unwrap();
    let within = std::time::Duration::from_mins(1);
    let manifest = repository.manifest(&clients, "1", within).await.unwrap();
    assert_eq!(manifest.bytes, b"{}");
    assert_eq!(manifest.media_type, MANIFEST_TYPE);
}

/// Otherwise whoever runs a mirror could ask for the password of the registry.
#[test]
fn a_mirror_is_logged_in_to_by_its_own_name() {
    let reference = Reference::parse("docker.io/library/redis:8").unwrap();
    let mirror = "https://mirror.example.com:5000/v2/hub".to_owned();
    let mirrors = [("docker.io".to_owned(), vec![mirror])].into();
    let places = Repository::of(&reference, &mirrors);
    let shown: Vec<_> = places
        .iter()
        .map(|place| (place.host.as_str(), place.blob("00")))
        .collect();
    let blob = "library/redis/blobs/sha256:00";
    assert_eq!(
        shown,
        [
            (
                "mirror.example.com:5000",
                format!("https://mirror.example.com:5000/v2/hub/{blob}?ns=docker.io")
            ),
            (
                "docker.io",
                format!("https://registry-1.docker.io/v2/{blob}")
            ),
        ]
    );
}

#[test]
fn references_are_read_in_their_parts() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for (image, expected) in [
        (
            "registry.k8s.io/pause:3.10",
            Some(("registry.k8s.io", "pause", "3.10")),
        ),
        ("localhost:5000/a/b:1", Some(("localhost:5000", "a/b", "1"))),
        (
            &format!("quay.io/a/b:1@{digest}"),
            Some(("quay.io", "a/b", digest.as_str())),
        ),
        ("quay.io/a/b", None),
        ("redis:8", None),
    ] {
        let parsed = Reference::parse(image);
        let expected = expected.map(|(host, name, version)| Reference {
            host: host.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
        });
        assert_eq!(parsed.ok(), expected, "{image}");
    }
}
