//! The files that kubeadm, the kubelet and the agent share.

/// containerd's socket.
pub const CRI_SOCKET: &str = "unix:///run/containerd/containerd.sock";
/// kubeadm's folder.
pub const KUBERNETES: &str = "/etc/kubernetes";
/// The API server's certificate.
pub const API_SERVER: &str = "/etc/kubernetes/pki/apiserver.crt";
/// The API server's key.
pub const API_SERVER_KEY: &str = "/etc/kubernetes/pki/apiserver.key";
/// Certificates and keys.
pub const PKI: &str = "/etc/kubernetes/pki";
/// Certificates and keys of etcd's members and clients.
pub const ETCD_PKI: &str = "/etc/kubernetes/pki/etcd";
/// The cluster CA's certificate.
pub const CA: &str = "/etc/kubernetes/pki/ca.crt";
/// Static pods.
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// The administrator's kubeconfig, on control planes.
pub const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";
/// The kubelet's kubeconfig.
pub const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";
/// The kubelet's kubeconfig until it has a certificate; holds a token.
pub const BOOTSTRAP_KUBELET_CONF: &str = "/etc/kubernetes/bootstrap-kubelet.conf";
/// The founder's configuration.
pub const INIT_CONFIG: &str = "/etc/kubernetes/k8s-bootstrap/kubeadm.yaml";
/// A joiner's configuration; exists only while it joins, since it holds the token.
pub const JOIN_CONFIG: &str = "/etc/kubernetes/k8s-bootstrap/join.yaml";
/// The cluster's address and the CA that a joiner trusts; exists only while it joins.
pub const DISCOVERY_CONF: &str = "/etc/kubernetes/k8s-bootstrap/discovery.conf";
/// Where the kubelet gets passwords of registries.
pub const CREDENTIAL_PROVIDERS: &str = "/etc/kubernetes/k8s-bootstrap/credential-providers.json";
/// This node's changes to shared documents.
pub const PATCHES: &str = "/etc/kubernetes/k8s-bootstrap/patches";
/// The merge patch for the KubeletConfiguration; kubeadm reads target and kind from the name.
pub const KUBELET_PATCH: &str =
    "/etc/kubernetes/k8s-bootstrap/patches/kubeletconfiguration+merge.json";
/// Exists once kubeadm's preflight checks have passed.
pub const PREFLIGHT_PASSED: &str = "/etc/kubernetes/k8s-bootstrap/preflight-passed";
/// Exists once a control plane's join is complete.
pub const JOINED: &str = "/etc/kubernetes/k8s-bootstrap/joined";
/// The kubelet's configuration.
pub const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// The kubelet's flags.
pub const KUBELET_FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";
/// The kubelet's client certificate and key, replaced as it rotates.
pub const KUBELET_CLIENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// etcd's data.
pub const ETCD: &str = "/var/lib/etcd";
/// Exists once etcd has run.
pub const ETCD_MEMBER: &str = "/var/lib/etcd/member";
