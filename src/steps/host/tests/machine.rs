//! Scenarios of the machine itself: kernel, swap, names.

use crate::{
    error::Kind,
    ports::Role,
    steps::{
        State,
        host::{Hosts, Kernel, Swap, Sysctl},
    },
    testing::{FakeWorld, identity, settings},
};

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
