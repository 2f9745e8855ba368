//! Who this instance is, for Kubernetes and for its peers.

mod label;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Settings, tags},
    error::{Error, Result},
    kubernetes::node::{CONTROL_PLANE, provider_id},
    ports::{InstanceFacts, MachineFacts, Role},
};

/// The label with the availability zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The label with the region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// The label with the instance type.
pub const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// This instance's identity. Fixed for the life of the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's name, from the instance's tag or the settings.
    pub cluster: String,
    /// What the node is for.
    pub role: Role,
    /// The Kubernetes node name: EC2's private DNS name.
    pub node_name: String,
    /// `i-0123456789abcdef0`.
    pub instance_id: String,
    /// `aws:///eu-central-1a/i-0123456789abcdef0`.
    pub provider_id: String,
    /// `eu-central-1`.
    pub region: String,
    /// `eu-central-1a`.
    pub zone: String,
    /// The primary private address: the kubelet's node IP.
    pub private_ip: Ipv4Addr,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// All labels of the node.
    pub labels: BTreeMap<String, String>,
    /// All taints of the node.
    pub taints: Vec<Taint>,
}

/// A Kubernetes taint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Taint {
    /// `NAME` or `DOMAIN/NAME`.
    pub key: String,
    /// May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Identity {
    /// Derives the identity. An invalid value is refused with the setting or tag that it came from.
    pub fn resolve(
        settings: &Settings,
        facts: &InstanceFacts,
        machine: &MachineFacts,
    ) -> Result<Self> {
        let role = settings.node.role.ok_or_else(|| {
            missing(
                "no role: neither the setting node.role nor the EC2 tag k8s-bootstrap:role gives one (control-plane or worker)",
                tags::ROLE,
                "ROLE",
                facts,
            )
        })?;
        Ok(Self {
            cluster: cluster(settings, facts)?,
            role,
            node_name: node_name(facts)?,
            provider_id: provider_id(&facts.zone, &facts.instance_id),
            instance_id: facts.instance_id.clone(),
            region: facts.region.clone(),
            zone: facts.zone.clone(),
            private_ip: facts.private_ip,
            arch: machine.arch.clone(),
            labels: labels(settings, facts)?,
            taints: taints(settings, role)?,
        })
    }
}

fn missing(what: &str, tag: &str, value: &str, facts: &InstanceFacts) -> Error {
    Error::refused(what).hint(format!(
        "add the tag {tag}: aws ec2 create-tags --resources {} --tags Key={tag},Value={value}",
        facts.instance_id
    ))
}

fn cluster(settings: &Settings, facts: &InstanceFacts) -> Result<String> {
    let name = &settings.cluster.name;
    if name.is_empty() {
        return Err(missing(
            "no cluster: neither the setting cluster.name nor the EC2 tag k8s-bootstrap:cluster gives one",
            tags::CLUSTER,
            "NAME",
            facts,
        ));
    }
    if label::is_dns_label(name) {
        return Ok(name.clone());
    }
    Err(Error::refused(format!(
        "the cluster's name `{name}` is not 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit"
    ))
    .hint(format!(
        "correct the setting cluster.name or the EC2 tag {}",
        tags::CLUSTER
    )))
}

/// The private DNS name. EC2 returns one per domain in the VPC's DHCP options; the first counts.
fn node_name(facts: &InstanceFacts) -> Result<String> {
    let given = &facts.local_hostname;
    let name = given
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_lowercase();
    if label::is_dns_subdomain(&name) {
        return Ok(name);
    }
    Err(Error::refused(format!(
        "the private DNS name `{given}` of this instance is not a valid name of a Kubernetes node"
    ))
    .hint("check domain-name in the DHCP options of the VPC"))
}

pub(crate) fn labels(
    settings: &Settings,
    facts: &InstanceFacts,
) -> Result<BTreeMap<String, String>> {
    let mut labels: BTreeMap<String, String> = [
        (ZONE, &facts.zone),
        (REGION, &facts.region),
        (INSTANCE_TYPE, &facts.instance_type),
    ]
    .map(|(key, value)| (key.to_owned(), value.clone()))
    .into();
    for (key, value) in &settings.node.labels {
        label::check_key(key)
            .and_then(|()| label::check_value(value))
            .and_then(|()| label::check_allowed_to_kubelets(key))
            .and_then(|()| match labels.get(key) {
                Some(known) if known != value => {
                    Err(format!("the agent sets it to `{known}`, as EC2 reports"))
                }
                _ => Ok(()),
            })
            .map_err(|problem| wrong("label", key, value, &problem))?;
        labels.insert(key.clone(), value.clone());
    }
    Ok(labels)
}

pub(crate) fn taints(settings: &Settings, role: Role) -> Result<Vec<Taint>> {
    let mut taints = BTreeSet::new();
    if role == Role::ControlPlane {
        taints.insert(Taint {
            key: CONTROL_PLANE.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        });
    }
    for (key, text) in &settings.node.taints {
        let taint = taint(key, text).map_err(|problem| wrong("taint", key, text, &problem))?;
        // The API server refuses two taints with the same key and effect.
        let doubled = taints
            .iter()
            .any(|other: &Taint| other.key == taint.key && other.effect == taint.effect);
        if !doubled {
            taints.insert(taint);
        }
    }
    Ok(taints.into_iter().collect())
}

/// Reads `VALUE:EFFECT`; `:EFFECT` is without a value.
fn taint(key: &str, text: &str) -> Result<Taint, String> {
    let (value, effect) = text.rsplit_once(':').ok_or_else(|| {
        "expected VALUE:EFFECT, such as `gpu:NoSchedule` or `:NoSchedule`".to_owned()
    })?;
    if !EFFECTS.contains(&effect) {
        return Err(format!(
            "unknown effect `{effect}`, expected {}",
            EFFECTS.join(", ")
        ));
    }
    label::check_key(key)?;
    label::check_value(value)?;
    Ok(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    })
}

fn wrong(kind: &str, key: &str, value: &str, problem: &str) -> Error {
    Error::refused(format!(
        "the {kind} `{key}` = `{value}` is invalid: {problem}"
    ))
    .hint(format!(
        "correct node.{kind}s.\"{key}\" in the settings or the EC2 tag k8s-bootstrap:{kind}:{key}"
    ))
}

#[cfg(test)]
mod tests;
