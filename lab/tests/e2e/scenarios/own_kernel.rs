//! The host's part of the boot on a machine with a kernel of its own, which is what differs most from
//! containers. Becoming a node takes emulated processors ten minutes more: see `vm`.

use lab::layout::Layout;
use libtest_mimic::Failed;

use super::vm::{KERNEL, Launch, holds, machine};
use crate::stage::{ONLY_THE_NETWORK, Stage, ensure, until};

/// A cluster that nobody founds, so that its worker prepares itself and then waits.
const CLUSTER: &str = "unfounded";
const PREPARED: u64 = 900;

static LAUNCH: Launch = Launch::new();

/// The host's phases have taken effect, with the shipped defaults.
const HOST: [&str; 6] = [
    "systemctl is-active -q containerd k8s-bootstrap",
    "timeout 30 ctr version",
    "grep -q 'SystemdCgroup = true' /etc/containerd/config.toml",
    "nft list tables | grep -q k8s-bootstrap",
    "kubelet --version && runc --version",
    "f=/var/lib/cloud/instance/user-data.txt; grep -q mirrors $f && ! grep -q allow_cgroup_v1 $f",
];

pub fn a_machine_with_its_own_kernel_boots_next_to_the_others(stage: &Stage) -> Result<(), Failed> {
    let file = Layout::find()?.run().join("unfounded.toml");
    std::fs::write(
        &file,
        format!("{ONLY_THE_NETWORK}[images]\npreload = false\n"),
    )?;
    let file = file.to_string_lossy();
    let tag = format!("k8s-bootstrap:cluster={CLUSTER}");
    LAUNCH.begin(stage, &["--settings", &file, "--tag", &tag])
}

pub fn it_is_prepared_with_the_defaults_and_waits_for_a_cluster(
    stage: &Stage,
) -> Result<(), Failed> {
    LAUNCH.finish()?;
    let vm = machine(stage, CLUSTER)?;
    until(PREPARED, "the host's part of its boot", || {
        holds(stage, &vm, &HOST)?;
        holds(stage, &vm, &KERNEL)
    })?;
    let status = stage.agent(&vm)?;
    ensure(
        status["stage"] == "working",
        format!("{vm} is {}: {}", status["stage"], status["message"]),
    )
}

/// What Calico adds for a pod, and networkd's restart. The monitor also sees what is lost for a moment;
/// a rule that networkd removes is lost for good.
const RESTART: &str = "
    set -e
    ip link add cali0 type dummy
    ip link set cali0 up
    ip route add 192.168.99.9 dev cali0 proto 80
    ip rule add to 192.168.99.9 table main priority 99
    ip monitor address route rule > /run/monitor & monitor=$!
    systemctl restart systemd-networkd
    /lib/systemd/systemd-networkd-wait-online --any --timeout=300
    kill $monitor
    ip route get 192.168.99.9 | grep -q cali0
    ip rule show priority 99 | grep -q 192.168.99.9
    cat /run/monitor";

pub fn its_networkd_leaves_what_belongs_to_pods_alone(stage: &Stage) -> Result<(), Failed> {
    let vm = machine(stage, CLUSTER)?;
    let seen = stage.shell(&vm, RESTART)?;
    let mut lines = seen.lines();
    ensure(
        !lines.any(|line| line.contains("Deleted") && line.contains("192.168.99.9")),
        format!("networkd removed what is not its own:\n{seen}"),
    )?;
    stage.lab(&["terminate", &vm, "--hard"]).map(drop)
}
