//! A worker with a kernel of its own: the shipped defaults on a machine like an EC2 instance.

use libtest_mimic::Failed;
use serde_json::json;

use crate::stage::{Stage, ensure, pod, text, until};

/// Without hardware virtualization everything in it takes ten times as long.
const JOINS: u64 = 1500;
const COMES_BACK: u64 = 900;
const ANSWERS: u64 = 900;

/// The virtual machine, by its kind in the lab's status.
fn machine(stage: &Stage) -> Result<String, Failed> {
    let machines = stage.machines()?;
    let vm = machines
        .iter()
        .find(|machine| machine["kind"] == "vm" && machine["phase"] == "running");
    Ok(vm
        .map(|vm| text(&vm["name"]))
        .ok_or("no virtual machine runs")?)
}

fn is_ready(stage: &Stage, vm: &str) -> Result<String, Failed> {
    let status = stage.agent(vm)?;
    ensure(
        status["stage"] == "ready",
        format!("{vm} says {}", status["message"]),
    )?;
    Ok(text(&status["node"]))
}

/// Each command in `commands` must succeed in the machine.
fn holds(stage: &Stage, vm: &str, commands: &[&str]) -> Result<(), Failed> {
    for command in commands {
        stage
            .shell(vm, command)
            .map_err(|failed| format!("{command}: {}", failed.message().unwrap_or_default()))?;
    }
    Ok(())
}

/// What the kernel must provide, now and after a reboot.
const KERNEL: [&str; 7] = [
    "test \"$(stat -f -c %T /sys/fs/cgroup)\" = cgroup2fs",
    "grep -q Y /sys/module/apparmor/parameters/enabled",
    "for m in overlay br_netfilter; do grep -q \"^$m \" /proc/modules || exit 1; done",
    "test \"$(sysctl -n net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables | tr -d '\\n')\" = 11",
    "test -b /dev/nvme1n1 && test \"$(wc -l < /proc/swaps)\" = 1",
    "systemctl is-active -q kubelet containerd k8s-bootstrap",
    "test \"$(readlink /etc/resolv.conf)\" = /run/systemd/resolve/stub-resolv.conf",
];

/// The agent has none of the settings that containers need.
const DEFAULTS: [&str; 4] = [
    "grep -q '^cgroupDriver: systemd' /var/lib/kubelet/config.yaml",
    "grep -q 'SystemdCgroup = true' /etc/containerd/config.toml",
    "! grep -q 'failCgroupV1: false' /var/lib/kubelet/config.yaml",
    "f=/var/lib/cloud/instance/user-data.txt; grep -q mirrors $f && ! grep -q allow_cgroup_v1 $f",
];

/// Keeps the ingress controller away: an emulated processor needs minutes to unpack its image. The
/// pods of these scenarios name their node and need no scheduler.
const TAINT: &str = "k8s-bootstrap:taint:lab.vm=true:NoSchedule";

pub fn a_virtual_machine_joins_with_the_defaults(stage: &Stage) -> Result<(), Failed> {
    let vm = stage.launch(&["--machine", "vm", "--tag", TAINT])?;
    let node = until(JOINS, "the virtual machine's node", || is_ready(stage, &vm))?;
    let ready = stage.ready_nodes()?;
    ensure(
        ready.contains(&node),
        format!("{node} is not among {ready:?}"),
    )?;
    holds(stage, &vm, &KERNEL)?;
    holds(stage, &vm, &DEFAULTS)
}

