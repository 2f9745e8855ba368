//! How nodes joined: each with its own proof of identity.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, list, text, until};

/// No secret is in the store, no token is in the cluster, and kubeadm's blanket approval is gone.
pub fn nothing_is_left_that_would_let_anybody_in(stage: &Stage) -> Result<(), Failed> {
    let bindings = stage.get(&["clusterrolebindings"])?;
    let names: Vec<String> = list(&bindings["items"])
        .iter()
        .map(|binding| text(&binding["metadata"]["name"]))
        .collect();
    ensure(
        !names
            .iter()
            .any(|n| n == "kubeadm:node-autoapprove-bootstrap"),
        "kubeadm's binding for bootstrap tokens exists",
    )?;
    ensure(
        names
            .iter()
            .any(|n| n == "kubeadm:node-autoapprove-certificate-rotation"),
        "kubelets cannot renew their certificates",
    )?;
    until(30, "tokens that have been used to go", || {
        let secrets = stage.get(&["secrets", "-n", "kube-system"])?;
        let ours: Vec<String> = list(&secrets["items"])
            .iter()
            .filter(|secret| !secret["metadata"]["annotations"]["k8s-bootstrap.io/node"].is_null())
            .map(|secret| text(&secret["metadata"]["name"]))
            .collect();
        ensure(ours.is_empty(), format!("tokens are left: {ours:?}"))
    })?;
    let said = stage.shell("cp1", "journalctl -u k8s-bootstrap -o cat --no-pager")?;
    for worker in ["w1", "w2"] {
        let node = text(&stage.agent(worker)?["node"]);
        let joined = said
            .lines()
            .any(|line| line.contains(&format!("joins as {node}, proven by")));
        ensure(
            joined,
            format!("the control plane does not say that {node} proved itself"),
        )?;
    }
    Ok(())
}

/// The API server verifies the kubelet when it fetches logs, so this works only with a certificate
/// of the cluster's CA for the kubelet's own address.
pub fn kubelets_serve_with_certificates_of_the_clusters_ca(stage: &Stage) -> Result<(), Failed> {
    let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    stage.shell(
        "cp1",
        &format!("grep -q kubelet-certificate-authority=/etc/kubernetes/pki/ca.crt {manifest}"),
    )?;
    for machine in ["cp1", "w1", "w2"] {
        let node = text(&stage.agent(machine)?["node"]);
        let pods = stage.get(&[
            "pods",
            "-n",
            "kube-system",
            "-l",
            "k8s-app=kube-proxy",
            "--field-selector",
            &format!("spec.nodeName={node}"),
        ])?;
        let pod = list(&pods["items"])
            .first()
            .map(|pod| text(&pod["metadata"]["name"]))
            .unwrap_or_default();
        let logs = stage.kubectl(&["logs", "-n", "kube-system", "--tail=1", &pod])?;
        ensure(
            !logs.trim().is_empty(),
            format!("{pod} on {machine} has no logs"),
        )?;
    }
    Ok(())
}
