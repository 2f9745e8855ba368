//! Pure functions from settings, identity and machine to the documents that kubeadm reads.
//!
//! Documents are written as JSON, separated by `---`: kubeadm reads YAML 1.1, and JSON is the
//! subset that all parsers read alike.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    documents::{
        ApiEndpoint, ApiServer, Arg, BootstrapTokenSpec, ClusterConfiguration, Component,
        Discovery, DiscoveryFile, Etcd, Image, InitConfiguration, JoinConfiguration,
        JoinControlPlane, KUBEADM_API, KubeProxyConfiguration, KubeletConfiguration, LocalEtcd,
        Networking, NodeRegistration, Patches, Timeouts,
    },
    reserved,
};
use crate::{
    config::{Overrides, Settings},
    error::{Context, Error, Result},
    identity::{Identity, Taint},
    kubernetes::{API_PORT, LOCAL_ENDPOINT, node::CONTROL_PLANE, paths},
    ports::{MachineFacts, Role},
};

const MAX_PODS: u32 = 110;

/// `host:port` of the API as nodes reach it.
pub fn endpoint(settings: &Settings) -> &str {
    match settings.cluster.endpoint.as_str() {
        "local" => LOCAL_ENDPOINT,
        other => other,
    }
}

/// The founder's documents, as one file.
pub fn init_file(
    settings: &Settings,
    identity: &Identity,
    machine: &MachineFacts,
) -> Result<String> {
    let generated = cluster(settings, identity);
    let shared = merged(&generated, &settings.kubeadm.cluster)?;
    keeps_arguments(&generated, &shared)?;
    let init = init(settings, identity)?;
    let own = init.node_registration.kubelet_extra_args.clone();
    let documents = [
        with_kubelet_arguments(merged(&init, &settings.kubeadm.init)?, &own),
        shared,
        merged(&kubelet(settings)?, &Overrides::new())?,
        merged(&proxy(machine), &settings.kube_proxy.config)?,
    ];
    let mut file = String::new();
    for document in documents {
        file.push_str("---\n");
        file.push_str(&pretty(&document)?);
    }
    Ok(file)
}

/// A joiner's document without the secrets.
pub fn join_document(settings: &Settings, identity: &Identity) -> Result<Value> {
    let join = join(settings, identity)?;
    let own = join.node_registration.kubelet_extra_args.clone();
    let document = merged(&join, &settings.kubeadm.join)?;
    Ok(with_kubelet_arguments(document, &own))
}

/// Adds the kubelet's generated arguments to a list that replaced them. They differ from node to node,
/// so settings for several nodes cannot repeat them.
fn with_kubelet_arguments(mut document: Value, own: &[Arg]) -> Value {
    let list = &mut document["nodeRegistration"]["kubeletExtraArgs"];
    if let Some(list) = list.as_array_mut() {
        for Arg { name, value } in own {
            if !list.iter().any(|given| given["name"] == *name) {
                list.push(json!({"name": name, "value": value}));
            }
        }
    }
    document
}

/// The node-specific part of the KubeletConfiguration, and the user's overrides.
///
/// kubeadm gives every joiner the founder's KubeletConfiguration, so a provider ID or a reservation
/// in it would apply to every node; kubeadm applies this merge patch only to this node's copy.
pub fn kubelet_patch(
    settings: &Settings,
    identity: &Identity,
    machine: &MachineFacts,
) -> Result<Value> {
    let user = &settings.kubelet.config;
    let max_pods = user
        .get("maxPods")
        .and_then(Value::as_u64)
        .unwrap_or(u64::from(MAX_PODS));
    let own = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "providerID": identity.provider_id,
        "kubeReserved": reserved::reserved(machine.cpus, machine.memory_bytes, max_pods),
    });
    let patch = merged(&own, user)?;
    let reservations: Vec<Value> = ["kubeReserved", "systemReserved"]
        .into_iter()
        .filter_map(|key| patch.get(key).cloned())
        .collect();
    reserved::check_room(machine.cpus, machine.memory_bytes, &reservations)?;
    Ok(patch)
}

