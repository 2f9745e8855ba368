//! Fills settings into manifests: `{values.KEY}`, and other images.
//!
//! Both work on parsed objects, so a value never changes the structure of a manifest. For more than
//! that, use a template engine and make its output the add-on's source.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::manifest;
use crate::{
    config::overridden,
    error::{Error, Result},
};

const START: &str = "{values.";

/// Replaces `{values.KEY}` in every text of the object. A text that consists of nothing else takes
/// the value's type: `replicas: "{values.replicas}"` becomes a number.
pub fn fill(values: &Map<String, Value>, object: &mut Value) -> Result<()> {
    match object {
        Value::String(text) => {
            *object = filled(values, text)?;
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill(values, item)),
        Value::Object(fields) => {
            let mut fields = fields.values_mut();
            fields.try_for_each(|field| fill(values, field))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn filled(values: &Map<String, Value>, text: &str) -> Result<Value> {
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, found)) = rest.split_once(START) {
        let Some((key, after)) = found.split_once('}') else {
            break;
        };
        let value = values.get(key).ok_or_else(|| {
            Error::refused(format!("`{START}{key}}}` names a value that is not set"))
                .hint(format!("set {key} in the add-on's `values`"))
        })?;
        if before.is_empty() && done.is_empty() && after.is_empty() {
            return Ok(value.clone());
        }
        done.push_str(before);
        match value {
            Value::String(value) => done.push_str(value),
            other => done.push_str(&other.to_string()),
        }
        rest = after;
    }
    Ok(Value::String(done + rest))
}

/// Replaces images wherever an object names one: in fields `image`, and in those of the manifests in a
/// `ConfigMap`. An override that applies to no image is refused: with a misspelled one, the image would
/// come from its original registry.
pub fn replace_images(overrides: &BTreeMap<String, String>, objects: &mut [Value]) -> Result<()> {
    let mut unused: Vec<&str> = overrides.keys().map(String::as_str).collect();
    for object in objects {
        replace(overrides, object, &mut unused);
        for text in texts(object) {
            let Some(mut kept) = kept(text) else {
                continue;
            };
            let before = kept.clone();
            for object in &mut kept {
                replace(overrides, object, &mut unused);
            }
            if kept != before {
                // JSON is YAML.
                let documents: Vec<String> = kept.iter().map(Value::to_string).collect();
                *text = documents.join("\n---\n");
            }
        }
    }
    match unused.first() {
        None => Ok(()),
        Some(image) => Err(Error::refused(format!(
            "image_overrides: no manifest has the image `{image}`"
        ))
        .hint("write it as the manifest does, with or without its tag")),
    }
}

/// The images that an object names in its fields `image`, and in those of the manifests in a
/// `ConfigMap`.
pub fn images(object: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    named(object, &mut found);
    for kept in texts(&mut object.clone()).filter_map(|text| kept(text)) {
        for object in &kept {
            named(object, &mut found);
        }
    }
    found
}

fn named(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(image) if name == "image" => drop(found.insert(image.clone())),
                    _ => named(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| named(item, found)),
        _ => {}
    }
}

/// The texts of a `ConfigMap`.
fn texts(object: &mut Value) -> impl Iterator<Item = &mut String> {
    let is_one = object["kind"] == "ConfigMap";
    let data = object.get_mut("data").filter(|_| is_one);
    let fields = data.and_then(Value::as_object_mut).into_iter().flatten();
    fields.filter_map(|(_, field)| match field {
        Value::String(text) => Some(text),
        _ => None,
    })
}

/// The manifest that a text is: operators keep those of the pods that they start in a `ConfigMap`.
fn kept(text: &str) -> Option<Vec<Value>> {
    let may_be_one = text.contains("kind") && text.contains("image");
    let objects = may_be_one.then(|| manifest::objects(text))?;
    objects.ok()
}

