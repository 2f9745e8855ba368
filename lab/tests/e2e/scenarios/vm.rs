//! A worker with a kernel of its own: the shipped defaults on a machine like an EC2 instance.
//!
//! Without hardware virtualization it needs ten times as long as a container. It therefore takes only
//! the time that the other scenarios leave, next to them and in a cluster of its own.

use std::process::Child;
use std::sync::{Mutex, OnceLock, PoisonError};

use lab::layout::Layout;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::stage::{self, ONLY_THE_NETWORK, Stage, ensure, pod, text, until};

const JOINS: u64 = 1500;
const COMES_BACK: u64 = 900;
const ANSWERS: u64 = 900;

/// The cluster of the virtual machine, which needs minutes to unpack an add-on's image.
const CLUSTER: &str = "real";
/// Where pods of these scenarios run, however late the machine joins.
const LABEL: &str = "k8s-bootstrap:label:lab.vm=true";

static LAUNCH: Launch = Launch::new();
/// The id of the boot that the reboot ended.
static BOOT: OnceLock<String> = OnceLock::new();

/// A virtual machine's launch, which first builds what it boots.
pub struct Launch(Mutex<Option<Child>>);

impl Launch {
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Begins to launch a worker.
    pub fn begin(&self, stage: &Stage, options: &[&str]) -> Result<(), Failed> {
        let vm = [
            "launch",
            "--role",
            "worker",
            "--until",
            "launched",
            "--machine",
            "vm",
        ];
        let launch = stage.start(&[&vm[..], options].concat())?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(launch);
        Ok(())
    }

    /// Waits for the launch, not for the boot.
    pub fn finish(&self) -> Result<(), Failed> {
        let launch = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Stage::finish(launch.ok_or("no virtual machine was launched")?).map(drop)
    }
}

/// The virtual machine of a cluster, by its kind in the lab's status.
pub fn machine(stage: &Stage, cluster: &str) -> Result<String, Failed> {
    let machines = stage.machines()?;
    let vm = machines.iter().find(|machine| {
        machine["kind"] == "vm"
            && machine["phase"] == "running"
            && machine["tags"]["k8s-bootstrap:cluster"] == cluster
    });
    Ok(vm
        .map(|vm| text(&vm["name"]))
        .ok_or("no virtual machine runs")?)
}

fn founder(stage: &Stage) -> Result<String, Failed> {
    let mut all = stage.control_planes_of(CLUSTER)?;
    Ok(all.pop().ok_or("its cluster has no control plane")?)
}

