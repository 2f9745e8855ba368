//! What a pod can and cannot reach.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, json, text, until};

/// curl's exit status for a refused connection.
const NOT_TAKEN: &str = "7";

/// curl's exit status for a time-out.
const TOO_LATE: &str = "28";

const API: &str = "https://10.42.0.10:6443/";

/// curl in the network of one of w1's pods.
fn curl(pod: &str, url: &str) -> String {
    format!(
        "ip netns exec {pod} curl --silent --insecure --output /dev/null --max-time 5 {url}; echo $?"
    )
}

/// The network of a pod on w1 that can reach the API server: no network policy blocks it.
fn pod(stage: &Stage) -> Result<String, Failed> {
    let all = stage.shell("w1", "ip netns list | cut -d ' ' -f 1 | grep ^cni-")?;
    for pod in all.lines() {
        if stage.shell("w1", &curl(pod, API))?.trim() == "0" {
            return Ok(pod.to_owned());
        }
    }
    Err(format!("no pod of w1 reaches {API}: {all}").into())
}

/// Blocked are metadata, the join service and etcd, but neither the API server nor kubelets, which
/// pods may use.
pub fn a_pod_reaches_neither_the_metadata_nor_what_control_planes_keep(
    stage: &Stage,
) -> Result<(), Failed> {
    let closed = [
        "http://169.254.169.254/latest/meta-data/instance-id",
        "https://10.42.0.10:7444/",
        "https://10.42.0.10:2379/",
    ];
    let open = [API, "https://10.42.0.10:10250/"];
    let pod = pod(stage)?;
    let status = |url: &str| {
        let said = stage.shell("w1", &curl(&pod, url))?;
        Ok::<_, Failed>(said.trim().to_owned())
    };
    // etcd's handshake fails without a certificate, which still shows that it is reachable.
    let reached = |url: &str| {
        let status = status(url)?;
        let taken = status != NOT_TAKEN && status != TOO_LATE;
        ensure(taken, format!("{url}: curl ends with {status}"))
    };
    let refused = |url: &str| {
        let status = status(url)?;
        ensure(
            status == NOT_TAKEN,
            format!("{url}: curl ends with {status}"),
        )
    };
    closed.into_iter().try_for_each(refused)?;
    open.into_iter().try_for_each(reached)?;
    // Without the rules everything is reachable, so the rules do refuse; and the agent loads them
    // again.
    stage.exec("w1", &["nft", "delete", "table", "inet", "k8s-bootstrap"])?;
    closed.into_iter().try_for_each(reached)?;
    stage.exec("w1", &["systemctl", "restart", "k8s-bootstrap"])?;
    until(120, "the rules", || {
        closed.into_iter().try_for_each(refused)
    })
}

/// A kube-proxy that exits is restarted with its old rules in place: services keep working.
pub fn services_outlive_a_kube_proxy_that_is_started_again(stage: &Stage) -> Result<(), Failed> {
    // The API server's service, which every cluster has; any answer shows that it is reachable.
    const SERVICE: &str =
        "curl --silent --insecure --output /dev/null --max-time 5 https://10.96.0.1/";
    const SYNCED: &str = "curl --silent --fail localhost:10249/metrics \
        | grep -q '^kubeproxy_sync_proxy_rules_duration_seconds_count.*IPv4.* [1-9]'";
    let node = text(&stage.agent("w1")?["node"]);
    stage.shell("w1", SERVICE)?;
    // Rules mistaken for leftovers would go in the first round, and come back in the second.
    for _ in 0..2 {
        let field = format!("spec.nodeName={node}");
        let of_node = ["-l", "k8s-app=kube-proxy", "--field-selector", &field];
        let delete = ["delete", "pod", "-n", "kube-system"];
        stage.kubectl(&[&delete[..], &of_node].concat())?;
        let what = "another kube-proxy that has looked at its rules";
        until(120, what, || stage.shell("w1", SYNCED).map(drop))?;
        stage.shell("w1", SERVICE)?;
    }
    Ok(())
}

/// The kubelet asks the agent, which asks ECR. The image itself comes from the lab's registry, which
/// mirrors all others and wants no password.
pub fn an_image_of_a_private_registry_is_pulled_with_a_login_of_the_instances_role(
    stage: &Stage,
) -> Result<(), Failed> {
    let image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/lab/busybox:1";
    let request = format!(
        "{{\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"kind\":\"CredentialProviderRequest\",\"image\":\"{image}\"}}"
    );
    let line = format!("echo '{request}' | k8s-bootstrap credential-provider");
    let answer = json(&stage.shell("w1", &line)?)?;
    let login = &answer["auth"]["123456789012.dkr.ecr.eu-central-1.amazonaws.com"];
    ensure(login["username"] == "AWS", answer.to_string())?;
    ensure(login["password"].is_string(), answer.to_string())?;

    let node = runs_on_w1(stage, "e2e-private", image)?;
    let metrics = stage.kubectl(&[
        "get",
        "--raw",
        &format!("/api/v1/nodes/{node}/proxy/metrics"),
    ])?;
    let of = |name: &str| -> Vec<String> {
        let of_ours = |line: &&str| line.starts_with(name) && line.contains("k8s-bootstrap");
        metrics.lines().filter(of_ours).map(str::to_owned).collect()
    };
    let (asked, failed) = (
        of("kubelet_credential_provider_plugin_duration_count"),
        of("kubelet_credential_provider_plugin_errors_total"),
    );
    ensure(!asked.is_empty(), "the kubelet did not ask the agent")?;
    ensure(failed.is_empty(), failed.join("\n"))
}

/// Runs a pod from this image on w1, which pulls it; returns the name of w1's node.
fn runs_on_w1(stage: &Stage, name: &str, image: &str) -> Result<String, Failed> {
    let node = stage.shell("w1", "hostname -f")?.trim().to_owned();
    let mut pod = crate::stage::pod(name, &node, "sleep 600");
    pod["spec"]["containers"][0]["image"] = image.into();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), pod.to_string())?;
    stage.kubectl(&["apply", "-f", &file.path().to_string_lossy()])?;
    let pod = format!("pod/{name}");
    let outcome = stage.kubectl(&["wait", "--for=condition=Ready", &pod, "--timeout=90s"]);
    stage.kubectl(&["delete", &pod, "--wait=false"])?;
    outcome?;
    Ok(node)
}

/// Another registry than ECR, which serves nobody without its login.
pub fn an_image_is_pulled_with_a_login_of_the_settings(stage: &Stage) -> Result<(), Failed> {
    let registry = format!("10.42.0.4:{}", lab::registry::PRIVATE_PORT);
    let url = format!("http://{registry}/v2/");
    let status = "curl --silent --output /dev/null --write-out %{http_code}";
    let refused = stage.shell("w1", &format!("{status} {url}"))?;
    ensure(refused == "401", refused)?;
    let login = lab::registry::LOGIN;
    let line = format!("umask 077; echo '{login}' > /etc/lab-registry-login");
    stage.shell("w1", &line)?;
    runs_on_w1(stage, "e2e-login", &format!("{registry}/lab/busybox:1"))?;
    Ok(())
}
