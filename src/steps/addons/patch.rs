//! Changes an add-on's objects as the settings describe.

use serde_json::Value;

use crate::{
    config::Patch,
    error::{Context, Error, Result},
};

/// The patch with `{api_host}` and `{api_port}` filled in from `host:port` of the API.
pub fn filled(patch: &Patch, endpoint: &str) -> Patch {
    let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
    let mut patch = patch.clone();
    let values = patch
        .merge
        .iter_mut()
        .chain(patch.json.iter_mut().flatten());
    for value in values {
        fill(value, host, port);
    }
    patch
}

fn fill(value: &mut Value, host: &str, port: &str) {
    match value {
        Value::String(text) => {
            *text = text.replace("{api_host}", host).replace("{api_port}", port);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, host, port)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| fill(field, host, port)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Applies the patch to every object that it selects; selecting none is an error.
pub fn apply(patch: &Patch, objects: &mut [Value]) -> Result<()> {
    let steps: Option<json_patch::Patch> = patch
        .json
        .clone()
        .map(|steps| serde_json::from_value(Value::Array(steps)))
        .transpose()
        .requiring(|| {
            format!(
                "the patch for {} is not an RFC 6902 patch",
                selection(patch)
            )
        })?;
    if patch.merge.is_none() && steps.is_none() {
        return Err(Error::refused(format!(
            "the patch for {} changes nothing",
            selection(patch)
        ))
        .hint("give it `merge` (an object to merge) or `json` (RFC 6902)"));
    }
    let mut selected = 0;
    for object in objects.iter_mut().filter(|object| selects(patch, object)) {
        selected += 1;
        if let Some(merge) = &patch.merge {
            merge_named(object, merge);
            // If the object had no such list, the patch's list has become the object's.
            drop_deleted(object);
        }
        if let Some(steps) = &steps {
            let name = format!(
                "{} {}",
                text(&object["kind"]),
                text(&object["metadata"]["name"])
            );
            json_patch::patch(object, steps).requiring(|| {
                format!(
                    "the patch for {} cannot be applied to {name}",
                    selection(patch)
                )
            })?;
        }
    }
    if selected == 0 {
        let mut there: Vec<String> = objects
            .iter()
            .map(|o| format!("{} {}", text(&o["kind"]), text(&o["metadata"]["name"])))
            .collect();
        there.sort();
        return Err(Error::refused(format!(
            "the patch for {} selects no object",
            selection(patch)
        ))
        .hint(format!("the objects are: {}", there.join(", "))));
    }
    Ok(())
}

/// RFC 7386, except for lists whose items all have a `name` (containers, env, ports, volumes):
/// those merge item by item, as in `kubectl`, so that a patch still works if a new version reorders
/// them; `"$patch": "delete"` removes an item.
fn merge_named(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                match (target.get_mut(key), value) {
                    (_, Value::Null) => drop(target.remove(key)),
                    (Some(there), value) => merge_named(there, value),
                    (None, value) => {
                        let mut fresh = Value::Null;
                        json_patch::merge(&mut fresh, value);
                        target.insert(key.clone(), fresh);
                    }
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) if are_named(target) && are_named(patch) => {
            for item in patch {
                if is_deleted(item) {
                    target.retain(|there| there["name"] != item["name"]);
                    continue;
                }
                match target
                    .iter_mut()
                    .find(|there| there["name"] == item["name"])
                {
                    Some(there) => merge_named(there, item),
                    None => target.push(item.clone()),
                }
            }
        }
        (target, patch) => json_patch::merge(target, patch),
    }
}

fn is_deleted(item: &Value) -> bool {
    item["$patch"] == "delete"
}

fn drop_deleted(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| !is_deleted(item));
            items.iter_mut().for_each(drop_deleted);
        }
        Value::Object(fields) => fields.values_mut().for_each(drop_deleted),
        _ => {}
    }
}

fn are_named(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| item["name"].is_string())
}

fn selects(patch: &Patch, object: &Value) -> bool {
    let is = |wanted: &Option<String>, found: &Value| wanted.as_deref().is_none_or(|w| found == w);
    is(&patch.kind, &object["kind"]) && is(&patch.name, &object["metadata"]["name"])
}

