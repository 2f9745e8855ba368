//! Scenarios of what runs on the machine: containerd and the kubelet's unit.

use serde_json::json;

use crate::{
    error::Kind,
    ports::Role,
    steps::host::{Containerd, KubeletUnit},
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
    let mut settings = settings();
    let login = ("registry.example.com".to_owned(), "ssm:/a".to_owned());
    settings.images.logins = [login].into();
    let unit = KubeletUnit::wanted(&settings, &identity(Role::Worker)).unwrap();
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
    assert_eq!(provider["matchImages"][3], "registry.example.com");
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
