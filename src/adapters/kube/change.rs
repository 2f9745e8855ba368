//! Single objects: listing, deleting and conditional writes.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{
        DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams,
        Preconditions,
    },
};
use serde_json::{Value, json};

use super::apply::{Kinds, MANAGER, MANAGER_LABEL};
use crate::ports::{Eviction, OWNER_LABEL, ObjectRef, Part};

type Result<T> = std::result::Result<T, kube::Error>;

/// All objects of a kind in a namespace that this agent applied.
pub async fn applied(
    client: &Client,
    api_version: &str,
    kind: &str,
    namespace: &str,
) -> Result<Vec<DynamicObject>> {
    let place =
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace}});
    let Some(api) = Kinds::default().api(client, &place).await? else {
        return Ok(Vec::new());
    };
    let ours = ListParams::default().labels(&format!("{MANAGER_LABEL}={MANAGER}"));
    Ok(api.list(&ours).await?.items)
}

/// All objects of a kind, in one namespace or in all.
pub async fn list(
    client: &Client,
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Result<Vec<DynamicObject>> {
    let found = Kinds::default().resource(client, api_version, kind).await?;
    let Some((resource, _)) = found else {
        return Ok(Vec::new());
    };
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok(api.list(&ListParams::default()).await?.items)
}

/// Deletes exactly the object that was read.
pub async fn delete_seen(client: &Client, object: &Value) -> Result<bool> {
    let Some(api) = Kinds::default().api(client, object).await? else {
        return Ok(false);
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let the_same = DeleteParams::background().preconditions(Preconditions {
        uid: object["metadata"]["uid"].as_str().map(str::to_owned),
        resource_version: None,
    });
    match api.delete(name, &the_same).await {
        Ok(_) => Ok(true),
        // 404: it has been deleted. 409: another object has its name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes an object that carries the owner's label: exactly the one that was read.
pub async fn delete(client: &Client, owner: &str, object: &ObjectRef) -> Result<bool> {
    let Some(api) = Kinds::default().api(client, &object.skeleton()).await? else {
        return Ok(false);
    };
    let Some(found) = api.get_metadata_opt(&object.name).await? else {
        return Ok(false);
    };
    let labels = found.metadata.labels.unwrap_or_default();
    if labels.get(OWNER_LABEL).map(String::as_str) != Some(owner) {
        return Ok(false);
    }
    let unchanged = DeleteParams::background().preconditions(Preconditions {
        uid: found.metadata.uid,
        resource_version: None,
    });
    match api.delete(&object.name, &unchanged).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates or replaces an object, unless someone else was faster.
pub async fn compare_and_set(client: &Client, object: &Value) -> Result<bool> {
    let Some(api) = Kinds::default().api(client, object).await? else {
        return Ok(false);
    };
    let wanted: DynamicObject =
        serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    let name = wanted.metadata.name.clone().unwrap_or_default();
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..Default::default()
    };
    let written = if wanted.metadata.resource_version.is_some() {
        api.replace(&name, &params, &wanted).await
    } else {
        api.create(&params, &wanted).await
    };
    match written {
        Ok(_) => Ok(true),
        // 409: it exists already, or was changed. 404: it has been deleted.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Merges a change into an object, by the strategic merge of its kind.
pub async fn patch(client: &Client, object: &ObjectRef, part: Part, change: &Value) -> Result<()> {
    let Some(api) = Kinds::default().api(client, &object.skeleton()).await? else {
        return Err(not_found(object));
    };
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..Default::default()
    };
    let change = Patch::Strategic(change);
    match part {
        Part::Whole => api.patch(&object.name, &params, &change).await,
        Part::Status => api.patch_status(&object.name, &params, &change).await,
    }
    .map(drop)
}

fn not_found(object: &ObjectRef) -> kube::Error {
    kube::Error::Api(Box::new(
        kube::core::Status::failure(&format!("{object} is not served"), "NotFound").with_code(404),
    ))
}

/// The pods bound to a node. Nodes may list pods by this selector only.
pub async fn pods_on(client: &Client, node: &str) -> Result<Vec<Pod>> {
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    Ok(Api::<Pod>::all(client.clone()).list(&here).await?.items)
}

/// Evicts a pod. 429 means that a disruption budget holds it.
pub async fn evict(client: &Client, pod: &ObjectRef) -> Result<Eviction> {
    let namespace = pod.namespace.as_deref().unwrap_or("default");
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    match pods.evict(&pod.name, &EvictParams::default()).await {
        Ok(_) => Ok(Eviction::Begun),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Eviction::Gone),
        Err(kube::Error::Api(status)) if status.code == 429 => {
            Ok(Eviction::Held(status.message.clone()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

    use super::*;

    const CONFIG_MAPS: &str = "/api/v1/namespaces/x/configmaps";

    /// A server with one ConfigMap of the owner `demo`, and one that answers 409 to every write.
    async fn server() -> (MockServer, Client) {
        let mock = MockServer::start().await;
        let resources = json!({"groupVersion": "v1", "resources": [
            {"name": "configmaps", "kind": "ConfigMap", "namespaced": true, "singularName": "", "verbs": []},
        ]});
        let a = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": "a", "namespace": "x", "uid": "u-1", "resourceVersion": "7", "labels": {OWNER_LABEL: "demo"},
        }});
        let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409,
            "reason": "Conflict", "message": "the object has been modified"});
        let ok = |body: &Value| ResponseTemplate::new(200).set_body_json(body);
        for (method, path, answer) in [
            ("GET", "/api/v1".to_owned(), ok(&resources)),
            ("GET", format!("{CONFIG_MAPS}/a"), ok(&a)),
            ("GET", CONFIG_MAPS.to_owned(), ok(&listing(&["a"]))),
            (
                "GET",
                "/api/v1/configmaps".to_owned(),
                ok(&listing(&["a", "b"])),
            ),
            ("PUT", format!("{CONFIG_MAPS}/a"), ok(&a)),
            (
                "POST",
                CONFIG_MAPS.to_owned(),
                ResponseTemplate::new(409).set_body_json(conflict),
            ),
        ] {
            Mock::given(matchers::method(method))
                .and(matchers::path(path))
                .respond_with(answer)
                .mount(&mock)
                .await;
        }
        Mock::given(matchers::method("DELETE"))
            .and(matchers::path(format!("{CONFIG_MAPS}/a")))
            .and(matchers::body_partial_json(json!({
                "propagationPolicy": "Background", "preconditions": {"uid": "u-1"},
            })))
            .respond_with(ok(
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
            ))
            .mount(&mock)
            .await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = kube::Config::new(mock.uri().parse().unwrap());
        config.default_retry = false;
        (mock, Client::try_from(config).unwrap())
    }

    fn listing(names: &[&str]) -> Value {
        let items: Vec<Value> = names.iter().map(|name| config_map(name, None)).collect();
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {}, "items": items})
    }

    fn config_map(name: &str, version: Option<&str>) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "x"}});
        if let Some(version) = version {
            object["metadata"]["resourceVersion"] = version.into();
        }
        object
    }

    #[tokio::test]
    async fn only_objects_with_the_owners_label_are_deleted() {
        let (_mock, client) = server().await;
        let a = ObjectRef::of(&config_map("a", None));
        assert!(!delete(&client, "other", &a).await.unwrap());
        assert!(delete(&client, "demo", &a).await.unwrap());
        let widget =
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}});
        assert!(
            !delete(&client, "demo", &ObjectRef::of(&widget))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn only_the_object_that_was_seen_is_deleted() {
        let (_mock, client) = server().await;
        let mut seen = config_map("a", None);
        seen["metadata"]["uid"] = "u-1".into();
        assert!(delete_seen(&client, &seen).await.unwrap());
        // The mock server deletes with this uid only, and knows no other name.
        seen["metadata"]["uid"] = "u-0".into();
        assert!(!delete_seen(&client, &seen).await.unwrap());
    }

    #[tokio::test]
    async fn a_kind_is_listed_in_one_namespace_or_in_all_and_an_unknown_kind_is_empty() {
        let (_mock, client) = server().await;
        let listed = async |kind: &str, namespace| {
            let found = list(&client, "v1", kind, namespace).await.unwrap();
            found
                .into_iter()
                .filter_map(|o| o.metadata.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(listed("ConfigMap", Some("x")).await, ["a"]);
        assert_eq!(listed("ConfigMap", None).await, ["a", "b"]);
        assert!(listed("Widget", None).await.is_empty());
    }

    /// A server that serves Nodes and Pods and gives this answer to `method` at `path`.
    async fn answering(method: &str, path: &str, code: u16, body: &Value) -> (MockServer, Client) {
        let (mock, client) = server().await;
        let resources = json!({"groupVersion": "v1", "resources": [
            {"name": "nodes", "kind": "Node", "namespaced": false, "singularName": "", "verbs": []},
        ]});
        Mock::given(matchers::method("GET"))
            .and(matchers::path("/api/v1"))
            .respond_with(ResponseTemplate::new(200).set_body_json(resources))
            .with_priority(1)
            .mount(&mock)
            .await;
        Mock::given(matchers::method(method))
            .and(matchers::path(path))
            .respond_with(ResponseTemplate::new(code).set_body_json(body))
            .mount(&mock)
            .await;
        (mock, client)
    }

    #[tokio::test]
    async fn a_change_is_a_strategic_merge_patch_of_one_part() {
        let node = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            namespace: None,
            name: "w1".to_owned(),
        };
        let object = node.skeleton();
        for (part, path) in [
            (Part::Whole, "/api/v1/nodes/w1"),
            (Part::Status, "/api/v1/nodes/w1/status"),
        ] {
            let (mock, client) = answering("PATCH", path, 200, &object).await;
            let change = json!({"spec": {"unschedulable": true}});
            patch(&client, &node, part, &change).await.unwrap();
            let requests = mock.received_requests().await.unwrap();
            let request = requests.last().unwrap();
            assert_eq!(
                request.headers["content-type"],
                "application/strategic-merge-patch+json"
            );
            assert_eq!(request.body_json::<Value>().unwrap(), change);
        }
    }

    #[tokio::test]
    async fn an_eviction_begins_is_blocked_by_a_budget_or_finds_no_pod() {
        let pod = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: Some("x".to_owned()),
            name: "a".to_owned(),
        };
        let status = |code: u16, message: &str| {
            json!({"kind": "Status", "apiVersion": "v1", "code": code, "message": message,
                "status": if code < 300 { "Success" } else { "Failure" }})
        };
        for (code, message, expected) in [
            (201, "", Eviction::Begun),
            (429, "needs 1", Eviction::Held("needs 1".to_owned())),
            (404, "no pod", Eviction::Gone),
        ] {
            let path = "/api/v1/namespaces/x/pods/a/eviction";
            let body = status(code, message);
            let (_mock, client) = answering("POST", path, code, &body).await;
            assert_eq!(evict(&client, &pod).await.unwrap(), expected, "{code}");
        }
    }

    #[tokio::test]
    async fn pods_are_listed_by_the_only_selector_that_nodes_may_use() {
        let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {},
            "items": [{"metadata": {"name": "a", "namespace": "x"}}]});
        let (mock, client) = answering("GET", "/api/v1/pods", 200, &list).await;
        let pods = pods_on(&client, "w1").await.unwrap();
        let pod = ObjectRef::of(&serde_json::to_value(&pods[0]).unwrap());
        assert_eq!(pod.to_string(), "Pod x/a");
        let requests = mock.received_requests().await.unwrap();
        let query = requests.last().unwrap().url.query().unwrap_or_default();
        assert!(
            query.contains("fieldSelector=spec.nodeName%3Dw1"),
            "{query}"
        );
    }

    #[tokio::test]
    async fn a_conflicting_write_is_reported() {
        let (_mock, client) = server().await;
        let written = async |object: Value| compare_and_set(&client, &object).await.unwrap();
        assert!(written(config_map("a", Some("7"))).await);
        assert!(!written(config_map("a", None)).await);
    }
}