/// A JSON document as it is written to a file.
pub fn pretty(document: &Value) -> Result<String> {
    let mut text = serde_json::to_string_pretty(document)
        .requiring(|| "cannot serialize a kubeadm document".to_owned())?;
    text.push('\n');
    Ok(text)
}

fn merged(document: &impl Serialize, overrides: &Overrides) -> Result<Value> {
    let mut value = serde_json::to_value(document)
        .requiring(|| "cannot convert a kubeadm document to JSON".to_owned())?;
    json_patch::merge(&mut value, &Value::Object(overrides.clone()));
    Ok(value)
}

/// Refuses a list of arguments that replaced a generated one and lacks some of its names: the
/// component would run without them, and nothing would say so.
fn keeps_arguments(generated: &ClusterConfiguration, shared: &Value) -> Result<()> {
    for (component, generated) in [
        ("apiServer", &generated.api_server.extra_args),
        (
            "controllerManager",
            &generated.controller_manager.extra_args,
        ),
        ("scheduler", &generated.scheduler.extra_args),
        ("etcd.local", &generated.etcd.local.extra_args),
    ] {
        let fields = component.split('.').chain(["extraArgs"]);
        let list = fields.fold(shared, |value, field| &value[field]);
        let list = list.as_array().map_or(&[][..], Vec::as_slice);
        let missing = generated
            .iter()
            .filter(|argument| !list.iter().any(|given| given["name"] == argument.name));
        let (names, lines): (Vec<_>, Vec<_>) = missing
            .map(|Arg { name, value }| {
                let line = format!("{{ name = \"{name}\", value = \"{value}\" }}");
                (format!("`{name}`"), line)
            })
            .unzip();
        if !names.is_empty() {
            return Err(Error::refused(format!(
                "kubeadm.cluster.{component}.extraArgs: the list replaces the generated one and lacks {}",
                names.join(", ")
            ))
            .hint(format!(
                "include these, each with this value or another: {}",
                lines.join(", ")
            )));
        }
    }
    Ok(())
}

fn cluster(settings: &Settings, identity: &Identity) -> ClusterConfiguration {
    let quiet = || Arg::new("profiling", "false");
    let kubernetes = &settings.kubernetes;
    ClusterConfiguration {
        api_version: KUBEADM_API,
        kind: "ClusterConfiguration",
        cluster_name: identity.cluster.clone(),
        kubernetes_version: format!("v{}", kubernetes.version.trim_start_matches('v')),
        control_plane_endpoint: endpoint(settings).to_owned(),
        image_repository: kubernetes.image_repository.clone(),
        certificate_validity_period: seconds(settings.certificates.lifetime),
        ca_certificate_validity_period: seconds(settings.certificates.ca_lifetime),
        networking: Networking {
            service_subnet: settings.cluster.service_cidr.clone(),
            pod_subnet: settings.cluster.pod_cidr.clone(),
            dns_domain: settings.cluster.dns_domain.clone(),
        },
        api_server: ApiServer {
            extra_args: api_server(settings),
            cert_sans: vec![
                "127.0.0.1".to_owned(),
                "localhost".to_owned(),
                identity.private_ip.to_string(),
                identity.node_name.clone(),
            ],
        },
        // The defaults (20/30) sign 11 kubelet certificates a second; these sign 148.
        controller_manager: Component {
            extra_args: vec![
                quiet(),
                Arg::new("kube-api-qps", "500"),
                Arg::new("kube-api-burst", "1000"),
                Arg::new(
                    "cluster-signing-duration",
                    seconds(settings.certificates.kubelet_lifetime),
                ),
            ],
        },
        scheduler: Component {
            extra_args: vec![quiet()],
        },
        etcd: Etcd {
            local: LocalEtcd {
                data_dir: paths::ETCD,
                image_tag: kubernetes.etcd_tag.clone(),
                extra_args: etcd(settings),
            },
        },
        dns: Image {
            image_tag: kubernetes.coredns_tag.clone(),
        },
    }
}

