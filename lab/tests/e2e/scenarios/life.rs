//! What happens to nodes during their life.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::stage::{Stage, ensure, text, until};

/// Identifies a node beyond its name: a node that joined again has a different uid.
fn node_uid(stage: &Stage, machine: &str) -> Result<String, Failed> {
    let name = text(&stage.agent(machine)?["node"]);
    Ok(text(&stage.get(&["node", &name])?["metadata"]["uid"]))
}

fn has_started_again(stage: &Stage, machine: &str, starts_before: usize) -> Result<(), Failed> {
    let status = stage.agent(machine)?;
    ensure(
        status["stage"] == "ready",
        format!("the agent says {}", status["stage"]),
    )?;
    let starts = starts(stage, machine)?;
    ensure(
        starts > starts_before,
        "the agent has not started again yet",
    )
}

fn starts(stage: &Stage, machine: &str) -> Result<usize, Failed> {
    let entries = stage.journal(machine)?;
    Ok(entries.iter().filter(|e| is_message(e, "this is ")).count())
}

fn is_message(entry: &Value, start: &str) -> bool {
    text(&entry["MESSAGE"]).starts_with(start)
}

pub fn a_restarted_agent_changes_nothing(stage: &Stage) -> Result<(), Failed> {
    for machine in ["cp1", "w1"] {
        let uid = node_uid(stage, machine)?;
        let before = starts(stage, machine)?;
        // The state of containers, units and files, and the journal's text.
        let picture = "ctr -n k8s.io tasks ls -q | sort; systemctl show -P MainPID kubelet containerd; \
                       find /etc/kubernetes /etc/containerd /usr/local/bin /etc/sysctl.d -type f -printf '%p %T@\\n' | sort; \
                       sha256sum /var/lib/k8s-bootstrap/journal.json";
        let pictured = stage.shell(machine, picture)?;
        stage.exec(machine, &["systemctl", "restart", "k8s-bootstrap"])?;
        until(60, "the restarted agent", || {
            has_started_again(stage, machine, before)
        })?;
        let entries = stage.journal(machine)?;
        ensure(
            entries.iter().any(|e| is_message(e, "nothing to do: all ")),
            format!("{machine} does not say that there was nothing to do"),
        )?;
        let now = stage.shell(machine, picture)?;
        ensure(
            now == pictured,
            format!("{machine} changed from\n{pictured}\nto\n{now}"),
        )?;
        ensure(node_uid(stage, machine)? == uid, "the node joined again")?;
    }
    Ok(())
}

pub fn a_removed_file_is_put_back(stage: &Stage) -> Result<(), Failed> {
    let before = starts(stage, "w2")?;
    stage.shell("w2", "rm /etc/sysctl.d/90-k8s-bootstrap.conf /usr/local/bin/kubeadm; sysctl -qw net.ipv4.ip_forward=0")?;
    stage.exec("w2", &["systemctl", "restart", "k8s-bootstrap"])?;
    until(60, "the restarted agent", || {
        has_started_again(stage, "w2", before)
    })?;
    stage.shell("w2", "test -s /etc/sysctl.d/90-k8s-bootstrap.conf && test -x /usr/local/bin/kubeadm && test $(sysctl -n net.ipv4.ip_forward) = 1")?;
    Ok(())
}

/// In another subnet than its control plane, while AWS throttles and lags, and while the metadata
/// service is not steady.
pub fn a_fourth_node_joins_from_another_zone_on_a_bad_day_of_aws(
    stage: &Stage,
) -> Result<(), Failed> {
    // From here on the agents' calls get RequestLimitExceeded, then permanently half of them.
    let throttles = ["--throttle-next", "3", "--throttle-percent", "50"];
    let lags = ["--lag-seconds", "8", "--empty-pages"];
    let metadata = ["--metadata-close-next", "2", "--metadata-deny-next", "2"];
    stage.lab(&[&["faults"], &throttles[..], &lags, &metadata].concat())?;
    let zone = "eu-central-1b";
    let machine = stage.launch(&["--zone", zone])?;
    let joined = until(300, "the fourth node", || {
        let ready = stage.ready_nodes()?;
        ensure(ready.len() == 4, format!("Ready are {ready:?}"))
    });
    stage.lab(&["faults"])?;
    joined?;
    let node = text(&stage.agent(&machine)?["node"]);
    ensure(
        node.starts_with("ip-10-42-16-"),
        format!("{node} is in the first subnet"),
    )?;
    let labels = stage.get(&["node", &node])?["metadata"]["labels"].take();
    ensure(
        labels["topology.kubernetes.io/zone"] == zone,
        labels.to_string(),
    )
}