/// The names of its cluster's Ready nodes.
fn ready_nodes(stage: &Stage) -> Result<Vec<String>, Failed> {
    let nodes = stage.kubectl_on(&founder(stage)?, "get nodes -o json")?;
    Ok(stage::ready_nodes(&stage::json(&nodes)?))
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
pub fn holds(stage: &Stage, vm: &str, commands: &[&str]) -> Result<(), Failed> {
    for command in commands {
        stage
            .shell(vm, command)
            .map_err(|failed| format!("{command}: {}", failed.message().unwrap_or_default()))?;
    }
    Ok(())
}

/// What the kernel must provide, now and after a reboot.
pub const KERNEL: [&str; 6] = [
    "test \"$(stat -f -c %T /sys/fs/cgroup)\" = cgroup2fs",
    "grep -q Y /sys/module/apparmor/parameters/enabled",
    "for m in overlay br_netfilter; do grep -q \"^$m \" /proc/modules || exit 1; done",
    "test \"$(sysctl -n net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables | tr -d '\\n')\" = 11",
    "test -b /dev/nvme1n1 && test \"$(wc -l < /proc/swaps)\" = 1",
    "test \"$(readlink /etc/resolv.conf)\" = /run/systemd/resolve/stub-resolv.conf",
];

/// What must run, now and after a reboot.
const UNITS: [&str; 1] = ["systemctl is-active -q kubelet containerd k8s-bootstrap"];

/// The agent has none of the settings that containers need.
const DEFAULTS: [&str; 4] = [
    "grep -q '^cgroupDriver: systemd' /var/lib/kubelet/config.yaml",
    "grep -q 'SystemdCgroup = true' /etc/containerd/config.toml",
    "! grep -q 'failCgroupV1: false' /var/lib/kubelet/config.yaml",
    "f=/var/lib/cloud/instance/user-data.txt; grep -q mirrors $f && ! grep -q allow_cgroup_v1 $f",
];

pub fn a_virtual_machine_is_launched_next_to_the_others(stage: &Stage) -> Result<(), Failed> {
    let file = Layout::find()?.run().join("real.toml");
    std::fs::write(&file, ONLY_THE_NETWORK)?;
    let file = file.to_string_lossy();
    let tag = format!("k8s-bootstrap:cluster={CLUSTER}");
    let options = ["--settings", &file, "--tag", &tag];
    stage.launch_as("control-plane", &options)?;
    LAUNCH.begin(stage, &[&["--tag", LABEL], &options[..]].concat())
}

/// A pod of the virtual machine, as soon as there is one.
fn waiting_pod(name: &str, command: &str) -> Value {
    let mut pod = pod(name, "", command);
    pod["spec"]["nodeName"].take();
    pod["spec"]["nodeSelector"] = json!({ "lab.vm": "true" });
    pod
}

const METADATA: &str = "http://169.254.169.254/latest/meta-data/";

/// One pod asks another node's ten times a second, one asks the metadata service once. A request may
/// take a minute: while networkd restarts, the machine has no address, and TCP sends again what was lost.
pub fn its_pods_wait_for_it(stage: &Stage) -> Result<(), Failed> {
    let founder = founder(stage)?;
    let node = until(300, "the control plane of its cluster", || {
        is_ready(stage, &founder)
    })?;
    let ask = "until timeout 60 wget -q -O /dev/null http://vm-server.default.svc.cluster.local; do sleep 1; done; \
               while :; do timeout 60 wget -q -O /dev/null http://vm-server.default.svc.cluster.local \
               && echo good || echo failed; sleep 0.1; done";
    let mut client = waiting_pod("vm-client", ask);
    client["spec"]["restartPolicy"] = "Always".into();
    let mut host = waiting_pod(
        "vm-host",
        &format!("timeout 20 wget -O - {METADATA} 2>&1; true"),
    );
    host["spec"]["hostNetwork"] = true.into();
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        pod("vm-server", &node, "mkdir /www && echo hello > /www/index.html && httpd -f -p 8080 -h /www"),
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "vm-server" },
          "spec": { "selector": { "app": "vm-server" }, "ports": [{ "port": 80, "targetPort": 8080 }] } },
        client,
        host,
    ]});
    let apply = format!("apply -f - <<'END'\n{objects}\nEND");
    stage.kubectl_on(&founder, &apply).map(drop)
}

/// The log of its client, once it has this many answers since the client's last start.
fn answers(stage: &Stage, least: usize) -> Result<String, Failed> {
    let founder = founder(stage)?;
    until(ANSWERS, "answers to its pod's requests", || {
        let log = stage.kubectl_on(&founder, "logs vm-client")?;
        let good = log.lines().filter(|line| *line == "good").count();
        ensure(good >= least, format!("{good} answers: {log}"))?;
        Ok(log)
    })
}

pub fn a_virtual_machine_joins_with_the_defaults(stage: &Stage) -> Result<(), Failed> {
    LAUNCH.finish()?;
    let vm = machine(stage, CLUSTER)?;
    let node = until(JOINS, "the virtual machine's node", || is_ready(stage, &vm))?;
    let ready = ready_nodes(stage)?;
    ensure(
        ready.contains(&node),
        format!("{node} is not among {ready:?}"),
    )?;
    holds(stage, &vm, &KERNEL)?;
    holds(stage, &vm, &UNITS)?;
    holds(stage, &vm, &DEFAULTS)
}

pub fn its_pods_reach_others_while_networkd_restarts(stage: &Stage) -> Result<(), Failed> {
    let vm = machine(stage, CLUSTER)?;
    let before = answers(stage, 5)?.lines().count();
    stage.exec(&vm, &["systemctl", "restart", "systemd-networkd"])?;
    let log = answers(stage, before + 20)?;
    ensure(!log.contains("failed"), format!("requests failed: {log}"))
}

