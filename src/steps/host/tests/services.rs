//! Scenarios of what runs on the machine: containerd, the kubelet's unit, images.

use serde_json::json;

use crate::{
    error::Kind,
    ports::Role,
    steps::{
        State,
        host::{Containerd, Images, KubeletUnit},
    },
    testing::{FakeWorld, identity, settings},
};

fn containerd() -> Containerd {
    Containerd::wanted(&settings(), &identity(Role::Worker)).unwrap()
}

fn text<'a>(containerd: &'a Containerd, path: &str) -> &'a str {
    let found = containerd
        .files
        .iter()
        .find(|(p, _)| p.to_str() == Some(path));
    &found.unwrap().1
}

const CONFIG: &str = "/etc/containerd/config.toml";

#[test]
fn the_generated_configuration_is_golden() {
    assert_eq!(
        text(&containerd(), CONFIG),
        r#"# Written by k8s-bootstrap; changes are overwritten.
root = "/var/lib/containerd"
state = "/run/containerd"
version = 3

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/pause:3.10.2"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "/usr/local/sbin/runc"
SystemdCgroup = true
"#
    );
}

#[test]
fn the_users_configuration_is_merged_key_by_key() {
    let mut settings = settings();
    settings.containerd.config = serde_json::from_value(json!({
        "debug": {"level": "debug"},
        "plugins": {"io.containerd.cri.v1.runtime": {
            "restrict_oom_score_adj": true,
            "containerd": {"runtimes": {"runc": {"options": {"SystemdCgroup": false, "BinaryName": null}}}},
        }},
    }))
    .unwrap();
    let merged = Containerd::wanted(&settings, &identity(Role::Worker)).unwrap();
    let document: toml::Table = text(&merged, CONFIG).parse().unwrap();
    let runtime = &document["plugins"]["io.containerd.cri.v1.runtime"];
    assert_eq!(runtime["restrict_oom_score_adj"].as_bool(), Some(true));
    assert_eq!(runtime["cni"]["conf_dir"].as_str(), Some("/etc/cni/net.d"));
    let options = &runtime["containerd"]["runtimes"]["runc"]["options"];
    assert_eq!(options["SystemdCgroup"].as_bool(), Some(false));
    assert!(options.get("BinaryName").is_none());
    assert_eq!(document["debug"]["level"].as_str(), Some("debug"));
}

#[test]
fn a_value_that_toml_cannot_express_is_refused_with_its_place() {
    let mut settings = settings();
    settings
        .containerd
        .config
        .insert("imports".into(), json!(["/a", null]));
    let error = Containerd::wanted(&settings, &identity(Role::Worker)).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.remedy().unwrap().contains("[containerd.config]"),
        "{error}"
    );
}

