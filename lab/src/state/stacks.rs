//! CloudFormation stacks of the lab's account.

use serde::{Deserialize, Serialize};

/// A stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Unique in the account.
    pub name: String,
    /// Its Auto Scaling groups.
    pub groups: Vec<Group>,
    /// What its security groups admit.
    pub rules: Vec<Rule>,
}

/// An Auto Scaling group of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// `CLUSTER-ROLEs`.
    pub name: String,
    /// The id of its launch template.
    pub launch_template: String,
    /// How long it waits for the hooks of an instance that it terminates, in seconds.
    pub heartbeat: u64,
}

/// An ingress rule of a security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The id of the group that admits.
    pub to: String,
    /// Whom it admits.
    pub from: Peers,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// First and last port.
    pub ports: (u16, u16),
}

/// Whom a rule admits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peers {
    /// The machines of a security group, by its id.
    Group(String),
    /// The addresses of a network in CIDR notation.
    Network(String),
}
