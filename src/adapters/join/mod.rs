//! The join service's sockets: the server on control planes, and the client of joining nodes.
//!
//! | request | answer |
//! |---|---|
//! | `GET /nonce` | a nonce as text |
//! | `POST /join`, an [`Application`] as JSON | an [`Admission`] as JSON |
//!
//! A status other than 200 has the reason as text. The server's TLS certificate is the API server's
//! own: it is signed by the cluster's CA and has the name [`SERVER_NAME`], which no kubelet's
//! certificate has, so a server that shows it is a control plane of this cluster.
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

/// A name that every API server's certificate has, as kubeadm creates it.
const SERVER_NAME: &str = "kubernetes.default.svc";

#[cfg(test)]
mod tests;
