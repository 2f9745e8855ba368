//! The boot as one list: prepares the host, then founds or joins the cluster.

use super::{LOCAL, Phase, phase::Plan};
use crate::{
    config::Settings,
    error::Result,
    identity::Identity,
    observe::{Membership, Memory, Origin},
    ports::{MachineFacts, Role},
    steps::{
        Action, NodeReady,
        addons::Addon,
        cluster_record::{RecordCluster, SettleCluster},
        decommission::Uncordon,
        host::{
            Artifact, Bundle, Containerd, ForeignNetworks, Hosts, Images, Kernel, KubeletUnit,
            PodLimits, Preflight, Swap, Sysctl,
        },
        kubeadm::{
            ApiReady, BlanketApproval, ConfigFiles, EtcdData, InitPhase, Join, KubeadmPhase,
            KubeletCertificate, Ticket,
        },
        renewal::{Renewal, Which},
    },
};

/// Prepares the host. Depends on no peer, so it runs while peers are found.
#[rustfmt::skip] // one phase a line, to be read as a list
pub fn host(settings: &Settings, me: &Identity) -> Result<Vec<Phase<Action>>> {
    let mut plan = Plan::new();
    let download = settings.deadlines.download;
    plan.add("preflight", LOCAL, &[], "kubeadm and the kubelet would fail later and less clearly", Preflight::wanted(settings, me)?);
    plan.add("kernel", LOCAL, &["preflight"], "containers need overlay mounts, pods need a filtered bridge", Kernel::wanted(settings, me)?);
    plan.add("sysctl", LOCAL, &["kernel"], "pods' packets are forwarded and seen by kube-proxy", Sysctl::wanted(settings, me)?);
    plan.add("swap", LOCAL, &["preflight"], "the kubelet accounts memory without swap", Swap::wanted(settings, me)?);
    plan.add("hosts", LOCAL, &["preflight"], "the node's own name resolves even if the VPC's resolver does not answer", Hosts::wanted(settings, me)?);
    plan.add("foreign-networks", LOCAL, &["preflight"], "networkd and NetworkManager leave routes and interfaces of pods alone", ForeignNetworks::wanted());
    plan.add("pod-limits", LOCAL, &["preflight"], "pods can reach neither the instance metadata nor the ports of the join service and the control plane", PodLimits::wanted(settings));
    let mut source = "preflight";
    if let Some(bundle) = Bundle::wanted(settings, &me.arch)? {
        plan.add("bundle", download, &["preflight"], "all other downloads and images come from it", bundle);
        source = "bundle";
    }
    for artifact in Artifact::all(settings, me)? {
        let name = format!("artifact-{}", artifact.name);
        plan.add(&name, download, &[source], "downloaded, verified and unpacked in one pass", artifact);
    }
    plan.add("containerd", LOCAL, &["kernel", "sysctl", "pod-limits", "artifact-containerd", "artifact-runc", "artifact-cni-plugins"], "runs the containers", Containerd::wanted(settings, me)?);
    plan.add("kubelet-unit", LOCAL, &["preflight"], "kubeadm starts the kubelet through it", KubeletUnit::wanted(settings, me)?);
    if settings.images.preload {
        let mut before = vec!["containerd"];
        if me.role == Role::ControlPlane {
            plan.add(OWN_IMAGES, download, &before, "etcd and the API server start from them", Images::of_control_plane(settings)?);
            before = vec![OWN_IMAGES];
        }
        plan.add("images", download, &before, "loaded while the rest is prepared", Images::wanted(settings, me)?);
    }
    Ok(plan.0)
}

/// The host phases that must hold before an instance claims to found: it claims only when it can
/// found. Images are left out: they take long to load, and the others can meanwhile learn of the
/// claim.
pub fn before_claim<A>(host: &[Phase<A>]) -> Vec<String> {
    let names = host.iter().map(|phase| phase.name.clone());
    names
        .filter(|name| ![OWN_IMAGES, "images"].contains(&name.as_str()))
        .collect()
}

/// The images that a control plane's own start waits for.
const OWN_IMAGES: &str = "images-control-plane";

fn own_images(settings: &Settings) -> &'static [&'static str] {
    if settings.images.preload {
        &[OWN_IMAGES]
    } else {
        &[]
    }
}

