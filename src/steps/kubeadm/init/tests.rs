#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::{
    error::Kind,
    testing::{self, FakeWorld},
};

fn phase(phase: InitPhase) -> KubeadmPhase {
    KubeadmPhase::new(
        phase,
        &testing::settings(),
        &testing::identity(Role::ControlPlane),
    )
    .unwrap()
}

#[test]
fn the_phases_as_they_are_run() {
    let lines: Vec<String> = InitPhase::ALL
        .into_iter()
        .map(|p| format!("{}: {}", p.name(), phase(p).args.join(" ")))
        .collect();
    insta::assert_snapshot!("phases", lines.join("\n"));
}

#[test]
fn a_worker_never_founds() {
    let error = KubeadmPhase::new(
        InitPhase::Certs,
        &testing::settings(),
        &testing::identity(Role::Worker),
    )
    .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
}

#[tokio::test(start_paused = true)]
async fn configuration_is_readable_only_by_root_and_written_only_when_it_differs() {
    let fake = FakeWorld::new();
    let identity = testing::identity(Role::ControlPlane);
    let step = ConfigFiles::init(&testing::settings(), &identity, &testing::machine()).unwrap();
    assert!(fake.differs(&step).await.contains("does not exist"));
    step.apply(&fake.ports(), &Notes::unread()).await.unwrap();
    assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);
    for path in [paths::INIT_CONFIG, paths::KUBELET_PATCH] {
        assert_eq!(fake.files.mode(path), 0o600);
    }
    fake.files.put(paths::KUBELET_PATCH, "{}");
    assert!(fake.differs(&step).await.contains("different content"));
}

#[tokio::test(start_paused = true)]
async fn certificates_half_written_by_a_killed_run_are_replaced() {
    let fake = FakeWorld::new();
    let pki = testing::Pki::new().files;
    for (name, content) in &pki {
        fake.files.put(Path::new(paths::PKI).join(name), content);
    }
    fake.files.delete("/etc/kubernetes/pki/apiserver.crt");
    fake.on("kubeadm init phase certs all", move |_, host| {
        assert!(
            !host.has("/etc/kubernetes/pki/apiserver.key"),
            "kubeadm would fail here"
        );
        for name in ["apiserver.crt", "apiserver.key"] {
            host.put(Path::new(paths::PKI).join(name), &pki[name]);
        }
        testing::output(0, "", "")
    });
    let step = phase(InitPhase::Certs);
    assert_eq!(
        fake.differs(&step).await,
        "apiserver.key has no certificate"
    );
    step.apply(&fake.ports(), &Notes::unread()).await.unwrap();
    assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn only_a_broken_kubeconfig_is_replaced() {
    let fake = FakeWorld::new();
    let ca = testing::Pki::new().files["ca.crt"].clone();
    fake.files.put(paths::CA, &ca);
    for name in KUBECONFIGS {
        fake.files.put(
            Path::new(paths::KUBERNETES).join(name),
            testing::kubeconfig(&ca),
        );
    }
    fake.files
        .put("/etc/kubernetes/scheduler.conf", "apiVersion: v1\nclus");
    fake.on("kubeadm init phase kubeconfig all", move |_, host| {
        assert!(host.has(paths::ADMIN_CONF));
        assert!(!host.has("/etc/kubernetes/scheduler.conf"));
        host.put("/etc/kubernetes/scheduler.conf", testing::kubeconfig(&ca));
        testing::output(0, "", "")
    });
    let step = phase(InitPhase::Kubeconfig);
    assert!(
        fake.differs(&step)
            .await
            .starts_with("/etc/kubernetes/scheduler.conf")
    );
    step.apply(&fake.ports(), &Notes::unread()).await.unwrap();
    assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn a_truncated_manifest_is_not_accepted_as_a_pod() {
    let fake = FakeWorld::new();
    let step = phase(InitPhase::Etcd);
    let whole = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: etcd:1\n  volumes:\n  - name: x\nstatus: {}\n";
    fake.files.put("/etc/kubernetes/manifests/etcd.yaml", whole);
    assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);
    fake.files
        .put("/etc/kubernetes/manifests/etcd.yaml", &whole[..70]);
    assert!(
        fake.differs(&step)
            .await
            .contains("not a complete pod manifest")
    );
}

#[tokio::test(start_paused = true)]
async fn the_kubelet_must_be_configured_and_running() {
    let fake = FakeWorld::new();
    let step = phase(InitPhase::KubeletStart);
    assert!(
        fake.differs(&step)
            .await
            .contains("config.yaml does not exist")
    );
    fake.files
        .put(paths::KUBELET_CONFIG, "kind: KubeletConfiguration\n");
    fake.files.put(paths::KUBELET_FLAGS, "");
    assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);
    fake.on("systemctl is-active", |_, _| {
        testing::output(3, "activating\n", "")
    });
    assert_eq!(fake.differs(&step).await, "kubelet.service is activating");
}

