//! Where the components of Kubernetes listen, as kubeadm sets them up.

/// The port of an API server on a control plane.
pub const API_PORT: u16 = 6443;

/// The port on which a member of etcd answers its clients.
pub const ETCD_PORT: u16 = 2379;

/// The port on which a member of etcd answers other members.
pub const ETCD_PEER_PORT: u16 = 2380;

/// The kubelet's port, on every node.
pub const KUBELET_PORT: u16 = 10250;

/// The controller manager's port.
pub const CONTROLLER_MANAGER_PORT: u16 = 10257;

/// The scheduler's port.
pub const SCHEDULER_PORT: u16 = 10259;

/// The agent's own balancer in front of the control planes, on every node.
pub const LOCAL_ENDPOINT: &str = "127.0.0.1:7443";

/// Where the agent serves the contents of its bundle to this node.
pub const BUNDLE_SERVER: &str = "127.0.0.1:7445";