/// Founds or joins, once it is decided which.
pub fn cluster(
    settings: &Settings,
    me: &Identity,
    machine: &MachineFacts,
    memory: &Memory,
) -> Result<Vec<Phase<Action>>> {
    let Some(membership) = &memory.membership else {
        return Ok(Vec::new());
    };
    match membership.origin {
        Origin::Founded => found(settings, me, machine, membership, memory.settled.is_some()),
        Origin::Joined => join(settings, me, machine, membership),
    }
}

#[rustfmt::skip] // one phase a line, to be read as a list
fn found(
    settings: &Settings,
    me: &Identity,
    machine: &MachineFacts,
    membership: &Membership,
    settled: bool,
) -> Result<Vec<Phase<Action>>> {
    use InitPhase as Init;
    let mut plan = Plan::new();
    let api = settings.deadlines.api;
    let init = |phase| KubeadmPhase::new(phase, settings, me);
    let prepared = [&["containerd", "kubelet-unit", "artifact-kubelet", "hosts", "swap", "artifact-kubeadm"], own_images(settings)].concat();

    plan.add("kubeadm-config", LOCAL, &["preflight"], "kubeadm's configuration", ConfigFiles::init(settings, me, machine)?);
    plan.add("kubeadm-certs", LOCAL, &["kubeadm-config", "artifact-kubeadm", "hosts"], "the cluster's certificates, while images load", init(Init::Certs)?);
    plan.add("kubeadm-kubeconfig", LOCAL, &["kubeadm-certs"], "credentials of the control plane's components", init(Init::Kubeconfig)?);
    plan.add("certificates", LOCAL, &["kubeadm-kubeconfig"], "certificates that expired while the machine was off are renewed before they are used", Renewal::new(Which::Useless, settings, me));
    plan.add("kubeadm-preflight", settings.deadlines.download, &[prepared.as_slice(), &["kubeadm-config"]].concat(), "kubeadm's own checks of the host", init(Init::Preflight)?);
    plan.add("etcd-data", LOCAL, &["preflight"], "etcd never starts without the data that it had", EtcdData { instance: me.instance_id.clone() });
    plan.add("kubeadm-etcd", LOCAL, &["certificates", "kubeadm-preflight", "etcd-data"], "etcd as a static pod", init(Init::Etcd)?);
    plan.add("kubeadm-control-plane", LOCAL, &["kubeadm-etcd"], "the API server, the controllers and the scheduler as static pods", init(Init::ControlPlane)?);
    plan.add("kubelet-certificate", settings.deadlines.join, &["kubeadm-control-plane"], "a kubelet with an expired certificate starts no pods", KubeletCertificate::new(settings, me, &membership.cluster_uid)?);
    plan.add("kubeadm-kubelet-start", LOCAL, &["kubelet-certificate"], "the kubelet starts the static pods", init(Init::KubeletStart)?);
    plan.add("api-ready", api, &["kubeadm-kubelet-start"], "the next phases call the API", ApiReady::new(settings));
    plan.add("kubeadm-upload-config", api, &["api-ready"], "joiners and upgrades read it from the cluster", init(Init::UploadConfig)?);
    plan.add("kubeadm-mark-control-plane", api, &["kubeadm-upload-config"], "workloads stay off control planes", init(Init::MarkControlPlane)?);
    plan.add("kubeadm-bootstrap-token", api, &["kubeadm-upload-config"], "the permissions of join tokens", init(Init::BootstrapToken)?);
    plan.add("kubeadm-kubelet-finalize", api, &["api-ready"], "the kubelet's certificate rotates", init(Init::KubeletFinalize)?);
    plan.add("kubeadm-addons", api, &["kubeadm-upload-config"], "CoreDNS and kube-proxy", init(Init::Addons)?);
    plan.add("no-blanket-approval", api, &["kubeadm-bootstrap-token"], "a bootstrap token is only valid for the node that it was created for", BlanketApproval::gone());
    if !settled {
        plan.add("record-cluster", api, &["kubeadm-upload-config", "no-blanket-approval"], "from here on every instance joins this cluster", RecordCluster { cluster_uid: membership.cluster_uid.clone(), founder: me.instance_id.clone() });
    }
    let mut before = vec!["kubeadm-addons".to_owned()];
    for group in Addon::of_the_founder(settings) {
        let after: Vec<&str> = before.iter().map(String::as_str).collect();
        let mut names = Vec::new();
        for addon in group {
            let name = format!("addon-{}", addon.name);
            plan.add(&name, settings.deadlines.rollout, &after, "applied from its pinned manifest", addon);
            names.push(name);
        }
        before = names;
    }
    plan.add("uncordon", api, &["kubeadm-upload-config"], "the agent cordons its node before a shutdown", Uncordon { node: me.node_name.clone() });
    plan.add("node-ready", settings.deadlines.rollout, &["kubeadm-kubelet-finalize", "kubeadm-mark-control-plane"], "pods can be scheduled here", NodeReady::new(settings, me));
    if !settled {
        let all: Vec<String> = plan.0.iter().map(|phase| phase.name.clone()).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        plan.add("settle-cluster", api, &all, "from here on the cluster is settled: no other instance founds a new one", SettleCluster { cluster_uid: membership.cluster_uid.clone(), instance: me.instance_id.clone() });
    }
    Ok(plan.0)
}

