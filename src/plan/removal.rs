//! Removes what the agent and kubeadm made on this machine: on `reset`, and before a node starts
//! over.

use super::{Phase, phase::Plan};
use crate::{kubernetes::paths, steps::decommission::Removal};

/// Removes everything. The agent goes first: it would put the rest back.
pub fn reset() -> Vec<Phase<Removal>> {
    let mut plan = Plan::new();
    plan.add(
        "reset-agent",
        200,
        &[],
        "the agent would restore what is removed",
        Removal::units(&["k8s-bootstrap.service"]),
    );
    of_the_cluster(&mut plan);
    plan.0
}

/// Same, but the agent keeps running, as one that never joined. The cluster's API no longer exists.
pub fn start_over() -> Vec<Phase<Removal>> {
    let mut plan = Plan::new();
    plan.add(
        "reset-credentials",
        20,
        &[],
        "kubeadm would wait for an API that never answers",
        Removal::files(&[paths::ADMIN_CONF]),
    );
    of_the_cluster(&mut plan);
    plan.0
}

#[rustfmt::skip] // one phase a line, to be read as a list
fn of_the_cluster(plan: &mut Plan<Removal>) {
    let units = ["kubelet.service", "containerd.service", "k8s-bootstrap-pod-limits.service"];
    let files = [paths::KUBERNETES, paths::ETCD_MEMBER, "/var/lib/kubelet/pki", "/etc/cni/net.d", "/var/lib/cni", "/var/lib/calico", "/etc/sysctl.d/90-k8s-bootstrap.conf"];
    plan.add("reset-kubeadm", 300, &[], "containers, certificates, data", Removal::Kubeadm);
    plan.add("reset-units", 200, &[], "the cluster's services are stopped", Removal::units(&units));
    plan.add("reset-rules", 20, &[], "the next kube-proxy starts without rules", Removal::Rules);
    plan.add("reset-tunnel", 20, &[], "no tunnel to pods on other nodes is left", Removal::Tunnel);
    plan.add("reset-files", 60, &[], "no files of this cluster are left for another one", Removal::files(&files));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::steps::decommission::TUNNEL;
    use crate::testing::{FakeWorld, output};

    #[tokio::test(start_paused = true)]
    async fn a_reset_removes_everything_in_order_and_a_second_one_nothing() {
        let fake = FakeWorld::new();
        for file in [
            paths::KUBELET_CONF,
            "/etc/cni/net.d/10-calico.conflist",
            TUNNEL,
        ] {
            fake.files.put(file, "x");
        }
        fake.on(
            "systemctl show --property=ActiveState,UnitFileState",
            |command, files| {
                let unit = command.args.last().unwrap();
                let off = files.has(format!("/off/{unit}"));
                output(
                    0,
                    if off {
                        "ActiveState=inactive\n"
                    } else {
                        "ActiveState=active\n"
                    },
                    "",
                )
            },
        );
        fake.on("systemctl disable --now", |command, files| {
            for unit in &command.args[2..] {
                files.put(format!("/off/{unit}"), "");
            }
            output(0, "", "")
        });
        fake.on("/usr/local/bin/kubeadm reset --force", |_, files| {
            files.delete(paths::KUBELET_CONF);
            output(0, "", "")
        });
        fake.on("nft list tables", |_, files| {
            let left = !files.has("/no-rules");
            let tables = "table ip filter\ntable ip kube-proxy\ntable ip6 kube-proxy\n";
            output(0, if left { tables } else { "table ip filter\n" }, "")
        });
        fake.on("nft add table ip kube-proxy; delete table", |_, files| {
            files.put("/no-rules", "");
            output(0, "", "")
        });
        fake.on("ip link delete", |_, files| {
            files.delete(TUNNEL);
            output(0, "", "")
        });
        fake.on("rm -rf", |command, files| {
            for path in &command.args[2..] {
                let _ = std::fs::remove_dir_all(files.root().join(path.trim_start_matches('/')));
            }
            output(0, "", "")
        });
        for phase in reset() {
            fake.carry_out(&phase.step).await;
        }
        assert!(!fake.files.has("/etc/cni/net.d"));
        let ran = fake.commands.ran();
        let at = |start: &str| ran.iter().position(|line| line.starts_with(start));
        assert!(at("systemctl disable --now k8s-bootstrap") < at("/usr/local/bin/kubeadm reset"));
        assert!(at("/usr/local/bin/kubeadm reset") < at("systemctl disable --now kubelet"));
        for phase in reset() {
            fake.holds(&phase.step).await;
        }
    }
}
