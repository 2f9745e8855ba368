//! Where the API server listens.

/// The port of an API server on a control plane.
pub const API_PORT: u16 = 6443;

/// The agent's own balancer in front of the control planes, on every node.
pub const LOCAL_ENDPOINT: &str = "127.0.0.1:7443";