#[tokio::test(start_paused = true)]
async fn a_phase_is_not_done_while_the_api_does_not_answer() {
    let fake = FakeWorld::new();
    let step = phase(InitPhase::UploadConfig);
    fake.cluster.down(true);
    assert!(fake.differs(&step).await.contains("connection refused"));
    fake.cluster.down(false);
    assert!(
        fake.differs(&step)
            .await
            .contains("kubeadm:kubelet-config does not exist")
    );
    fake.cluster.put(json!({
        "kind": "RoleBinding",
        "metadata": {"namespace": "kube-system", "name": "kubeadm:kubelet-config"},
    }));
    assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_is_marked_by_its_label() {
    let fake = FakeWorld::new();
    let step = phase(InitPhase::MarkControlPlane);
    let name = testing::identity(Role::ControlPlane).node_name;
    fake.cluster
        .put(json!({"kind": "Node", "metadata": {"name": name, "labels": {}}}));
    assert!(fake.differs(&step).await.contains("has no label"));
    fake.cluster.put(json!({
        "kind": "Node",
        "metadata": {"name": name, "labels": {"node-role.kubernetes.io/control-plane": ""}},
    }));
    assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn kubelet_finalize_waits_for_the_kubelets_certificate() {
    let fake = FakeWorld::new();
    let error = phase(InitPhase::KubeletFinalize)
        .apply(&fake.ports(), &Notes::unread())
        .await
        .unwrap_err();
    assert!(
        error
            .one_line()
            .contains("kubelet-client-current.pem does not exist"),
        "{error}"
    );
    assert!(fake.commands.ran().is_empty());
}

#[tokio::test(start_paused = true)]
async fn preflight_runs_once_and_a_failure_is_not_recorded() {
    let fake = FakeWorld::new();
    let step = phase(InitPhase::Preflight);
    assert!(
        fake.differs(&step)
            .await
            .contains("preflight checks have not passed")
    );
    step.apply(&fake.ports(), &Notes::unread()).await.unwrap();
    assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);

    fake.on("kubeadm init phase preflight", |_, _| {
        testing::output(1, "", "[ERROR NumCPU]: too few")
    });
    fake.files.delete(paths::PREFLIGHT_PASSED);
    let error = step
        .apply(&fake.ports(), &Notes::unread())
        .await
        .unwrap_err();
    assert!(error.one_line().contains("[ERROR NumCPU]"), "{error}");
    assert!(!fake.files.has(paths::PREFLIGHT_PASSED));
}

#[test]
fn a_disabled_addon_is_not_waited_for() {
    let mut settings = testing::settings();
    settings
        .kubeadm
        .cluster
        .insert("proxy".into(), json!({"disabled": true}));
    let step = KubeadmPhase::new(
        InitPhase::Addons,
        &settings,
        &testing::identity(Role::ControlPlane),
    )
    .unwrap();
    assert_eq!(step.results.len(), 1);
}
