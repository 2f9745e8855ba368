//! Parses a manifest's text into objects.

use serde_json::Value;

use crate::error::{Context, Error, Result};

/// The objects of a manifest with any number of documents; `List`s are expanded.
///
/// Manifests are written for kubectl, which reads YAML 1.1: `0644` is octal, and `yes` is true only
/// for a boolean field.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let mut budget = serde_saphyr::budget::Budget::default();
    // CustomResourceDefinitions nest deeper and bundles are longer than usual configuration files.
    budget.max_depth = 256;
    budget.max_nodes = 5_000_000;
    budget.max_events = 10_000_000;
    let options = serde_saphyr::options! {
        budget: Some(budget),
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .requiring(|| "the manifest is not YAML".to_owned())?;
    let mut objects = Vec::new();
    for document in documents {
        unfold(document, &mut objects)?;
    }
    Ok(objects)
}

fn unfold(document: Value, objects: &mut Vec<Value>) -> Result<()> {
    if document.is_null() {
        return Ok(());
    }
    let kind = document["kind"].as_str().unwrap_or_default();
    if kind.ends_with("List") && document["items"].is_array() {
        let mut document = document;
        if let Value::Array(items) = document["items"].take() {
            for item in items {
                unfold(item, objects)?;
            }
        }
        return Ok(());
    }
    let named = document["apiVersion"].is_string()
        && !kind.is_empty()
        && document["metadata"]["name"].is_string();
    if !named {
        return Err(Error::refused(format!(
            "document {} of the manifest is not a Kubernetes object: it lacks apiVersion, kind or metadata.name",
            objects.len() + 1
        )));
    }
    objects.push(document);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;
    use crate::error::Kind;

    const HEAD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";

    fn field(yaml: &str) -> Value {
        objects(&format!("{HEAD}field: {yaml}\n")).unwrap()[0]["field"].clone()
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        assert_eq!(field("0644"), json!(420));
        assert_eq!(field("\"0644\""), json!("0644"));
        assert_eq!(field("420"), json!(420));
        assert_eq!(field("true"), json!(true));
        assert_eq!(field("\"true\""), json!("true"));
        assert_eq!(field("1e3"), json!(1000.0));
        assert_eq!(field("0.0.0.0/0"), json!("0.0.0.0/0"));
        assert_eq!(field("10.1"), json!(10.1));
        assert_eq!(field("9223372036854775807"), json!(i64::MAX));
        assert_eq!(field("~"), Value::Null);
        assert_eq!(field("\"\""), json!(""));
        assert_eq!(field("500m"), json!("500m"));
        assert_eq!(field("2026-11-23T12:00:00Z"), json!("2026-11-23T12:00:00Z"));
        assert_eq!(field("|-\n  a: b\n  0644"), json!("a: b\n0644"));
        assert_eq!(field("=~"), json!("=~"));
    }

    #[test]
    fn anchors_and_merge_keys_are_resolved() {
        let text = format!("{HEAD}a: &a {{x: 1}}\nb: *a\nc:\n  <<: *a\n  y: 2\n");
        let object = &objects(&text).unwrap()[0];
        assert_eq!(object["b"], json!({"x": 1}));
        assert_eq!(object["c"], json!({"x": 1, "y": 2}));
    }

    #[test]
    fn documents_empty_documents_and_lists_are_distinguished() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: p}}\n";
        let text = format!("---\n# only a comment\n---\n{HEAD}---\n{list}---\n");
        let kinds: Vec<Value> = objects(&text)
            .unwrap()
            .iter()
            .map(|o| o["kind"].clone())
            .collect();
        assert_eq!(kinds, ["ConfigMap", "Pod"]);
    }

    #[test]
    fn a_document_that_is_no_object_is_refused_with_its_number() {
        let error = objects(&format!("{HEAD}---\nkind: Pod\n")).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.one_line().contains("document 2"), "{error}");
        assert_eq!(objects("a: [").unwrap_err().kind(), Kind::Refused);
    }
}
