//! Who may join: how a control plane judges nodes that ask to be admitted, and the certificates
//! that kubelets request.
//!
//! ```text
//! nonce                      one for this source, good once and for a minute      nonces
//! signed GetCallerIdentity   the form that alone is forwarded to STS              proof
//! what STS and EC2 say       the account's, this role, this very instance         judge
//! Node                       made of what EC2 says, before the kubelet comes      node
//! join lock                  of control planes, one after the other               lock
//! settled                    in the store, before there is a third                settle
//! bootstrap token            for one node's name, ten minutes, one certificate    tokens
//! certificate requests       by that token and for that name only                 csr, approver
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
