#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::testing;

fn documents(file: &str) -> Vec<Value> {
    file.split("---\n")
        .filter(|d| !d.is_empty())
        .map(|d| serde_json::from_str(d).unwrap())
        .collect()
}

#[test]
fn the_founders_documents() {
    let file = init_file(
        &testing::settings(),
        &testing::identity(Role::ControlPlane),
        &testing::machine(),
    )
    .unwrap();
    insta::assert_snapshot!("founder", file);
}

#[test]
fn a_workers_documents() {
    let (settings, identity) = (testing::settings(), testing::identity(Role::Worker));
    insta::assert_json_snapshot!("worker", join_document(&settings, &identity).unwrap());
    insta::assert_json_snapshot!(
        "worker_kubelet",
        kubelet_patch(&settings, &identity, &testing::machine()).unwrap()
    );
}

#[test]
fn a_joining_control_planes_document() {
    insta::assert_json_snapshot!(
        "control_plane_joiner",
        join_document(&testing::settings(), &testing::identity(Role::ControlPlane)).unwrap()
    );
}

#[test]
fn overrides_are_merged_into_every_document() {
    let mut settings = testing::settings();
    let table = |value: Value| value.as_object().unwrap().clone();
    settings.kubeadm.cluster = table(json!({"networking": {"dnsDomain": "example.internal"}}));
    settings.kubeadm.init = table(json!({"timeouts": {"discovery": "9s"}}));
    settings.kube_proxy.config = table(json!({"mode": "iptables", "conntrack": {"maxPerCore": 0}}));
    settings.kubelet.config = table(json!({"cgroupDriver": "cgroupfs", "failCgroupV1": false}));
    let identity = testing::identity(Role::ControlPlane);

    let file = init_file(&settings, &identity, &testing::machine()).unwrap();
    let [init, cluster, kubelet, proxy] = documents(&file).try_into().unwrap();
    assert_eq!(init["timeouts"]["discovery"], "9s");
    assert_eq!(init["timeouts"]["tlsBootstrap"], "300s");
    assert_eq!(cluster["networking"]["dnsDomain"], "example.internal");
    assert_eq!(cluster["networking"]["podSubnet"], "192.168.0.0/16");
    assert_eq!(proxy["mode"], "iptables");
    assert_eq!(proxy["conntrack"]["maxPerCore"], 0);

    // The shared document is unchanged; the override applies to this node only.
    assert_eq!(kubelet["cgroupDriver"], "systemd");
    let patch = kubelet_patch(&settings, &identity, &testing::machine()).unwrap();
    assert_eq!(patch["cgroupDriver"], "cgroupfs");
    assert_eq!(patch["failCgroupV1"], false);
    assert_eq!(patch["providerID"], identity.provider_id);
}

#[test]
fn a_list_of_arguments_must_include_the_generated_ones() {
    let identity = testing::identity(Role::ControlPlane);
    let with = |cluster: Value| {
        let mut settings = testing::settings();
        settings.kubeadm.cluster = cluster.as_object().unwrap().clone();
        init_file(&settings, &identity, &testing::machine())
    };
    let error = with(json!({"apiServer": {"extraArgs": [
        {"name": "v", "value": "4"},
        {"name": "profiling", "value": "true"},
        {"name": "shutdown-delay-duration", "value": "20s"},
    ]}}))
    .unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Refused);
    assert_eq!(
        error.one_line(),
        "kubeadm.cluster.apiServer.extraArgs: the list replaces the generated one and lacks \
         `kubelet-certificate-authority`, `shutdown-watch-termination-grace-period`"
    );
    assert_eq!(
        error.remedy().unwrap(),
        "include these, each with this value or another: \
         { name = \"kubelet-certificate-authority\", value = \"/etc/kubernetes/pki/ca.crt\" }, \
         { name = \"shutdown-watch-termination-grace-period\", value = \"10s\" }"
    );
    for (cluster, lacks) in [
        (
            json!({"controllerManager": {"extraArgs": []}}),
            "controllerManager.extraArgs",
        ),
        (
            json!({"scheduler": {"extraArgs": {"profiling": "false"}}}),
            "scheduler.extraArgs",
        ),
        (
            json!({"etcd": {"local": {"extraArgs": [{"name": "feature-gates", "value": ""}]}}}),
            "lacks `quota-backend-bytes`",
        ),
    ] {
        let error = with(cluster).unwrap_err();
        assert!(error.one_line().contains(lacks), "{error}");
    }

    let all = json!([{"name": "profiling", "value": "true"}, {"name": "v", "value": "4"}]);
    let file = with(json!({"scheduler": {"extraArgs": all}})).unwrap();
    assert_eq!(documents(&file)[1]["scheduler"]["extraArgs"], all);
}

