//! The Node of a joiner, created from EC2's data before its kubelet starts.

use serde_json::{Value, json};

use super::{Refusal, judge::NodeIs};
use crate::{
    config::{Fragment, load, tags},
    error::{Error, Result},
    identity,
    kubernetes::node::provider_id,
    ports::{Applicant, Instance, InstanceFacts, ObjectRef, World},
};

/// The joiner's Node as its own agent would describe it, but from EC2's data.
///
/// Labels and taints from the applicant's settings are used only if EC2's tags do not set them, and
/// only those that a kubelet may set on itself: the applicant gains nothing with them.
pub fn node(applicant: &Applicant, instance: &Instance, region: &str) -> Result<Value, Refusal> {
    let wrong =
        |error: &Error| Refusal::denied(format!("cannot create its Node: {}", error.one_line()));
    let table = |map: &std::collections::BTreeMap<String, String>| -> toml::Table {
        let pairs = map.iter();
        pairs
            .map(|(key, value)| (key.clone(), value.clone().into()))
            .collect()
    };
    let mut wishes = toml::Table::new();
    wishes.insert("labels".to_owned(), table(&applicant.labels).into());
    wishes.insert("taints".to_owned(), table(&applicant.taints).into());
    let wishes = toml::Table::from_iter([("node".to_owned(), wishes.into())]);
    let tags = tags::fragment(&instance.tags).map_err(|error| wrong(&error))?;
    let settings = load(&[
        Fragment::made("the applicant", wishes),
        Fragment::made("EC2 tags", tags),
    ])
    .map_err(|error| wrong(&error))?;
    let name = name(instance);
    let facts = InstanceFacts {
        instance_id: instance.id.clone(),
        instance_type: instance.instance_type.clone(),
        region: region.to_owned(),
        zone: instance.zone.clone(),
        account: String::new(),
        private_ip: instance
            .private_ip
            .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
        local_hostname: name.clone(),
    };
    let labels = identity::labels(&settings, &facts).map_err(|error| wrong(&error))?;
    let taints = identity::taints(&settings, applicant.role).map_err(|error| wrong(&error))?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "providerID": provider_id(&instance.zone, &instance.id),
            "taints": taints,
        },
    }))
}

/// The name of an instance's node.
pub fn name(instance: &Instance) -> String {
    let name = instance.private_dns_name.as_deref().unwrap_or_default();
    name.to_lowercase()
}

/// Puts the Node in place for the kubelet to find.
pub async fn put(world: &World, node: &Value, there: NodeIs) -> Result<()> {
    let object = ObjectRef::of(node);
    match there {
        NodeIs::Its => return Ok(()),
        NodeIs::Missing => {}
        NodeIs::Stale => {
            if let Some(stale) = world.cluster.get(&object).await? {
                world.cluster.delete_seen(&stale).await?;
            }
        }
    }
    if world.cluster.compare_and_set(node).await? {
        return Ok(());
    }
    Err(Error::failed(format!(
        "another client has created {object} in the meantime"
    )))
}

#[cfg(test)]
mod tests;