fn replace(overrides: &BTreeMap<String, String>, value: &mut Value, unused: &mut Vec<&str>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(image) if name == "image" => {
                        if let Some((from, to)) = overridden(overrides, image) {
                            unused.retain(|other| *other != from);
                            to.clone_into(image);
                        }
                    }
                    _ => replace(overrides, field, unused),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                replace(overrides, item, unused);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values() -> Map<String, Value> {
        let values = json!({"host": "example.com", "replicas": 3, "tls": true});
        values.as_object().unwrap().clone()
    }

    #[test]
    fn values_are_filled_into_text_and_keep_their_type_where_they_are_all_of_it() {
        let mut object = json!({
            "replicas": "{values.replicas}",
            "tls": ["{values.tls}", "{values.host}"],
            "url": "https://{values.host}:{values.replicas}/",
            "script": "echo ${HOME} {api_host} {values.",
        });
        fill(&values(), &mut object).unwrap();
        assert_eq!(
            object,
            json!({
                "replicas": 3,
                "tls": [true, "example.com"],
                "url": "https://example.com:3/",
                "script": "echo ${HOME} {api_host} {values.",
            })
        );
    }

    #[test]
    fn a_value_that_is_not_set_is_refused_with_its_name() {
        let mut object = json!({"a": {"b": "x {values.hots}"}});
        let error = fill(&values(), &mut object).unwrap_err().to_string();
        assert!(
            error.contains("`{values.hots}` names a value that is not set"),
            "{error}"
        );
        assert!(error.contains("hint: set hots"), "{error}");
    }

    fn overrides(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
            .collect()
    }

    #[test]
    fn images_are_replaced_with_or_without_their_tag_and_nothing_else_is() {
        let mut objects = [json!({
            "spec": {"containers": [
                {"name": "a", "image": "docker.io/library/redis:8.2.1@sha256:00"},
                {"name": "b", "image": "docker.io/library/redis-exporter:1"},
                {"name": "c", "image": "quay.io/c:2"},
            ]},
            "data": {"redis": "docker.io/library/redis:8.2.1"},
        })];
        let wanted = overrides(&[
            (
                "docker.io/library/redis",
                "registry.example.com:5000/redis:9",
            ),
            ("quay.io/c:2", "registry.example.com/c:3"),
        ]);
        replace_images(&wanted, &mut objects).unwrap();
        let containers = &objects[0]["spec"]["containers"];
        let found = images(&objects[0]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.contains("registry.example.com/c:3"), "{found:?}");
        assert_eq!(containers[0]["image"], "registry.example.com:5000/redis:9");
        assert_eq!(containers[1]["image"], "docker.io/library/redis-exporter:1");
        assert_eq!(containers[2]["image"], "registry.example.com/c:3");
        assert_eq!(objects[0]["data"]["redis"], "docker.io/library/redis:8.2.1");
    }

    #[test]
    fn images_of_the_pods_that_an_operator_starts_are_found_and_replaced() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: helper}\n\
                   spec: {containers: [{name: helper, image: busybox}]}\n";
        let script = "#!/bin/sh\n# of any kind: the image: is unpacked\nset -eu\n";
        let mut objects = [json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"},
            "data": {"helperPod.yaml": pod, "setup": script},
        })];
        assert_eq!(images(&objects[0]), ["busybox".to_owned()].into());
        let wanted = overrides(&[("busybox", "registry.example.com/busybox:1")]);
        replace_images(&wanted, &mut objects).unwrap();
        let replaced = ["registry.example.com/busybox:1".to_owned()].into();
        assert_eq!(images(&objects[0]), replaced);
        assert_eq!(objects[0]["data"]["setup"], script);
        let secret = json!({"kind": "Secret", "data": {"pod": pod}});
        assert!(images(&secret).is_empty());
    }

    #[test]
    fn an_override_of_an_image_that_no_manifest_has_is_refused() {
        let mut objects = [json!({"image": "quay.io/c:2"})];
        let wanted = overrides(&[("quay.io/c:1", "registry.example.com/c:3")]);
        let error = replace_images(&wanted, &mut objects).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no manifest has the image `quay.io/c:1`")
        );
    }
}
