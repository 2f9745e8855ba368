//! Scenarios of the machine itself: requirements, kernel, swap, names, programs.

use crate::{
    error::Kind,
    ports::{Role, Target},
    steps::{
        State,
        host::{ARTIFACTS, Artifact, Hosts, Inventory, Kernel, Preflight, Swap, Sysctl},
    },
    testing::{FakeWorld, identity, settings},
};

fn preflight(role: Role) -> Preflight {
    Preflight::wanted(&settings(), &identity(role)).unwrap()
}

async fn refusal(machine: &FakeWorld, role: Role) -> String {
    let error = machine.check(&preflight(role)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert_eq!(
        machine
            .apply(&preflight(role))
            .await
            .unwrap_err()
            .to_string(),
        error.to_string()
    );
    error.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_suitable_machine_passes_in_both_roles() {
    let machine = FakeWorld::new();
    for role in [Role::ControlPlane, Role::Worker] {
        assert_eq!(
            machine.check(&preflight(role)).await.unwrap(),
            State::AsWanted
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_too_small_is_refused_with_all_problems_at_once() {
    let machine = FakeWorld::new();
    machine.host.kernel().facts.cpus = 1;
    machine.host.kernel().facts.memory_bytes = 1_000_000_000;
    assert_eq!(
        refusal(&machine, Role::ControlPlane).await,
        "error: a control-plane needs 2 CPUs, this machine has 1; a control-plane needs 1700 MB of memory, this machine has 1000 MB\n  hint: use an instance type with at least 2 vCPUs, such as c7i-flex.large; use an instance type with at least 2 GiB of memory, such as c7i-flex.large"
    );
    assert_eq!(
        machine.check(&preflight(Role::Worker)).await.unwrap(),
        State::AsWanted
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_root_is_refused() {
    let machine = FakeWorld::new();
    machine.host.kernel().facts.root = false;
    assert_eq!(
        refusal(&machine, Role::Worker).await,
        "error: the agent does not run as root\n  hint: start it with `systemctl start k8s-bootstrap` or with sudo"
    );
}

#[tokio::test(start_paused = true)]
async fn cgroup_v1_is_refused_without_the_explicit_override() {
    let machine = FakeWorld::new();
    machine.host.kernel().facts.cgroup_version = 1;
    let text = refusal(&machine, Role::Worker).await;
    assert!(
        text.starts_with("error: this machine runs the legacy cgroup hierarchy, version 1\n"),
        "{text}"
    );
    assert!(text.ends_with("set node.allow_cgroup_v1 = true"), "{text}");
    let mut settings = settings();
    settings.node.allow_cgroup_v1 = true;
    let allowed = Preflight::wanted(&settings, &identity(Role::Worker)).unwrap();
    assert_eq!(machine.check(&allowed).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn ranges_of_the_vpc_are_refused_on_a_machine_that_is_not_a_node_yet() {
    let machine = FakeWorld::new();
    machine.metadata.add_network("10.100.0.0/16");
    let wanted = preflight(Role::ControlPlane);
    assert_eq!(
        refusal(&machine, Role::ControlPlane).await,
        "error: cluster.service_cidr 10.96.0.0/12 overlaps the VPC's 10.100.0.0/16\n  hint: give cluster.service_cidr a private range that does not overlap the VPC's: 10.42.0.0/16, 10.100.0.0/16"
    );
    // A VPC may get another network later. A node that already runs keeps running.
    machine.files.put("/etc/kubernetes/kubelet.conf", "");
    assert_eq!(machine.check(&wanted).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn an_image_without_a_packet_filter_is_refused() {
    let machine = FakeWorld::new();
    machine.files.delete("/usr/sbin/nft");
    let text = refusal(&machine, Role::Worker).await;
    assert!(
        text.starts_with("error: this image has no nft, which"),
        "{text}"
    );
    assert!(text.contains("dnf install --assumeyes nftables"), "{text}");
    machine.files.put("/usr/bin/nft", "");
    let worker = preflight(Role::Worker);
    assert_eq!(machine.check(&worker).await.unwrap(), State::AsWanted);
    // If pods may reach everything, either program is enough.
    machine.files.delete("/usr/bin/nft");
    machine.files.put("/usr/bin/iptables", "");
    let mut settings = settings();
    (settings.pods.metadata, settings.pods.control_ports) = (true, true);
    let worker = Preflight::wanted(&settings, &identity(Role::Worker)).unwrap();
    assert_eq!(machine.check(&worker).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn port_6443_in_use_is_refused_unless_by_this_node_itself() {
    let machine = FakeWorld::new();
    machine.files.listening_on(6443);
    assert_eq!(
        refusal(&machine, Role::ControlPlane).await,
        "error: TCP port 6443 is taken by another program\n  hint: find it with `ss -ltnp sport = :6443` and stop it"
    );
    assert_eq!(
        machine.check(&preflight(Role::Worker)).await.unwrap(),
        State::AsWanted
    );
    machine.files.put("/etc/kubernetes/kubelet.conf", "");
    assert_eq!(
        machine.check(&preflight(Role::ControlPlane)).await.unwrap(),
        State::AsWanted
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_an_error_that_is_retried() {
    let machine = FakeWorld::new();
    machine.host.kernel().facts.disk_free_bytes = 100 << 20;
    let error = machine.check(&preflight(Role::Worker)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert_eq!(
        error.to_string(),
        "error: 100 MiB are free under /var/lib, 2048 MiB are needed\n  hint: free some space or give the instance a larger root volume"
    );
}

fn kernel() -> Kernel {
    Kernel::wanted(&settings(), &identity(Role::Worker)).unwrap()
}

const MODULES_LOAD: &str = "/etc/modules-load.d/k8s-bootstrap.conf";

#[tokio::test(start_paused = true)]
async fn a_kernel_with_everything_built_in_passes_without_modules_or_a_list_of_them() {
    let machine = FakeWorld::new();
    machine.files.put("/proc/filesystems", "nodev\toverlay\n");
    machine
        .files
        .put("/proc/sys/net/bridge/bridge-nf-call-iptables", "1\n");
    machine
        .files
        .put("/proc/sys/net/netfilter/nf_conntrack_max", "1\n");
    assert_eq!(machine.check(&kernel()).await.unwrap(), State::AsWanted);
    machine.apply(&kernel()).await.unwrap();
    assert_eq!(machine.files.get(MODULES_LOAD), None);
}

#[tokio::test(start_paused = true)]
async fn missing_modules_are_loaded_and_loaded_again_at_boot() {
    let machine = FakeWorld::new();
    machine.files.put(
        "/lib/modules/6.8.0-1030-aws/modules.dep",
        "kernel/fs/overlayfs/overlay.ko.zst:\nkernel/net/bridge/br_netfilter.ko.zst: kernel/net/bridge/bridge.ko.zst\nkernel/drivers/net/vxlan/vxlan.ko.zst: kernel/net/ipv4/udp_tunnel.ko.zst\n",
    );
    machine.files.put(
        "/lib/modules/6.8.0-1030-aws/modules.builtin",
        "kernel/net/netfilter/nf_conntrack.ko\n",
    );
    for module in ["overlay", "br_netfilter", "vxlan"] {
        machine.commands.state().modules.insert(module);
    }
    assert_eq!(
        machine.differs(&kernel()).await,
        "the kernel lacks overlay, br_netfilter, vxlan"
    );
    machine.carry_out(&kernel()).await;
    let list = machine.files.get(MODULES_LOAD).unwrap();
    assert!(list.ends_with("\noverlay\nbr_netfilter\nvxlan\n"), "{list}");
    // A module missing only from the list is put back.
    machine.files.put(MODULES_LOAD, "overlay\n");
    assert_eq!(
        machine.differs(&kernel()).await,
        format!("{MODULES_LOAD} differs")
    );
}

#[tokio::test(start_paused = true)]
async fn a_kernel_without_bridge_filtering_is_refused_by_name() {
    let machine = FakeWorld::new();
    machine.files.put("/proc/filesystems", "nodev\toverlay\n");
    let error = machine.apply(&kernel()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(
        error.one_line(),
        "cannot load the kernel module br_netfilter: `modprobe -- br_netfilter` ended with status 1: modprobe: FATAL: Module br_netfilter not found."
    );
    let remedy = error.remedy().unwrap();
    assert!(
        remedy.starts_with("boot a kernel that has br_netfilter"),
        "{remedy}"
    );
    assert_eq!(machine.files.get(MODULES_LOAD), None);
}

fn sysctl() -> Sysctl {
    Sysctl::wanted(&settings(), &identity(Role::Worker)).unwrap()
}

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

#[tokio::test(start_paused = true)]
async fn parameters_are_set_now_and_for_every_boot() {
    let machine = FakeWorld::new().with_a_whole_kernel();
    assert_eq!(
        machine.differs(&sysctl()).await,
        "net.bridge.bridge-nf-call-ip6tables is 0, not 1"
    );
    machine.carry_out(&sysctl()).await;
    assert_eq!(machine.files.get(FORWARD).unwrap().trim(), "1");
    assert_eq!(
        machine
            .files
            .get("/proc/sys/vm/overcommit_memory")
            .unwrap()
            .trim(),
        "1"
    );
    let file = machine
        .files
        .get("/etc/sysctl.d/90-k8s-bootstrap.conf")
        .unwrap();
    for line in [
        "net.ipv4.ip_forward = 1",
        "kernel.panic = 10",
        "fs.inotify.max_user_watches = 1048576",
    ] {
        assert!(file.lines().any(|l| l == line), "{line} is not in {file}");
    }
    machine.files.put(FORWARD, "0\n");
    assert_eq!(
        machine.differs(&sysctl()).await,
        "net.ipv4.ip_forward is 0, not 1"
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_already_higher_is_kept() {
    let machine = FakeWorld::new().with_a_whole_kernel();
    machine
        .files
        .put("/proc/sys/fs/inotify/max_user_watches", "2000000\n");
    machine
        .files
        .put("/proc/sys/fs/inotify/max_user_instances", "128\n");
    machine.carry_out(&sysctl()).await;
    let limit = |name| {
        machine
            .files
            .get(format!("/proc/sys/fs/inotify/max_user_{name}"))
    };
    assert_eq!(limit("watches").unwrap(), "2000000\n");
    assert_eq!(limit("instances").unwrap(), "8192\n");
}

#[tokio::test(start_paused = true)]
async fn an_advisory_parameter_that_a_container_may_not_set_is_no_error() {
    let machine = FakeWorld::new().with_a_whole_kernel();
    machine.host.kernel().read_only.insert("overcommit_memory");
    machine.carry_out(&sysctl()).await;
    assert_eq!(
        machine.files.get("/proc/sys/vm/overcommit_memory").unwrap(),
        "0\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_required_parameter_that_the_kernel_rejects_or_does_not_apply_is_an_error() {
    let machine = FakeWorld::new().with_a_whole_kernel();
    machine.host.kernel().read_only.insert("ip_forward");
    let error = machine.apply(&sysctl()).await.unwrap_err().to_string();
    assert!(
        error.starts_with("error: the kernel rejects net.ipv4.ip_forward = 1\n  because: cannot set /proc/sys/net/ipv4/ip_forward"),
        "{error}"
    );
    assert!(
        error.contains("hint: pods need it: make net.ipv4.ip_forward writable"),
        "{error}"
    );
    assert_eq!(
        machine.files.get("/etc/sysctl.d/90-k8s-bootstrap.conf"),
        None
    );

    let machine = FakeWorld::new().with_a_whole_kernel();
    machine.host.kernel().stubborn.insert("ip_forward");
    let error = machine.apply(&sysctl()).await.unwrap_err().to_string();
    assert!(
        error.starts_with(
            "error: the kernel did not apply net.ipv4.ip_forward = 1: the value is 0\n"
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn swap_is_turned_off_now_and_in_fstab() {
    let machine = FakeWorld::new();
    let swap = Swap::wanted(&settings(), &identity(Role::Worker)).unwrap();
    assert_eq!(machine.check(&swap).await.unwrap(), State::AsWanted);
    machine.files.put(
        "/proc/swaps",
        "Filename Type Size Used Priority\n/swap.img file 1 0 -2\n",
    );
    machine.files.put(
        "/etc/fstab",
        "LABEL=root / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n",
    );
    assert_eq!(machine.differs(&swap).await, "/swap.img is in use");
    machine.carry_out(&swap).await;
    assert_eq!(
        machine.files.get("/etc/fstab").unwrap(),
        "LABEL=root / ext4 defaults 0 1\n#/swap.img none swap sw 0 0\n"
    );
}

#[tokio::test(start_paused = true)]
async fn swap_is_kept_if_the_kubelet_is_configured_to_tolerate_it() {
    let machine = FakeWorld::new();
    let swaps = "Filename Type Size Used Priority\n/swap.img file 1 0 -2\n";
    machine.files.put("/proc/swaps", swaps);
    let mut settings = settings();
    settings
        .kubelet
        .config
        .insert("failSwapOn".into(), false.into());
    let swap = Swap::wanted(&settings, &identity(Role::Worker)).unwrap();
    assert_eq!(machine.check(&swap).await.unwrap(), State::AsWanted);
    machine.apply(&swap).await.unwrap();
    assert_eq!(machine.files.get("/proc/swaps").unwrap(), swaps);
}

#[tokio::test(start_paused = true)]
async fn the_nodes_name_is_written_once_and_again_after_another_program_rewrote_the_file() {
    let machine = FakeWorld::new();
    let hosts = Hosts::wanted(&settings(), &identity(Role::Worker)).unwrap();
    machine.files.put("/etc/hosts", "127.0.0.1 localhost\n");
    machine.carry_out(&hosts).await;
    let written = machine.files.get("/etc/hosts").unwrap();
    assert!(written.starts_with("127.0.0.1 localhost\n"));
    assert!(
        written
            .contains("\n10.42.0.10 ip-10-42-0-10.eu-central-1.compute.internal ip-10-42-0-10\n")
    );
    machine.files.put("/etc/hosts", "127.0.0.1 localhost\n");
    machine.carry_out(&hosts).await;
    assert_eq!(machine.files.get("/etc/hosts").unwrap(), written);
}

#[test]
fn every_artifact_is_pinned_for_both_architectures_and_mirrors_apply() {
    let mut settings = settings();
    settings
        .downloads
        .mirrors
        .insert("https://dl.k8s.io".into(), "http://mirror/k8s".into());
    for arch in ["amd64", "arm64"] {
        let mut identity = identity(Role::Worker);
        identity.arch = arch.into();
        let all = Artifact::all(&settings, &identity).unwrap();
        assert_eq!(all.len(), ARTIFACTS.len());
        assert_eq!(
            all[1].download.url,
            format!("http://mirror/k8s/release/v1.36.3/bin/linux/{arch}/kubelet")
        );
        assert_eq!(
            all[5].download.url,
            format!(
                "https://github.com/containernetworking/plugins/releases/download/v1.9.1/cni-plugins-linux-{arch}-v1.9.1.tgz"
            )
        );
        assert_eq!(
            all[4].download.target,
            Target::Program("/usr/local/sbin/runc".into())
        );
    }
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
