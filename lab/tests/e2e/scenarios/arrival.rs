//! The cluster is founded.

use std::process::Command;

use lab::metrics::total;
use lab::network::ARTIFACTS;
use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, list, pod, text, until};

/// Maximum size of the binary that every instance downloads at its first boot, in bytes. It
/// includes the simulation.
const LARGEST: u64 = 13_000_000;

pub fn the_binary_is_static_and_small(_: &Stage) -> Result<(), Failed> {
    let layout = lab::layout::Layout::find()?;
    let binary = lab::userdata::agent_binary(&layout)?;
    let bytes = std::fs::metadata(&binary)?.len();
    ensure(
        bytes <= LARGEST,
        format!("the binary has {bytes} bytes, more than {LARGEST}"),
    )?;
    let said = Command::new("ldd").arg(&binary).output()?;
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    ensure(
        said.contains("statically linked") || said.contains("not a dynamic executable"),
        format!("ldd says: {said}"),
    )?;
    let kind = Command::new("file").arg("-b").arg(&binary).output()?;
    let kind = String::from_utf8_lossy(&kind.stdout).into_owned();
    ensure(kind.contains("static"), format!("file says: {kind}"))
}

pub fn three_instances_become_a_cluster(stage: &Stage) -> Result<(), Failed> {
    stage
        .lab(&["up", "--control-planes", "1", "--workers", "2"])
        .inspect_err(|_| stage.no_cluster())?;
    let ready = stage.ready_nodes()?;
    ensure(ready.len() == 3, format!("Ready are only {ready:?}"))?;
    for node in list(&stage.get(&["nodes"])?["items"]) {
        let labels = &node["metadata"]["labels"];
        ensure(
            text(&labels["topology.kubernetes.io/zone"]).starts_with("eu-central-1"),
            format!("no zone: {labels}"),
        )?;
        let provider = text(&node["spec"]["providerID"]);
        ensure(
            provider.starts_with("aws:///eu-central-1"),
            format!("provider id: {provider}"),
        )?;
    }
    Ok(())
}

/// What a worker's boot may cost: it is counted, since seconds differ from machine to machine. The
/// least of both workers counts, as either may have had to repeat something. How often they ask AWS
/// depends on how long they wait for the cluster.
const WORK: [(&str, f64); 2] = [
    ("k8s_bootstrap_programs_total", 35.0),
    // kubeadm, kubelet, containerd, runc and CNI plugins, compressed where they are published so.
    ("k8s_bootstrap_downloaded_bytes_total", 225e6),
];

pub fn a_worker_becomes_ready_with_little_work(stage: &Stage) -> Result<(), Failed> {
    let ask = format!("curl --silent --fail {}", lab::metrics::URL);
    let (one, other) = (stage.shell("w1", &ask)?, stage.shell("w2", &ask)?);
    for (name, most) in WORK {
        let (one, other) = (total(&one, name), total(&other, name));
        let least = one.min(other);
        ensure(
            least > 0.0 && least <= most,
            format!("{name}: {one} and {other}, more than {most}"),
        )?;
        println!("{name}: {one} and {other}");
    }
    Ok(())
}

pub fn every_pod_of_kube_system_is_ready(stage: &Stage) -> Result<(), Failed> {
    until(180, "pods of kube-system", || {
        let pods = stage.get(&["pods", "-n", "kube-system"])?;
        let not_ready: Vec<String> = list(&pods["items"])
            .iter()
            .filter(|pod| {
                !list(&pod["status"]["conditions"])
                    .iter()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True")
            })
            .map(|pod| text(&pod["metadata"]["name"]))
            .collect();
        // etcd, API server, scheduler, controllers, two CoreDNS, kube-controllers; a proxy and a calico-node each.
        let count = list(&pods["items"]).len();
        ensure(
            not_ready.is_empty() && count >= 13,
            format!("{count} pods, not Ready: {not_ready:?}"),
        )
    })
}

/// A server on one worker and a client on the other: they connect by service name, so through
/// CoreDNS, kube-proxy and the VXLAN between the nodes.
/// EC2's source/destination check drops packets of addresses that are not the machine's. Pods get
/// the MTU of a VPC without the tunnel's header.
pub fn the_network_is_as_strict_and_as_wide_as_a_vpc(stage: &Stage) -> Result<(), Failed> {
    let foreign = "10.42.0.250";
    let ask = format!("curl --silent --output /dev/null --connect-timeout 3 http://{ARTIFACTS}/");
    stage.shell("w1", &ask)?;
    stage.shell("w1", &format!("ip address add {foreign}/32 dev lo"))?;
    let asked = stage.shell("w1", &format!("! {ask} --interface {foreign}"));
    stage.shell("w1", &format!("ip address del {foreign}/32 dev lo"))?;
    asked?;
    let mtu =
        "for link in eth0 vxlan.calico; do ip -o link show $link | grep -o 'mtu [0-9]*'; done";
    let mtu = stage.shell("w1", mtu)?;
    ensure(
        mtu == "mtu 9001\nmtu 8951\n",
        format!("eth0 and the tunnel have {mtu:?}"),
    )
}

pub fn pods_on_different_workers_reach_each_other_by_name(stage: &Stage) -> Result<(), Failed> {
    let nodes = stage.get(&["nodes", "-l", "!node-role.kubernetes.io/control-plane"])?;
    let workers: Vec<String> = list(&nodes["items"])
        .iter()
        .map(|n| text(&n["metadata"]["name"]))
        .collect();
    ensure(workers.len() >= 2, format!("workers: {workers:?}"))?;
    let objects = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [
        pod("e2e-server", &workers[0], "mkdir /www && echo hello > /www/index.html && head -c 1000000 /dev/zero > /www/large && httpd -f -p 8080 -h /www"),
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "e2e-server" },
          "spec": { "selector": { "app": "e2e-server" }, "ports": [{ "port": 80, "targetPort": 8080 }] } },
        pod("e2e-client", &workers[1], "until timeout 5 wget -q -O - http://e2e-server.default.svc.cluster.local; do sleep 0.3; done; \
             wget -q -O - http://e2e-server.default.svc.cluster.local/large | wc -c"),
    ]});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), objects.to_string())?;
    let path = file.path().display().to_string();
    stage.kubectl(&["apply", "-f", &path])?;
    let said = until(120, "the client's answer", || {
        let client = stage.get(&["pod", "e2e-client"])?;
        ensure(
            client["status"]["phase"] == "Succeeded",
            format!("the client is {}", client["status"]),
        )?;
        stage.kubectl(&["logs", "e2e-client"])
    })?;
    // EC2's source/destination check would drop packets that bypass the tunnel.
    let routes = stage.shell("w1", "ip route show dev vxlan.calico")?;
    ensure(
        routes.lines().count() == 2,
        format!("routes through the tunnel to the two other nodes' pods: {routes}"),
    )?;
    stage.kubectl(&["delete", "-f", &path, "--now"])?;
    // Full packets, of the tunnel's MTU, arrive as well.
    ensure(
        said == "hello\n1000000\n",
        format!("the client read {said:?}"),
    )
}