#[rustfmt::skip] // one phase a line, to be read as a list
fn join(
    settings: &Settings,
    me: &Identity,
    machine: &MachineFacts,
    membership: &Membership,
) -> Result<Vec<Phase<Action>>> {
    let mut plan = Plan::new();
    let prepared = ["containerd", "kubelet-unit", "artifact-kubelet", "hosts", "swap", "artifact-kubeadm"];
    let files = match me.role {
        // When others join through it, kubeadm uploads the certificates with the founder's file.
        Role::ControlPlane => ConfigFiles::init(settings, me, machine)?,
        Role::Worker => ConfigFiles::join(settings, me, machine)?,
    };
    plan.add("kubeadm-config", LOCAL, &["preflight"], "kubeadm's configuration", files);
    let mut before = [prepared.as_slice(), &["kubeadm-config"]].concat();
    if me.role == Role::ControlPlane {
        plan.add("etcd-data", LOCAL, &["preflight"], "etcd never starts without the data that it had", EtcdData { instance: me.instance_id.clone() });
        plan.add("certificates", LOCAL, &["kubeadm-config", "artifact-kubeadm"], "certificates that expired while the machine was off are renewed before they are used", Renewal::new(Which::Useless, settings, me));
        // While it joins, no other control plane can: it does not spend that time on downloads.
        before.extend([&["etcd-data", "certificates"], own_images(settings)].concat());
    }
    // The join service may answer as late as the cluster itself.
    let joined_within = settings.deadlines.peers + settings.deadlines.join;
    let join = Join::new(settings, me, &membership.cluster_uid)?;
    if me.role == Role::Worker {
        plan.add("join-ticket", joined_within, &["preflight"], "a control plane admits this node while its programs are fetched", Ticket::before(&join));
        before.push("join-ticket");
    }
    plan.add("kubeadm-join", joined_within, &before, "the kubelet gets its certificate for this node's name", join);
    plan.add("kubelet-certificate", joined_within, &["kubeadm-join"], "a kubelet with an expired certificate gets a new one", KubeletCertificate::new(settings, me, &membership.cluster_uid)?);
    if me.role == Role::ControlPlane {
        // kubeadm's last action, which an interrupted join may not have reached.
        plan.add("kubeadm-mark-control-plane", settings.deadlines.api, &["kubelet-certificate"], "workloads stay off control planes", KubeadmPhase::new(InitPhase::MarkControlPlane, settings, me)?);
        plan.add("no-blanket-approval", settings.deadlines.api, &["kubelet-certificate"], "a bootstrap token is only valid for the node that it was created for", BlanketApproval::gone());
    }
    plan.add("uncordon", settings.deadlines.api, &["kubelet-certificate"], "the agent cordons its node before a shutdown", Uncordon { node: me.node_name.clone() });
    plan.add("node-ready", settings.deadlines.rollout, &["kubelet-certificate"], "pods can be scheduled here", NodeReady::new(settings, me));
    Ok(plan.0)
}

#[cfg(test)]
mod tests;