/// SIGKILL at arbitrary times during a new machine's first boot.
pub fn a_killed_agent_resumes_where_it_was(stage: &Stage) -> Result<(), Failed> {
    let machine = stage.launch(&[])?;
    // With cgroup v1 in a container systemd does not learn when the last process has exited, and
    // waits for the whole stop time-out.
    let drop_in = "/run/systemd/system/k8s-bootstrap.service.d";
    let soon = format!(
        "mkdir -p {drop_in} && printf '[Service]\\nTimeoutStopSec=10\\n' > {drop_in}/soon.conf && systemctl daemon-reload"
    );
    stage.shell(&machine, &soon)?;
    let phases = ["artifact-kubelet", "containerd", "images", "kubeadm-join"];
    for phase in phases {
        let look = || {
            let entries = stage.journal(&machine)?;
            ensure(
                entries.iter().any(|e| e["PHASE"] == phase),
                format!("{phase} has not begun"),
            )
        };
        until(240, phase, look)?;
        stage.exec(
            &machine,
            &[
                "systemctl",
                "kill",
                "--signal=KILL",
                "--kill-whom=all",
                "k8s-bootstrap",
            ],
        )?;
    }
    until(300, "the fifth node", || {
        let ready = stage.ready_nodes()?;
        ensure(ready.len() == 5, format!("Ready are {ready:?}"))
    })?;
    let name = until(60, "the agent's status", || {
        Ok(text(&stage.agent(&machine)?["node"]))
    })?;
    stage.shell(
        &machine,
        &format!("rm -r {drop_in} && systemctl daemon-reload"),
    )?;
    stage.lab(&["terminate", &machine])?;
    until(60, "the leader to delete the node that has left", || {
        stage.has_no_node(&name)
    })
}

/// A spot interruption's two minutes are enough: the Node is removed while the machine still runs.
pub fn a_spot_notice_empties_the_node(stage: &Stage) -> Result<(), Failed> {
    stage.lab(&["launch", "--role", "worker"])?;
    let newest = stage.machines()?.pop().unwrap_or_default();
    let (machine, node) = (text(&newest["name"]), text(&newest["node"]));
    stage.lab(&["notice", &machine])?;
    until(110, "the node to leave", || stage.has_no_node(&node))?;
    let agent = stage.agent(&machine)?;
    ensure(
        agent["stage"] == "leaving",
        format!("the agent says {}", agent["stage"]),
    )?;
    stage.lab(&["terminate", &machine]).map(drop)
}

/// Because of its hook the group waits until the node has left, and no longer.
pub fn a_group_waits_for_its_node_to_leave(stage: &Stage) -> Result<(), Failed> {
    stage.lab(&["launch", "--role", "worker"])?;
    let newest = stage.machines()?.pop().unwrap_or_default();
    let said = stage.lab(&["terminate", &text(&newest["name"]), "--by-group"])?;
    ensure(said.contains("its hook was completed"), said)?;
    let node = text(&newest["node"]);
    until(60, "the leader to delete the node that has left", || {
        stage.has_no_node(&node)
    })
}

