//! Scenarios of programs: their pins, and whether they are installed.

use crate::{
    error::Kind,
    ports::{Role, Target},
    steps::{
        State,
        host::{ARTIFACTS, Artifact, Inventory},
    },
    testing::{FakeWorld, identity, settings},
};

#[test]
fn every_artifact_is_pinned_for_both_architectures_and_mirrors_apply() {
    let mut settings = settings();
    settings
        .downloads
        .mirrors
        .insert("https://dl.k8s.io".into(), "http://mirror/k8s".into());
    for arch in ["amd64", "arm64"] {
        let mut identity = identity(Role::ControlPlane);
        identity.arch = arch.into();
        let all = Artifact::all(&settings, &identity).unwrap();
        assert_eq!(all.len(), ARTIFACTS.len());
        let of = |name: &str| {
            let artifact = all.iter().find(|artifact| artifact.name == name);
            &artifact.unwrap().download
        };
        assert_eq!(
            of("kubelet").url,
            format!("http://mirror/k8s/release/v1.36.3/bin/linux/{arch}/kubelet")
        );
        assert_eq!(
            of("cni-plugins").url,
            format!(
                "https://github.com/containernetworking/plugins/releases/download/v1.9.1/cni-plugins-linux-{arch}-v1.9.1.tgz"
            )
        );
        assert_eq!(
            of("runc").target,
            Target::Program("/usr/local/sbin/runc".into())
        );
    }
}

#[test]
fn a_worker_downloads_no_kubectl() {
    let names = |role| {
        let all = Artifact::all(&settings(), &identity(role)).unwrap();
        all.into_iter().map(|artifact| artifact.name)
    };
    let on_workers: Vec<String> = names(Role::Worker).collect();
    let others: Vec<String> = names(Role::ControlPlane)
        .filter(|name| !on_workers.contains(name))
        .collect();
    assert_eq!(others, ["kubectl"]);
}

#[test]
fn a_pin_that_cannot_be_used_is_refused_with_its_place() {
    type Spoil = fn(&mut crate::config::Pin);
    let cases: [(Spoil, &str); 5] = [
        (
            |pin| {
                pin.sha256.remove("amd64");
            },
            "error: runc 1.4.3 is not pinned for amd64, only for arm64\n  hint: add amd64 = \"...\" to [pins.runc.sha256]",
        ),
        (
            |pin| {
                pin.sha256.insert("amd64".into(), "abc".into());
            },
            "error: pins.runc.sha256.amd64 is `abc`, which is not a sha256\n  hint: a sha256 has 64 hexadecimal digits, as `sha256sum` prints them",
        ),
        (
            |pin| pin.url = "https://host/{flavour}".into(),
            "error: pins.runc.url has an unknown placeholder: https://host/{flavour}\n  hint: only {version} and {arch} are replaced",
        ),
        (
            |pin| pin.url = "ftp://host/runc".into(),
            "error: pins.runc.url is not an HTTP URL: ftp://host/runc\n  hint: use an https:// URL; an http:// one is verified by its digest too",
        ),
        (
            |pin| pin.url = "runc".into(),
            "error: pins.runc.url is not a URL: runc\n  because: relative URL without a base",
        ),
    ];
    for (spoil, text) in cases {
        let mut settings = settings();
        spoil(settings.pins.get_mut("runc").unwrap());
        let error = Artifact::wanted("runc", &settings, &identity(Role::Worker)).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(error.to_string(), text);
    }
    let mut settings = settings();
    settings.pins.remove("runc");
    let error = Artifact::wanted("runc", &settings, &identity(Role::Worker)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("error: nothing is pinned as `runc`\n  hint: add [pins.runc]")
    );
}

#[tokio::test(start_paused = true)]
async fn a_program_is_downloaded_when_its_digest_differs() {
    let machine = FakeWorld::new();
    let mut settings = settings();
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    settings
        .pins
        .get_mut("kubectl")
        .unwrap()
        .sha256
        .insert("amd64".into(), digest.into());
    let kubectl = Artifact::wanted("kubectl", &settings, &identity(Role::Worker)).unwrap();
    assert_eq!(
        machine.differs(&kubectl).await,
        "kubectl 1.36.3: /usr/local/bin/kubectl is missing"
    );
    machine.files.put("/usr/local/bin/kubectl", "old");
    assert_eq!(
        machine.differs(&kubectl).await,
        "kubectl 1.36.3: /usr/local/bin/kubectl has another sha256"
    );
    machine.apply(&kubectl).await.unwrap();
    assert_eq!(
        machine.downloads.fetched(),
        std::slice::from_ref(&kubectl.download)
    );
    machine.files.put("/usr/local/bin/kubectl", "abc");
    assert_eq!(machine.check(&kubectl).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn an_archive_counts_as_installed_only_with_all_of_its_files() {
    let machine = FakeWorld::new();
    let plugins = Artifact::wanted("cni-plugins", &settings(), &identity(Role::Worker)).unwrap();
    assert_eq!(
        machine.differs(&plugins).await,
        "cni-plugins 1.9.1: not installed"
    );
    let inventory = Inventory {
        url: plugins.download.url.clone(),
        sha256: plugins.download.sha256.clone(),
        files: [(
            "bridge".to_owned(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
        )]
        .into(),
    };
    let path = Inventory::path(&plugins.download.sha256);
    let path = path.to_str().unwrap();
    machine
        .files
        .put(path, serde_json::to_string(&inventory).unwrap());
    assert_eq!(
        machine.differs(&plugins).await,
        "cni-plugins 1.9.1: /opt/cni/bin/bridge is missing"
    );
    machine.files.put("/opt/cni/bin/bridge", "abc");
    assert_eq!(machine.check(&plugins).await.unwrap(), State::AsWanted);
    machine.files.put(path, "{");
    assert_eq!(
        machine.differs(&plugins).await,
        "cni-plugins 1.9.1: its inventory is damaged"
    );
}