/// With cgroup v2 the rules distinguish pods on the host's network from the node by their control
/// group.
pub fn pods_on_its_own_network_do_not_reach_the_metadata(stage: &Stage) -> Result<(), Failed> {
    let founder = founder(stage)?;
    let log = until(ANSWERS, "the pod's end", || {
        let phase = "get pod vm-host -o jsonpath='{.status.phase}'";
        let phase = stage.kubectl_on(&founder, phase)?;
        ensure(phase == "Succeeded", format!("the pod is {phase}"))?;
        stage.kubectl_on(&founder, "logs vm-host")
    })?;
    ensure(
        log.contains("can't connect"),
        format!("the metadata service answered: {log}"),
    )?;
    // Without a token it answers the node itself: 401.
    let status = "curl --silent --output /dev/null --write-out '%{http_code}' ";
    let status = stage.shell(&machine(stage, CLUSTER)?, &format!("{status}{METADATA}"))?;
    ensure(status == "401", format!("the node itself gets {status:?}"))
}

fn boot_id(stage: &Stage, vm: &str) -> Result<String, Failed> {
    stage.shell(vm, "cat /proc/sys/kernel/random/boot_id")
}

/// The machine's own interfaces with their addresses, without what changes as a lease ages. Calico's
/// come back with its pod.
fn addresses(stage: &Stage, vm: &str) -> Result<String, Failed> {
    let list = "ip -4 -o addr show scope global | awk '$2 !~ /calico|^cali/ { print $2, $4 }'";
    stage.shell(vm, list)
}

/// Its reboot takes its time while the next scenarios play.
pub fn it_reboots(stage: &Stage) -> Result<(), Failed> {
    let vm = machine(stage, CLUSTER)?;
    let before = boot_id(stage, &vm)? + &addresses(stage, &vm)?;
    BOOT.set(before).map_err(|_| "it has rebooted before")?;
    stage
        .exec(&vm, &["systemctl", "reboot", "--no-block"])
        .map(drop)
}

pub fn a_rebooted_virtual_machine_comes_back(stage: &Stage) -> Result<(), Failed> {
    let vm = machine(stage, CLUSTER)?;
    let before = BOOT.get().ok_or("it was not rebooted")?;
    let (boot, had) = before.split_once('\n').ok_or("no addresses")?;
    let node = until(COMES_BACK, "the rebooted virtual machine", || {
        ensure(
            boot_id(stage, &vm)?.trim() != boot,
            "it has not rebooted yet",
        )?;
        is_ready(stage, &vm)
    })?;
    until(COMES_BACK, "its Node", || {
        ensure(
            ready_nodes(stage)?.contains(&node),
            format!("{node} is not Ready"),
        )
    })?;
    holds(stage, &vm, &KERNEL)?;
    holds(stage, &vm, &UNITS)?;
    let has = addresses(stage, &vm)?;
    ensure(has == had, format!("addresses were {had}, are {has}"))?;
    until(ANSWERS, "its pod's restart", || {
        let restarts =
            "get pod vm-client -o jsonpath='{.status.containerStatuses[0].restartCount}'";
        let restarts = stage.kubectl_on(&founder(stage)?, restarts)?;
        ensure(restarts != "0", "its container is that of before")
    })?;
    answers(stage, 5).map(drop)
}

/// The power button reaches the agent, and the Node goes with the instance.
pub fn a_terminated_virtual_machine_leaves(stage: &Stage) -> Result<(), Failed> {
    let vm = machine(stage, CLUSTER)?;
    let founder = founder(stage)?;
    let node = text(&stage.agent(&vm)?["node"]);
    stage.lab(&["terminate", &vm])?;
    until(120, "the end of its Node", || {
        let nodes = stage.kubectl_on(&founder, "get nodes --output=name")?;
        ensure(!nodes.contains(&node), format!("{node} is still there"))
    })?;
    stage.lab(&["terminate", &founder, "--hard"]).map(drop)
}