/// A pod on the virtual machine asks a pod on another node ten times a second, while networkd of
/// its machine restarts.
pub fn its_pods_reach_others_while_networkd_restarts(stage: &Stage) -> Result<(), Failed> {
    let vm = machine(stage)?;
    let node = text(&stage.agent(&vm)?["node"]);
    let other = text(&stage.agent("w1")?["node"]);
    let ask = "until wget -q -T 5 -O /dev/null http://vm-server.default.svc.cluster.local; do sleep 1; done; \
               while :; do wget -q -T 5 -O /dev/null http://vm-server.default.svc.cluster.local \
               && echo good || echo failed; sleep 0.1; done";
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        pod("vm-server", &other, "mkdir /www && echo hello > /www/index.html && httpd -f -p 8080 -h /www"),
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "vm-server" },
          "spec": { "selector": { "app": "vm-server" }, "ports": [{ "port": 80, "targetPort": 8080 }] } },
        pod("vm-client", &node, ask),
    ]});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), objects.to_string())?;
    let path = file.path().display().to_string();
    stage.kubectl(&["apply", "-f", &path])?;
    let answers = |least: usize| {
        until(ANSWERS, "answers to the pod's requests", || {
            let log = stage.kubectl(&["logs", "vm-client"])?;
            let good = log.lines().filter(|line| *line == "good").count();
            ensure(good >= least, format!("{good} answers: {log}"))?;
            Ok(log)
        })
    };
    let before = answers(5)?.lines().count();
    stage.exec(&vm, &["systemctl", "restart", "systemd-networkd"])?;
    let log = answers(before + 20)?;
    stage.kubectl(&["delete", "-f", &path, "--now"])?;
    ensure(!log.contains("failed"), format!("requests failed: {log}"))
}

/// With cgroup v2 the rules distinguish pods on the host's network from the node by their control
/// group.
pub fn pods_on_its_own_network_do_not_reach_the_metadata(stage: &Stage) -> Result<(), Failed> {
    const METADATA: &str = "http://169.254.169.254/latest/meta-data/";
    let vm = machine(stage)?;
    let node = text(&stage.agent(&vm)?["node"]);
    let ask = format!("wget -T 20 -O - {METADATA} 2>&1; true");
    let mut pod = pod("vm-host-network", &node, &ask);
    pod["spec"]["hostNetwork"] = true.into();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), pod.to_string())?;
    let path = file.path().display().to_string();
    stage.kubectl(&["apply", "-f", &path])?;
    let log = until(ANSWERS, "the pod's end", || {
        let pod = stage.get(&["pod", "vm-host-network"])?;
        ensure(
            pod["status"]["phase"] == "Succeeded",
            format!("the pod is {}", pod["status"]),
        )?;
        stage.kubectl(&["logs", "vm-host-network"])
    })?;
    stage.kubectl(&["delete", "-f", &path, "--now"])?;
    ensure(
        log.contains("can't connect"),
        format!("the metadata service answered: {log}"),
    )?;
    // Without a token it answers the node itself: 401.
    let status = "curl --silent --output /dev/null --write-out '%{http_code}' ";
    let status = stage.shell(&vm, &format!("{status}{METADATA}"))?;
    ensure(status == "401", format!("the node itself gets {status:?}"))
}

pub fn a_rebooted_virtual_machine_comes_back(stage: &Stage) -> Result<(), Failed> {
    let vm = machine(stage)?;
    let boot = |stage: &Stage| stage.shell(&vm, "cat /proc/sys/kernel/random/boot_id");
    let address =
        |stage: &Stage| stage.shell(&vm, "ip -4 -o addr show scope global | grep -v cali");
    let (before, had) = (boot(stage)?, address(stage)?);
    let node = is_ready(stage, &vm)?;
    stage.exec(&vm, &["systemctl", "reboot", "--no-block"])?;
    until(COMES_BACK, "the rebooted virtual machine", || {
        ensure(boot(stage)? != before, "it has not rebooted yet")?;
        is_ready(stage, &vm)
    })?;
    until(COMES_BACK, "its Node", || {
        ensure(
            stage.ready_nodes()?.contains(&node),
            format!("{node} is not Ready"),
        )
    })?;
    holds(stage, &vm, &KERNEL)?;
    let has = address(stage)?;
    ensure(has == had, format!("addresses were {had}, are {has}"))
}

/// The power button reaches the agent, and the Node goes with the instance.
pub fn a_terminated_virtual_machine_leaves(stage: &Stage) -> Result<(), Failed> {
    let vm = machine(stage)?;
    let node = text(&stage.agent(&vm)?["node"]);
    stage.lab(&["terminate", &vm])?;
    until(120, "the end of its Node", || stage.has_no_node(&node))
}
