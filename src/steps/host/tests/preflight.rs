//! Scenarios of what a machine must have before anything is changed on it.

use crate::{
    error::Kind,
    ports::Role,
    steps::{State, host::Preflight},
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
