//! The join service's sockets: the server on control planes, and the client of those that join.
//!
//! | request | answer |
//! |---|---|
//! | `GET /nonce` | a nonce as text |
//! | `POST /join`, an [`Application`] as JSON | an [`Admission`] as JSON |
//!
//! Any other status than 200 has the reason as text. TLS ends at the API server's own
//! certificate: it is signed by the cluster's CA and has the name [`SERVER_NAME`], which no
//! kubelet's certificate has, so whoever shows it is a control plane of this cluster.
//!
//! [`Application`]: crate::join::service::Application
//! [`Admission`]: crate::join::service::Admission

mod certificate;
mod client;
mod pin;
mod server;
mod shown;

pub use certificate::Certificate;
pub use client::JoinClient;
pub use server::{Times, listen, serve};
pub use shown::ShownCertificates;

/// A name that every API server's certificate has, as kubeadm makes it.
const SERVER_NAME: &str = "kubernetes.default.svc";

#[cfg(test)]
mod tests;