fn api_server(settings: &Settings) -> Vec<Arg> {
    let mut args = vec![
        Arg::new("profiling", "false"),
        // kubelets serve with certificates that the cluster's CA signed: see `join`.
        Arg::new("kubelet-certificate-authority", paths::CA),
        // How long it still serves after it reports not ready: until the agents' balancers have
        // probed it twice and moved on.
        Arg::new("shutdown-delay-duration", "5s"),
        // Then it ends watches. Without this they keep it running until the kubelet kills it after
        // 30 s, during which its port is closed and its successor not started.
        Arg::new("shutdown-watch-termination-grace-period", "10s"),
    ];
    let accounts = &settings.service_accounts;
    if accounts.are_public() {
        let own = format!(
            "https://kubernetes.default.svc.{}",
            settings.cluster.dns_domain
        );
        let issuer = |url: &str| Arg::new("service-account-issuer", url);
        // The first one issues tokens. Those of the second, which kubeadm sets by itself, are valid
        // as well, so that a cluster can change from one to the other.
        args.extend([issuer(&accounts.issuer), issuer(&own)]);
        args.push(Arg::new("service-account-jwks-uri", accounts.keys_url()));
    }
    args
}

/// etcd's flags, with their names since version 3.6.
/// <https://etcd.io/docs/v3.6/op-guide/configuration/>
fn etcd(settings: &Settings) -> Vec<Arg> {
    let mut args = vec![Arg::new(
        "quota-backend-bytes",
        settings.etcd.quota_bytes.to_string(),
    )];
    if settings.etcd.check_corruption {
        // Of the two checks of a running member, the cheap one: the API server compacts every five
        // minutes.
        args.push(Arg::new(
            "feature-gates",
            "InitialCorruptCheck=true,CompactHashCheck=true",
        ));
    }
    args
}

fn init(settings: &Settings, identity: &Identity) -> Result<InitConfiguration> {
    Ok(InitConfiguration {
        api_version: KUBEADM_API,
        kind: "InitConfiguration",
        node_registration: node(settings, identity)?,
        local_api_endpoint: own_api(identity),
        bootstrap_tokens: vec![BootstrapTokenSpec::unusable()],
        patches: patches(),
        timeouts: timeouts(settings),
    })
}

fn join(settings: &Settings, identity: &Identity) -> Result<JoinConfiguration> {
    Ok(JoinConfiguration {
        api_version: KUBEADM_API,
        kind: "JoinConfiguration",
        node_registration: node(settings, identity)?,
        discovery: Discovery {
            file: DiscoveryFile {
                kube_config_path: paths::DISCOVERY_CONF,
            },
            tls_bootstrap_token: String::new(),
        },
        control_plane: (identity.role == Role::ControlPlane).then(|| JoinControlPlane {
            local_api_endpoint: own_api(identity),
            certificate_key: String::new(),
        }),
        patches: patches(),
        timeouts: timeouts(settings),
    })
}

fn node(settings: &Settings, identity: &Identity) -> Result<NodeRegistration> {
    let mut kubelet_extra_args = vec![Arg::new("node-ip", identity.private_ip.to_string())];
    let labels = kubelet_labels(identity)?;
    if !labels.is_empty() {
        kubelet_extra_args.push(Arg::new("node-labels", labels));
    }
    Ok(NodeRegistration {
        name: identity.node_name.clone(),
        cri_socket: paths::CRI_SOCKET,
        taints: taints(identity),
        kubelet_extra_args,
        // Preloading has a phase of its own, and its errors say more than kubeadm's.
        image_pull_policy: if settings.images.preload {
            "Never"
        } else {
            "IfNotPresent"
        },
        image_pull_serial: false,
        ignore_preflight_errors: settings.kubeadm.ignore_preflight_errors.clone(),
    })
}

/// All taints; adds the control plane's own if the identity lacks it.
fn taints(identity: &Identity) -> Vec<Taint> {
    let mut taints = identity.taints.clone();
    if identity.role == Role::ControlPlane && !taints.iter().any(|t| t.key == CONTROL_PLANE) {
        taints.push(Taint {
            key: CONTROL_PLANE.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        });
    }
    taints
}