/// A person removes a node from the cluster and the cluster from the node. When its agent starts
/// again, it joins like a new node.
pub fn a_reset_worker_leaves_and_may_join_again(stage: &Stage) -> Result<(), Failed> {
    let machines = stage.machines()?;
    let newest = machines
        .iter()
        .rfind(|m| m["role"] == "worker" && m["phase"] == "running");
    let newest = newest.cloned().unwrap_or_default();
    let (machine, node) = (text(&newest["name"]), text(&newest["node"]));
    let uid = node_uid(stage, &machine)?;
    stage.exec(&machine, &["k8s-bootstrap", "reset", "--yes"])?;
    until(60, "the leader to delete the Node", || {
        stage.has_no_node(&node)
    })?;
    let left = "ls -d /etc/kubernetes /etc/cni/net.d /var/lib/k8s-bootstrap/journal.json 2>/dev/null; \
                pgrep -l 'kubelet|containerd|k8s-bootstrap|calico'; \
                systemctl is-enabled kubelet containerd k8s-bootstrap | grep -x enabled; true";
    let left = stage.shell(&machine, left)?;
    ensure(
        left.trim().is_empty(),
        format!("{machine} still has\n{left}"),
    )?;
    stage.start_agent(&machine)?;
    until(240, "the node to join again", || {
        ensure(
            stage.ready_nodes()?.contains(&node),
            format!("{node} is not Ready"),
        )
    })?;
    let again = until(60, "the agent's status", || node_uid(stage, &machine))?;
    ensure(again != uid, "it is the same Node object as before")
}

fn comes_back(
    stage: &Stage,
    machine: &str,
    away: impl Fn() -> Result<(), Failed>,
) -> Result<(), Failed> {
    let uid = node_uid(stage, machine)?;
    let before = starts(stage, machine)?;
    away()?;
    until(180, "the machine's agent", || {
        has_started_again(stage, machine, before)
    })?;
    let name = text(&stage.agent(machine)?["node"]);
    until(120, "the node", || {
        ensure(
            stage.ready_nodes()?.contains(&name),
            format!("{name} is not Ready"),
        )
    })?;
    ensure(node_uid(stage, machine)? == uid, "the node joined again")
}

pub fn a_rebooted_node_comes_back(stage: &Stage) -> Result<(), Failed> {
    comes_back(stage, "w1", || {
        // The shell may end with the machine before it can answer.
        stage
            .try_lab(&["exec", "w1", "--", "systemctl", "reboot"])
            .map(drop)
    })?;
    // The rules were loaded before the first container could start.
    let order = "rules=$(systemctl show --value -p ActiveEnterTimestampMonotonic k8s-bootstrap-pod-limits) && \
                 runtime=$(systemctl show --value -p ExecMainStartTimestampMonotonic containerd) && \
                 nft list table inet k8s-bootstrap >/dev/null && test 0 -lt $rules && test $rules -le $runtime";
    stage.shell("w1", order).map(drop)
}

pub fn a_stopped_node_comes_back(stage: &Stage) -> Result<(), Failed> {
    comes_back(stage, "cp1", || {
        stage.lab(&["stop", "cp1"])?;
        stage.lab(&["start", "cp1"]).map(drop)
    })
}

/// An agent in steady state notices that the API is down and back; a booting one waits for it.
pub fn the_api_of_ec2_restarts_and_nobody_minds(stage: &Stage) -> Result<(), Failed> {
    stage.lab(&["moto-restart"])?;
    let before = starts(stage, "w2")?;
    stage.lab(&["faults", "--refuse-seconds", "8"])?;
    stage.exec("w2", &["systemctl", "restart", "k8s-bootstrap"])?;
    until(120, "the restarted agent", || {
        has_started_again(stage, "w2", before)
    })
}

pub fn down_leaves_nothing_behind(stage: &Stage) -> Result<(), Failed> {
    stage.lab(&["down"])?;
    let layout = lab::layout::Layout::find()?;
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let folder = layout.dir().display().to_string();
    ensure(!mounts.contains(&folder), "mounts are left")?;
    ensure(lab::network::namespaces().is_empty(), "namespaces are left")?;
    ensure(!lab::machine::cgroups::any(), "control groups are left")?;
    let left: Vec<String> = list_of(layout.dir())?;
    ensure(
        left == ["cache"],
        format!("in the lab's folder are {left:?}"),
    )
}

fn list_of(folder: &std::path::Path) -> Result<Vec<String>, Failed> {
    let mut names = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()?;
    names.sort();
    Ok(names)
}
