//! The record of what was applied of an add-on: the ConfigMap
//! `kube-system/k8s-bootstrap-addon-NAME`.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    error::{Context, Result},
    ports::{ObjectRef, World},
};

const PREFIX: &str = "k8s-bootstrap-addon-";
const NAMESPACE: &str = "kube-system";

/// An add-on as applied to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The digest of everything that determines what is applied; empty while it is being applied.
    pub digest: String,
    /// What belongs to the add-on; every object is listed here before it is applied. `None` if the
    /// founder applied the add-on: its objects are never removed.
    pub objects: Option<Vec<ObjectRef>>,
    /// What belonged to it before and is still to be removed.
    pub stale: Vec<ObjectRef>,
}

/// The name of an add-on's record.
pub fn reference(addon: &str) -> ObjectRef {
    ObjectRef {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        name: format!("{PREFIX}{addon}"),
    }
}

impl Record {
    /// The record of one add-on.
    pub async fn read(world: &World, addon: &str) -> Result<Option<Self>> {
        let found = world.cluster.get(&reference(addon)).await?;
        found.map(|found| Self::parse(&found)).transpose()
    }

    /// The records of all add-ons that were applied and not removed since, by name.
    pub async fn all(world: &World) -> Result<BTreeMap<String, Self>> {
        let found = world.cluster.applied("v1", "ConfigMap", NAMESPACE).await?;
        let mut records = BTreeMap::new();
        for object in found {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if let Some(addon) = name.strip_prefix(PREFIX) {
                records.insert(addon.to_owned(), Self::parse(&object)?);
            }
        }
        Ok(records)
    }

    /// Writes the record.
    pub async fn write(&self, world: &World, addon: &str) -> Result<()> {
        let mut object = reference(addon).skeleton();
        object["data"] = json!({ "digest": self.digest });
        if let Some(objects) = &self.objects {
            object["data"]["objects"] = list(objects)?;
        }
        if !self.stale.is_empty() {
            object["data"]["stale"] = list(&self.stale)?;
        }
        world
            .cluster
            .apply(addon, &[object], Duration::from_secs(5))
            .await
    }

    fn parse(object: &Value) -> Result<Self> {
        let data = &object["data"];
        let list = |field: &str| {
            data[field]
                .as_str()
                .map(serde_json::from_str::<Vec<ObjectRef>>)
                .transpose()
                .attempting(|| format!("cannot read `{field}` of {}", ObjectRef::of(object)))
        };
        Ok(Self {
            digest: data["digest"].as_str().unwrap_or_default().to_owned(),
            objects: list("objects")?,
            stale: list("stale")?.unwrap_or_default(),
        })
    }

    /// The record to write before the add-on is applied with these objects.
    #[must_use]
    pub fn about_to_be(&self, objects: Vec<ObjectRef>) -> Self {
        let mut stale = Vec::new();
        for before in self.objects.iter().flatten().chain(&self.stale) {
            if !holds(&objects, before) && !holds(&stale, before) {
                stale.push(before.clone());
            }
        }
        Self {
            digest: String::new(),
            objects: Some(objects),
            stale,
        }
    }
}

/// Whether the object is one of the list.
pub fn holds(list: &[ObjectRef], object: &ObjectRef) -> bool {
    list.iter().any(|other| other.is_same(object))
}

fn list(objects: &[ObjectRef]) -> Result<Value> {
    let text = serde_json::to_string(objects)
        .attempting(|| "cannot serialize an add-on's objects".to_owned())?;
    Ok(Value::String(text))
}