/// The labels in the format of `--node-labels`.
fn kubelet_labels(identity: &Identity) -> Result<String> {
    let mut pairs = Vec::new();
    for (key, value) in &identity.labels {
        // kubeadm sets this label itself; the kubelet may not.
        if key == CONTROL_PLANE {
            continue;
        }
        if !kubelet_may_set(key) {
            return Err(Error::refused(format!(
                "a node may not give itself the label `{key}`: the kubelet would not start"
            ))
            .hint(
                "use a label outside kubernetes.io and k8s.io, or one below node.kubernetes.io/",
            ));
        }
        pairs.push(format!("{key}={value}"));
    }
    Ok(pairs.join(","))
}

/// The rule of the kubelet and of the `NodeRestriction` admission plugin.
fn kubelet_may_set(key: &str) -> bool {
    const NAMED: [&str; 10] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
    ];
    let Some((namespace, _)) = key.split_once('/') else {
        return true;
    };
    let within = |domain: &str| {
        namespace
            .strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let reserved = within("kubernetes.io") || within("k8s.io");
    !reserved
        || NAMED.contains(&key)
        || within("node.kubernetes.io")
        || within("kubelet.kubernetes.io")
}

fn own_api(identity: &Identity) -> ApiEndpoint {
    ApiEndpoint {
        advertise_address: identity.private_ip,
        bind_port: API_PORT,
    }
}

fn patches() -> Patches {
    Patches {
        directory: paths::PATCHES,
    }
}

/// In Go's duration format.
fn seconds(seconds: u64) -> String {
    format!("{seconds}s")
}

fn timeouts(settings: &Settings) -> Timeouts {
    Timeouts {
        control_plane_component_health_check: seconds(settings.deadlines.api),
        kubelet_health_check: seconds(settings.deadlines.api),
        kubernetes_api_call: seconds(60),
        etcd_api_call: seconds(120),
        tls_bootstrap: seconds(settings.deadlines.join),
        discovery: seconds(settings.deadlines.join),
    }
}

fn kubelet(settings: &Settings) -> Result<KubeletConfiguration> {
    Ok(KubeletConfiguration {
        api_version: "kubelet.config.k8s.io/v1beta1",
        kind: "KubeletConfiguration",
        cgroup_driver: "systemd",
        cluster_dns: vec![cluster_dns(&settings.cluster.service_cidr)?],
        cluster_domain: settings.cluster.dns_domain.clone(),
        max_pods: MAX_PODS,
        protect_kernel_defaults: false,
        rotate_certificates: true,
        server_tls_bootstrap: true,
    })
}

/// The tenth address of the services' range, which kubeadm gives to CoreDNS.
fn cluster_dns(service_cidr: &str) -> Result<IpAddr> {
    let refused = |why: &str| {
        Error::refused(format!("cluster.service_cidr `{service_cidr}` {why}"))
            .hint("use one IPv4 range such as \"10.96.0.0/12\"")
    };
    let (address, length) = service_cidr
        .split_once('/')
        .ok_or_else(|| refused("has no `/`"))?;
    let address: Ipv4Addr = address
        .parse()
        .map_err(|_| refused("does not start with an IPv4 address"))?;
    let length: u32 = length
        .parse()
        .map_err(|_| refused("does not end with a prefix length"))?;
    if length > 28 {
        return Err(refused("is smaller than /28, too small for a cluster"));
    }
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Ok(IpAddr::V4(Ipv4Addr::from((address.to_bits() & mask) + 10)))
}

fn proxy(machine: &MachineFacts) -> KubeProxyConfiguration {
    KubeProxyConfiguration {
        api_version: "kubeproxy.config.k8s.io/v1alpha1",
        kind: "KubeProxyConfiguration",
        mode: if kernel_at_least(&machine.kernel, 5, 13) {
            "nftables"
        } else {
            "iptables"
        },
    }
}

/// Whether a release such as `6.8.0-1030-aws` is at least this version; false if it cannot be
/// parsed.
fn kernel_at_least(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b))) => (a, b) >= (major, minor),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
