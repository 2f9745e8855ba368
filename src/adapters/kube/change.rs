//! Single objects: listed, deleted and written under conditions.

use kube::{
    Client,
    api::{DeleteParams, DynamicObject, ListParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

use super::apply::{Kinds, MANAGER, MANAGER_LABEL, OWNER_LABEL};
use crate::ports::ObjectRef;

type Result<T> = std::result::Result<T, kube::Error>;

/// What this agent applied of a kind in a namespace.
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

/// Deletes an object that carries the owner's label: the very one that was looked at.
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

/// Creates or replaces an object, unless someone was faster.
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
        // 409: it exists already, or was changed. 404: it was there and is gone.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

    use super::*;

    const CONFIG_MAPS: &str = "/api/v1/namespaces/x/configmaps";

    /// A server with one ConfigMap of the owner `demo`, and one that says 409 to every writer.
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
        let config = kube::Config::new(mock.uri().parse().unwrap());
        (mock, Client::try_from(config).unwrap())
    }

    fn config_map(name: &str, version: Option<&str>) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "x"}});
        if let Some(version) = version {
            object["metadata"]["resourceVersion"] = version.into();
        }
        object
    }

    #[tokio::test]
    async fn only_what_carries_the_owners_label_is_deleted() {
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
    async fn a_writer_that_came_second_is_told_so() {
        let (_mock, client) = server().await;
        let written = async |object: Value| compare_and_set(&client, &object).await.unwrap();
        assert!(written(config_map("a", Some("7"))).await);
        assert!(!written(config_map("a", None)).await);
    }
}