#[test]
fn a_public_issuer_comes_first_and_the_clusters_own_stays_valid() {
    let mut settings = testing::settings();
    let arguments = |settings: &Settings| {
        let identity = testing::identity(Role::ControlPlane);
        let file = init_file(settings, &identity, &testing::machine()).unwrap();
        let list = documents(&file)[1]["apiServer"]["extraArgs"].clone();
        let list = list.as_array().unwrap().clone();
        let about = list.into_iter().filter_map(|argument| {
            let name = argument["name"]
                .as_str()?
                .strip_prefix("service-account-")?;
            Some(format!("{name}={}", argument["value"].as_str()?))
        });
        about.collect::<Vec<_>>()
    };
    assert_eq!(arguments(&settings), [""; 0]);
    settings.service_accounts.issuer = "https://id.example.com/demo".to_owned();
    assert_eq!(
        arguments(&settings),
        [
            "issuer=https://id.example.com/demo",
            "issuer=https://kubernetes.default.svc.cluster.local",
            "jwks-uri=https://id.example.com/demo/openid/v1/jwks",
        ]
    );
}

#[test]
fn the_kubelets_own_arguments_are_added_to_those_of_the_settings() {
    let identity = testing::identity(Role::Worker);
    let mut settings = testing::settings();
    let given = json!({"nodeRegistration": {"kubeletExtraArgs": [{"name": "v", "value": "4"}]}});
    settings.kubeadm.join = given.as_object().unwrap().clone();
    settings.kubeadm.init = given.as_object().unwrap().clone();
    let file = init_file(&settings, &identity, &testing::machine()).unwrap();
    let founder = documents(&file)[0].clone();
    for document in [join_document(&settings, &identity).unwrap(), founder] {
        let arguments = document["nodeRegistration"]["kubeletExtraArgs"]
            .as_array()
            .unwrap();
        assert_eq!(arguments[0], json!({"name": "v", "value": "4"}));
        let address = json!({"name": "node-ip", "value": identity.private_ip.to_string()});
        assert!(arguments.contains(&address), "{arguments:?}");
    }
}

#[test]
fn the_provider_id_of_the_founder_does_not_reach_other_nodes() {
    let identity = testing::identity(Role::ControlPlane);
    let file = init_file(&testing::settings(), &identity, &testing::machine()).unwrap();
    assert!(!file.contains(&identity.provider_id));
}

#[test]
fn fewer_pods_reserve_less_memory() {
    let mut settings = testing::settings();
    settings.kubelet.config.insert("maxPods".into(), json!(29));
    let mut machine = testing::machine();
    machine.memory_bytes = 8 << 30;
    let patch = kubelet_patch(&settings, &testing::identity(Role::Worker), &machine).unwrap();
    assert_eq!(patch["kubeReserved"]["memory"], "574Mi");
}

#[test]
fn reservations_that_leave_nothing_are_refused() {
    let mut settings = testing::settings();
    settings
        .kubelet
        .config
        .insert("systemReserved".into(), json!({"memory": "4Gi"}));
    let error = kubelet_patch(
        &settings,
        &testing::identity(Role::Worker),
        &testing::machine(),
    )
    .unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Refused);
}

#[test]
fn labels_that_the_kubelet_would_refuse_are_refused_before_it_starts() {
    for (key, allowed) in [
        ("team", true),
        ("example.com/team", true),
        ("notkubernetes.io/team", true),
        ("topology.kubernetes.io/zone", true),
        ("node.kubernetes.io/anything", true),
        ("x.kubelet.kubernetes.io/y", true),
        ("node-role.kubernetes.io/worker", false),
        ("kubernetes.io/team", false),
        ("foo.k8s.io/team", false),
    ] {
        assert_eq!(kubelet_may_set(key), allowed, "{key}");
    }
    let mut identity = testing::identity(Role::Worker);
    identity
        .labels
        .insert("node-role.kubernetes.io/worker".into(), String::new());
    let error = join_document(&testing::settings(), &identity).unwrap_err();
    assert!(
        error.one_line().contains("node-role.kubernetes.io/worker"),
        "{error}"
    );
}

#[test]
fn cluster_dns_is_the_tenth_address_of_the_network() {
    let ip = |cidr: &str| cluster_dns(cidr).map(|ip| ip.to_string());
    assert_eq!(ip("10.96.0.0/12").unwrap(), "10.96.0.10");
    assert_eq!(ip("172.20.5.7/16").unwrap(), "172.20.0.10");
    for wrong in [
        "10.96.0.0",
        "x/12",
        "10.0.0.0/x",
        "10.0.0.0/30",
        "10.0.0.0/33",
    ] {
        assert_eq!(
            cluster_dns(wrong).unwrap_err().kind(),
            crate::error::Kind::Refused,
            "{wrong}"
        );
    }
}

#[test]
fn kernels_are_compared_by_number() {
    assert!(kernel_at_least("6.8.0-1030-aws", 5, 13));
    assert!(kernel_at_least("5.15.0", 5, 13));
    assert!(!kernel_at_least("5.4.0-1018-aws", 5, 13));
    assert!(!kernel_at_least("unknown", 5, 13));
}

#[test]
fn a_configured_endpoint_is_used_unchanged() {
    let mut settings = testing::settings();
    assert_eq!(endpoint(&settings), "127.0.0.1:7443");
    settings.cluster.endpoint = "api.example.com:6443".to_owned();
    assert_eq!(endpoint(&settings), "api.example.com:6443");
}
