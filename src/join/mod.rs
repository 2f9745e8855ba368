//! Who may join: how a control plane judges nodes that ask to be admitted, and the certificates
//! that kubelets request.
//!
//! ```text
//! nonce                      for this address only, valid once, for a minute      nonces
//! signed GetCallerIdentity   only this form is forwarded to STS                   proof
//! what STS and EC2 report    same account, an allowed role, this instance         judge
//! Node                       created from EC2's data, before the kubelet starts   node
//! join lock                  control planes join one after the other              lock
//! settled                    recorded in the store before a third one joins       settle
//! bootstrap token            for one node's name, ten minutes, one certificate    tokens
//! certificate requests       with that token and for that name only               csr, approver
//! ```
//!
//! Decisions are pure and separate from [`service`] and [`approver`], which carry them out.

pub mod approver;
mod csr;
mod judge;
mod limits;
pub mod lock;
pub mod node;
mod nonces;
mod proof;
mod refusal;
pub mod service;
mod settle;
mod tokens;

pub use judge::{Case, NodeIs, Rules, judge};
pub use limits::Limits;
pub use proof::{BODY, CLUSTER_HEADER, CONTENT_TYPE, NONCE_HEADER};
pub use refusal::Refusal;
pub use service::JoinService;
pub use settle::before_the_third;
