//! Scenarios of the bundle: where it comes from, and what nodes then download.

use sha2::{Digest, Sha256};

use crate::{
    config::{Fragment, Settings, load},
    error::Kind,
    ports::Role,
    steps::{
        State,
        host::{Artifact, Bundle, Containerd},
    },
    testing::{FakeWorld, identity},
};

/// Where the agent serves it to the node.
const SERVER: &str = "http://127.0.0.1:7445";

fn sha256(content: &str) -> String {
    hex::encode(Sha256::digest(content))
}

fn settings(url: &str, sha256: &str) -> Settings {
    let text = format!("bundle = {{ url = '{url}', sha256 = {{ amd64 = '{sha256}' }} }}");
    load(&[Fragment::parse("c", &text).unwrap()]).unwrap()
}

fn bundle(url: &str, sha256: &str) -> Bundle {
    Bundle::wanted(&settings(url, sha256), "amd64")
        .unwrap()
        .unwrap()
}

/// The content that the fake server has under a URL is the URL.
const URL: &str = "https://files.example.com/bundle-amd64.tar";

#[tokio::test]
async fn a_bundle_is_downloaded_once_and_replaces_an_older_one() {
    let machine = FakeWorld::new();
    let older = "/var/lib/k8s-bootstrap/bundles/0000.tar";
    machine.files.put(older, "the one before");
    let bundle = bundle("https://files.example.com/bundle-{arch}.tar", &sha256(URL));
    assert!(machine.differs(&bundle).await.ends_with(".tar is missing"));
    machine.apply(&bundle).await.unwrap();
    assert_eq!(machine.check(&bundle).await.unwrap(), State::AsWanted);
    assert!(!machine.files.has(older));
}

#[tokio::test]
async fn a_bundle_on_the_machine_is_used_where_it_is() {
    let machine = FakeWorld::new();
    let bundle = bundle("file:///opt/bundle.tar", &sha256("content"));
    let error = machine.apply(&bundle).await.unwrap_err();
    assert!(
        error.one_line().contains("/opt/bundle.tar is missing"),
        "{error}"
    );
    machine.files.put("/opt/bundle.tar", "other");
    let error = machine.apply(&bundle).await.unwrap_err().to_string();
    assert!(
        error.contains("/opt/bundle.tar has another sha256"),
        "{error}"
    );
    assert!(error.contains("or correct [bundle]"), "{error}");
    machine.files.put("/opt/bundle.tar", "content");
    assert_eq!(machine.check(&bundle).await.unwrap(), State::AsWanted);
}

#[test]
fn an_architecture_without_a_bundle_is_refused() {
    let error = Bundle::wanted(&settings(URL, &sha256(URL)), "arm64").unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let error = error.to_string();
    assert!(
        error.contains("bundle.sha256: nothing is given for arm64"),
        "{error}"
    );
    assert!(
        error.contains("k8s-bootstrap bundle --arch arm64"),
        "{error}"
    );
}

#[test]
fn with_a_bundle_everything_comes_from_it_first() {
    let mut settings = settings(URL, &sha256(URL));
    settings.downloads.mirrors =
        [("https://dl.k8s.io".to_owned(), "http://mirror".to_owned())].into();
    settings.images.mirrors = [("docker.io".to_owned(), vec!["http://hub".to_owned()])].into();
    let me = identity(Role::ControlPlane);
    for artifact in Artifact::all(&settings, &me).unwrap() {
        let expected = format!(
            "{SERVER}/v2/files/blobs/sha256:{}",
            artifact.download.sha256
        );
        assert_eq!(artifact.download.url, expected);
    }
    let containerd = Containerd::wanted(&settings, &me).unwrap();
    let hosts = containerd
        .files
        .iter()
        .filter(|(path, _)| path.ends_with("hosts.toml"));
    let hosts: Vec<_> = hosts
        .map(|(path, text)| {
            let mirrors = text.lines().filter(|line| line.starts_with("[host."));
            (
                path.display().to_string(),
                mirrors.collect::<Vec<_>>().join(" "),
            )
        })
        .collect();
    let host = |url: &str| format!("[host.\"{url}\"]");
    assert_eq!(
        hosts,
        [
            (
                "/etc/containerd/certs.d/_default/hosts.toml".to_owned(),
                host(SERVER)
            ),
            (
                "/etc/containerd/certs.d/docker.io/hosts.toml".to_owned(),
                format!("{} {}", host(SERVER), host("http://hub")),
            ),
        ]
    );
}
