//! `artifacts` and `images`: what somebody mirrors.

use crate::{k8s_bootstrap, with_stdin};

#[test]
fn artifacts_are_listed_by_digest_and_original_url() {
    let mirrored = "[downloads.mirrors]\n\"https://dl.k8s.io\" = \"https://mirror.example.com\"\n";
    for (arch, kubelet) in [
        (
            "amd64",
            "46707a53209f826ad0f0d62371ac69cd00e78fd9a8176cf5f6f87f18f7f8b718",
        ),
        (
            "arm64",
            "57205a5daf5883873d87b4914e1e00bdd7707acd075714788cfb0fc1f60bc414",
        ),
    ] {
        let said = with_stdin(&["artifacts", "--arch", arch, "--config", "-"], mirrored).printed();
        let line =
            format!("{kubelet}  https://dl.k8s.io/release/v1.36.3/bin/linux/{arch}/kubelet\n");
        assert!(said.contains(&line), "{said}");
        assert!(
            said.contains("  https://raw.githubusercontent.com/projectcalico/"),
            "{said}"
        );
        assert!(
            said.lines()
                .all(|line| line.split("  ").next().unwrap().len() == 64),
            "{said}"
        );
    }
    k8s_bootstrap(&["artifacts", "--arch", "riscv64"]).failed(
        3,
        &[
            "is not pinned for riscv64, only for amd64, arm64",
            "hint: add riscv64",
        ],
    );
}

/// Only add-ons without a URL: the test needs no network.
#[test]
fn images_are_those_of_the_control_plane_and_of_all_manifests() {
    let settings = r#"
[addons.calico]
enabled = false
[addons.storage]
enabled = false
[addons.ingress-nginx]
enabled = false
[addons.ingress-traefik]
enabled = true
[addons.visits]
enabled = true
values = { image = "registry.example.com/visits:1" }
image_overrides = { "docker.io/valkey/valkey" = "registry.example.com/valkey:9" }
"#;
    let said = with_stdin(&["images", "--config", "-"], settings).printed();
    let images: Vec<&str> = said.lines().collect();
    for expected in [
        "registry.k8s.io/etcd:3.6.8-0",
        "registry.k8s.io/kube-apiserver:v1.36.3",
        "registry.k8s.io/kube-proxy:v1.36.3",
        "registry.k8s.io/coredns/coredns:v1.14.2",
        "registry.example.com/visits:1",
        "registry.example.com/valkey:9",
    ] {
        assert!(images.contains(&expected), "{expected} is not in {said}");
    }
    assert!(!said.contains("docker.io/valkey"), "{said}");
    assert!(said.contains("docker.io/library/traefik:"), "{said}");
}