#[test]
fn mirrors_become_a_file_per_upstream_in_the_given_order() {
    let mut settings = settings();
    settings.images.mirrors = [
        (
            "docker.io",
            vec!["https://z.example.com", "http://10.0.0.9:5000/hub"],
        ),
        ("*", vec!["https://all.example.com/v2/proxy/"]),
        ("r.example.com:5000", vec![]),
    ]
    .map(|(host, mirrors)| {
        (
            host.to_owned(),
            mirrors.into_iter().map(Into::into).collect(),
        )
    })
    .into();
    let wanted = Containerd::wanted(&settings, &identity(Role::Worker)).unwrap();
    let head = "# Written by k8s-bootstrap; changes are overwritten.\n";
    assert_eq!(
        text(&wanted, "/etc/containerd/certs.d/docker.io/hosts.toml"),
        format!(
            "{head}server = \"https://registry-1.docker.io\"\n\n[host.\"https://z.example.com\"]\ncapabilities = [\"pull\", \"resolve\"]\n\n[host.\"http://10.0.0.9:5000/hub\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        )
    );
    assert_eq!(
        text(&wanted, "/etc/containerd/certs.d/_default/hosts.toml"),
        format!(
            "{head}\n[host.\"https://all.example.com/v2/proxy\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n"
        )
    );
    assert_eq!(
        text(
            &wanted,
            "/etc/containerd/certs.d/r.example.com:5000/hosts.toml"
        ),
        format!("{head}server = \"https://r.example.com:5000\"\n")
    );
    for (_, content) in wanted
        .files
        .iter()
        .filter(|(p, _)| p.ends_with("hosts.toml"))
    {
        content.parse::<toml::Table>().unwrap();
    }
}

#[test]
fn a_mirror_that_is_no_registry_is_refused_with_its_place() {
    for (upstream, mirror, start) in [
        (
            "docker.io",
            "mirror.example.com",
            "error: images.mirrors.\"docker.io\" has `mirror.example.com`, which is not the address of a registry\n",
        ),
        (
            "docker.io",
            "ftp://mirror",
            "error: images.mirrors.\"docker.io\" has `ftp://mirror`, which is not the address of a registry\n",
        ),
        (
            "../../etc",
            "https://mirror",
            "error: images.mirrors has `../../etc`, which is not the host of a registry\n",
        ),
        (
            "https://docker.io",
            "https://mirror",
            "error: images.mirrors has `https://docker.io`, which is not the host of a registry\n",
        ),
    ] {
        let mut settings = settings();
        settings
            .images
            .mirrors
            .insert(upstream.into(), vec![mirror.into()]);
        let error = Containerd::wanted(&settings, &identity(Role::Worker)).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().starts_with(start), "{error}");
        assert!(error.remedy().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn containerd_is_started_once_and_again_only_when_its_files_change() {
    let machine = FakeWorld::new();
    machine.carry_out(&containerd()).await;
    let restarts = |ran: Vec<String>| {
        let restart = "systemctl restart containerd.service";
        ran.into_iter().filter(|line| line == restart).count()
    };
    assert_eq!(restarts(machine.commands.ran()), 1);
    assert!(
        machine
            .commands
            .state()
            .enabled
            .contains("containerd.service")
    );
    machine.apply(&containerd()).await.unwrap();
    assert_eq!(restarts(machine.commands.ran()), 0);

    let mut settings = settings();
    settings.pins.get_mut("containerd").unwrap().version = "2.3.5".into();
    let newer = Containerd::wanted(&settings, &identity(Role::Worker)).unwrap();
    machine.carry_out(&newer).await;
    assert_eq!(restarts(machine.commands.ran()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_failed_after_the_files_were_written_is_repeated() {
    let machine = FakeWorld::new();
    machine.carry_out(&containerd()).await;
    machine.files.put(CONFIG, "version = 3\n");
    machine
        .commands
        .fail("systemctl restart", "Job for containerd.service failed.");
    let error = machine.apply(&containerd()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(
        error.to_string().contains("`systemctl restart containerd.service` ended with status 1: Job for containerd.service failed.\n  hint: read `journalctl -u containerd`"),
        "{error}"
    );
    machine.commands.repair();
    assert_eq!(
        machine.differs(&containerd()).await,
        "containerd runs with an older configuration"
    );
    machine.carry_out(&containerd()).await;
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_never_answers_is_an_error_with_its_output() {
    let machine = FakeWorld::new();
    machine
        .commands
        .fail("/usr/local/bin/ctr", "connection refused");
    let error = machine.apply(&containerd()).await.unwrap_err().to_string();
    assert!(
        error.starts_with("error: gave up after 60 s waiting for containerd to answer\n"),
        "{error}"
    );
    assert!(error.contains("connection refused"), "{error}");
    let differs = machine.differs(&containerd()).await;
    assert!(
        differs.ends_with("ended with status 1: connection refused"),
        "{differs}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_kubelets_unit_is_enabled_and_not_started() {
    let machine = FakeWorld::new();
    let unit = KubeletUnit::wanted(&settings(), &identity(Role::Worker)).unwrap();
    machine.carry_out(&unit).await;
    let ran = machine.commands.ran();
    let changes = ["systemctl enable", "systemctl daemon-reload"];
    let made: Vec<&str> = ran
        .iter()
        .map(String::as_str)
        .filter(|line| changes.iter().any(|change| line.starts_with(change)))
        .collect();
    // systemd takes longer to read its files than everything else here.
    assert_eq!(
        made,
        [
            "systemctl enable --no-reload kubelet.service",
            "systemctl daemon-reload"
        ]
    );
    assert!(
        !ran.iter()
            .any(|line| line.contains(" start ") || line.contains(" restart ")),
        "{ran:?}"
    );
    let text = machine
        .files
        .get("/etc/systemd/system/kubelet.service")
        .unwrap();
    for line in [
        "After=network-online.target containerd.service",
        "EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env",
        "Restart=always",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
}

/// The kubelet does not start if a file that its flags name is missing.
#[tokio::test(start_paused = true)]
async fn the_kubelet_asks_the_agent_for_logins_to_private_registries() {
    let machine = FakeWorld::new();
    let unit = KubeletUnit::wanted(&settings(), &identity(Role::Worker)).unwrap();
    machine.carry_out(&unit).await;
    let text = |path: &str| machine.files.get(path).unwrap();
    let flags = text("/etc/systemd/system/kubelet.service");
    let file = "/etc/kubernetes/k8s-bootstrap/credential-providers.json";
    assert!(
        flags.contains(&format!("--image-credential-provider-config={file} ")),
        "{flags}"
    );
    assert!(
        flags.contains("--image-credential-provider-bin-dir=/usr/local/bin\""),
        "{flags}"
    );
    let config: serde_json::Value = serde_json::from_str(&text(file)).unwrap();
    let provider = &config["providers"][0];
    assert_eq!(provider["name"], "k8s-bootstrap");
    assert_eq!(provider["args"][0], "credential-provider");
    assert_eq!(provider["matchImages"][0], "*.dkr.ecr.*.amazonaws.com");
}

#[tokio::test(start_paused = true)]
async fn a_unit_written_just_before_a_crash_is_reloaded_afterwards() {
    let machine = FakeWorld::new();
    let unit = KubeletUnit::wanted(&settings(), &identity(Role::Worker)).unwrap();
    machine.carry_out(&unit).await;
    machine.commands.state().stale = true;
    assert_eq!(
        machine.differs(&unit).await,
        "systemd has not read kubelet.service since it changed"
    );
    machine.carry_out(&unit).await;
}

#[test]
fn each_role_gets_the_images_that_it_runs() {
    let mut settings = settings();
    let calico = settings.addons.get_mut("calico").unwrap();
    calico.images = vec!["quay.io/calico/node:v3.32.1".into()];
    let list = |settings: &crate::config::Settings, role| {
        let images = Images::wanted(settings, &identity(role));
        images.unwrap().images
    };
    assert_eq!(
        list(&settings, Role::Worker),
        [
            "registry.k8s.io/pause:3.10.2",
            "registry.k8s.io/kube-proxy:v1.36.3",
            "quay.io/calico/node:v3.32.1",
        ]
    );
    assert_eq!(
        list(&settings, Role::ControlPlane),
        [
            "registry.k8s.io/kube-proxy:v1.36.3",
            "quay.io/calico/node:v3.32.1",
            "registry.k8s.io/coredns/coredns:v1.14.2",
        ]
    );
    settings.kubernetes.image_repository = "mirror.example.com/k8s".into();
    settings.addons.get_mut("calico").unwrap().enabled = false;
    assert_eq!(
        list(&settings, Role::ControlPlane),
        [
            "mirror.example.com/k8s/kube-proxy:v1.36.3",
            "mirror.example.com/k8s/coredns:v1.14.2",
        ]
    );
    let own = |settings: &crate::config::Settings| Images::of_control_plane(settings).unwrap();
    assert_eq!(
        own(&settings).images,
        [
            "mirror.example.com/k8s/pause:3.10.2",
            "mirror.example.com/k8s/etcd:3.6.8-0",
            "mirror.example.com/k8s/kube-apiserver:v1.36.3",
            "mirror.example.com/k8s/kube-controller-manager:v1.36.3",
            "mirror.example.com/k8s/kube-scheduler:v1.36.3",
        ]
    );
    settings.images.preload = false;
    assert!(list(&settings, Role::ControlPlane).is_empty());
    assert!(own(&settings).images.is_empty());
}

#[test]
fn an_image_that_is_overridden_is_not_pulled() {
    let mut settings = settings();
    let calico = settings.addons.get_mut("calico").unwrap();
    calico.images = vec![
        "quay.io/calico/node:v3".into(),
        "quay.io/calico/cni:v3".into(),
    ];
    let other = "registry.example.com/node:v3".to_owned();
    calico.image_overrides = [("quay.io/calico/node".to_owned(), other.clone())].into();
    let images = Images::wanted(&settings, &identity(Role::Worker))
        .unwrap()
        .images;
    assert!(images.contains(&other), "{images:?}");
    assert!(
        images.contains(&"quay.io/calico/cni:v3".to_owned()),
        "{images:?}"
    );
    assert!(
        !images
            .iter()
            .any(|image| image.contains("quay.io/calico/node")),
        "{images:?}"
    );
}

/// `ctr` would show the password to every process.
#[test]
fn images_of_private_registries_are_left_to_the_kubelet() {
    let mut settings = settings();
    let calico = settings.addons.get_mut("calico").unwrap();
    let private = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/calico/node:v3";
    calico.images = vec![private.into(), "quay.io/calico/cni:v3".into()];
    let images = Images::wanted(&settings, &identity(Role::Worker))
        .unwrap()
        .images;
    assert!(
        images.contains(&"quay.io/calico/cni:v3".to_owned()),
        "{images:?}"
    );
    assert!(!images.contains(&private.to_owned()), "{images:?}");
}

#[test]
fn an_image_without_its_registry_is_refused() {
    let mut settings = settings();
    settings.addons.get_mut("calico").unwrap().images = vec!["calico/node:v3".into()];
    let error = Images::wanted(&settings, &identity(Role::Worker)).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.to_string().starts_with(
            "error: `calico/node:v3` does not name its registry's host\n  hint: write it in full"
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn missing_images_are_pulled_three_at_a_time_through_the_mirrors() {
    let machine = FakeWorld::new();
    let images = Images::of_control_plane(&settings()).unwrap();
    machine
        .commands
        .state()
        .images
        .insert("registry.k8s.io/pause:3.10.2".into());
    assert_eq!(
        machine.differs(&images).await,
        "registry.k8s.io/etcd:3.6.8-0 and 3 more images are not pulled yet"
    );
    machine.commands.ran();
    machine.carry_out(&images).await;
    assert_eq!(machine.commands.state().pulling.1, 3);
    let ran = machine.commands.ran();
    assert_eq!(ran.iter().filter(|line| line.contains(" pull ")).count(), 4);
    assert!(ran.contains(
        &"/usr/local/bin/ctr --namespace k8s.io images pull --hosts-dir /etc/containerd/certs.d registry.k8s.io/etcd:3.6.8-0".to_owned()
    ));
    assert_eq!(machine.check(&images).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn a_denied_image_ends_the_attempt_and_a_broken_pull_is_retried_until_the_deadline() {
    let images = Images::wanted(&settings(), &identity(Role::Worker)).unwrap();
    let pull = "/usr/local/bin/ctr --namespace k8s.io images pull";
    let machine = FakeWorld::new();
    machine.commands.fail(
        pull,
        "ctr: failed to resolve image: registry.k8s.io/x:y: not found",
    );
    let error = machine.apply(&images).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Doubtful);
    assert!(
        error
            .to_string()
            .starts_with("error: cannot pull registry.k8s.io/pause:3.10.2\n"),
        "{error}"
    );
    assert!(
        error
            .remedy()
            .unwrap()
            .contains("the registry has no such image")
    );
    assert!(machine.clock.since_noon().is_zero());

    let machine = FakeWorld::new();
    machine
        .commands
        .fail(pull, "unexpected status: 403 Forbidden");
    let error = machine.apply(&images).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Doubtful);

    let machine = FakeWorld::new();
    machine
        .commands
        .fail(pull, "ctr: content digest sha256:00: not found");
    let error = machine.apply(&images).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);

    let machine = FakeWorld::new();
    machine.commands.fail(pull, "connection reset by peer");
    let error = machine.apply(&images).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    let text = error.one_line();
    assert!(
        text.contains("gave up after 900 s waiting for the image"),
        "{text}"
    );
    assert!(text.ends_with("connection reset by peer"), "{text}");
}

/// By default systemd empties the folder when the agent stops, and the note that containerd runs
/// with an older configuration would be lost.
#[test]
fn the_note_of_a_due_restart_outlives_the_agent() {
    let unit = include_str!("../../../../systemd/k8s-bootstrap.service");
    assert!(
        unit.lines()
            .any(|line| line == "RuntimeDirectory=k8s-bootstrap")
    );
    assert!(
        unit.lines()
            .any(|line| line == "RuntimeDirectoryPreserve=yes")
    );
}