/// `kind DaemonSet, name calico-node`.
fn selection(patch: &Patch) -> String {
    let parts: Vec<String> = [("kind", &patch.kind), ("name", &patch.name)]
        .into_iter()
        .filter_map(|(what, wanted)| Some(format!("{what} {}", wanted.as_ref()?)))
        .collect();
    if parts.is_empty() {
        "all objects".to_owned()
    } else {
        parts.join(", ")
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;
    use crate::error::Kind;

    fn objects() -> Vec<Value> {
        vec![
            json!({"kind": "ConfigMap", "metadata": {"name": "calico-config"}, "data": {"mtu": "0", "x": "y"}}),
            json!({"kind": "DaemonSet", "metadata": {"name": "calico-node"}, "spec": {"containers": [{"name": "a"}]}}),
        ]
    }

    fn patch(kind: &str, name: &str) -> Patch {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Patch {
            kind: given(kind),
            name: given(name),
            merge: None,
            json: None,
        }
    }

    #[test]
    fn a_merge_patch_changes_and_removes() {
        let mut objects = objects();
        let merge = Some(json!({"data": {"mtu": "8951", "x": null}}));
        apply(
            &Patch {
                merge,
                ..patch("ConfigMap", "")
            },
            &mut objects,
        )
        .unwrap();
        assert_eq!(objects[0]["data"], json!({"mtu": "8951"}));
        assert_eq!(objects[1], self::objects()[1]);
    }

    #[test]
    fn a_json_patch_changes_list_items() {
        let mut objects = objects();
        let json = Some(vec![
            json!({"op": "add", "path": "/spec/containers/0/env", "value": []}),
        ]);
        apply(
            &Patch {
                json,
                ..patch("", "calico-node")
            },
            &mut objects,
        )
        .unwrap();
        assert_eq!(objects[1]["spec"]["containers"][0]["env"], json!([]));
    }

    #[test]
    fn a_patch_that_selects_nothing_is_refused_with_its_selector() {
        let merge = Some(json!({}));
        let error = apply(
            &Patch {
                merge,
                ..patch("DaemonSet", "calico")
            },
            &mut objects(),
        )
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(
            error.one_line().contains("kind DaemonSet, name calico"),
            "{error}"
        );
        assert!(error.remedy().unwrap().contains("DaemonSet calico-node"));
    }

    #[test]
    fn a_json_patch_that_does_not_fit_names_the_object() {
        let json = Some(vec![json!({"op": "remove", "path": "/spec/nothing"})]);
        let error = apply(
            &Patch {
                json,
                ..patch("DaemonSet", "")
            },
            &mut objects(),
        )
        .unwrap_err();
        assert!(
            error
                .one_line()
                .contains("cannot be applied to DaemonSet calico-node"),
            "{error}"
        );
    }

    #[test]
    fn a_patch_without_a_change_is_refused() {
        let error = apply(&patch("DaemonSet", ""), &mut objects()).unwrap_err();
        assert!(error.one_line().contains("changes nothing"), "{error}");
    }

    #[test]
    fn the_place_of_the_api_is_filled_in_wherever_a_patch_names_it() {
        let mut patch = patch("DaemonSet", "calico-node");
        patch.merge = Some(json!({"env": [{"value": "{api_host}"}, {"value": "{api_port}"}]}));
        patch.json = Some(vec![
            json!({"op": "add", "path": "/a", "value": "{api_host}:{api_port}"}),
        ]);
        let filled = filled(&patch, "k8s.example.com:6443");
        assert_eq!(
            filled.merge,
            Some(json!({"env": [{"value": "k8s.example.com"}, {"value": "6443"}]}))
        );
        assert_eq!(filled.json.unwrap()[0]["value"], "k8s.example.com:6443");
    }

    #[test]
    fn an_item_of_a_named_list_is_removed_where_it_is() {
        let mut target = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let patch = json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "c", "$patch": "delete"}]});
        merge_named(&mut target, &patch);
        assert_eq!(target, json!({"containers": [{"name": "b"}]}));
    }

    #[test]
    fn an_item_to_remove_never_becomes_one_of_an_object_without_that_list() {
        let mut objects = objects();
        let mut patch = patch("DaemonSet", "calico-node");
        patch.merge = Some(json!({"spec": {"initContainers": [
            {"name": "a", "$patch": "delete"}, {"name": "b"},
        ]}}));
        apply(&patch, &mut objects).unwrap();
        assert_eq!(objects[1]["spec"]["initContainers"], json!([{"name": "b"}]));
    }

    #[test]
    fn lists_of_named_items_merge_by_name_and_others_are_replaced() {
        let mut object = json!({"containers": [
            {"name": "a", "args": ["x"], "env": [{"name": "E", "value": "1", "valueFrom": {"y": 1}}, {"name": "F", "value": "1"}]},
            {"name": "b"},
        ]});
        merge_named(
            &mut object,
            &json!({"containers": [
                {"name": "a", "args": ["y", "z"], "env": [{"name": "E", "value": "2", "valueFrom": null}]},
                {"name": "c"},
            ], "more": {"gone": null, "kept": 1}}),
        );
        assert_eq!(
            object,
            json!({"containers": [
                {"name": "a", "args": ["y", "z"], "env": [{"name": "E", "value": "2"}, {"name": "F", "value": "1"}]},
                {"name": "b"},
                {"name": "c"},
            ], "more": {"kept": 1}})
        );
    }
}
