//! Server-side apply of many objects, in an order that works on an empty cluster.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::APIResourceList,
};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{connection::Connection, failed, is_refusal};
use crate::{
    adapters::clock::SystemClock,
    error::{Error, Result},
    ports::{Clock, OWNER_LABEL},
    wait::schedules::APPLY,
};

/// The field manager, and the value of the managed-by label.
pub const MANAGER: &str = "k8s-bootstrap";
/// Marks objects that this agent applied, on any node.
pub const MANAGER_LABEL: &str = "app.kubernetes.io/managed-by";

/// How long a CustomResourceDefinition may take until it is served.
const ESTABLISHING: Duration = Duration::from_secs(30);

/// Applies namespaces and definitions, waits until the definitions are served, applies the rest.
pub async fn all(
    client: &Client,
    connection: &Connection,
    owner: &str,
    objects: &[Value],
    served_within: Duration,
) -> Result<()> {
    let (first, rest): (Vec<&Value>, Vec<&Value>) = objects
        .iter()
        .partition(|object| is_definition(object) || object["kind"] == "Namespace");
    each(client, connection, owner, &first, served_within).await?;
    for object in first.into_iter().filter(|object| is_definition(object)) {
        established(client, object).await?;
    }
    each(client, connection, owner, &rest, served_within).await
}

/// Applies objects one by one, with a new discovery of their kinds.
async fn each(
    client: &Client,
    connection: &Connection,
    owner: &str,
    objects: &[&Value],
    served_within: Duration,
) -> Result<()> {
    let mut kinds = Kinds::default();
    for object in objects {
        one(
            client,
            connection,
            &mut kinds,
            &labelled(object, owner),
            served_within,
        )
        .await?;
    }
    Ok(())
}

/// `DaemonSet kube-system/calico-node`.
pub fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .map(|namespace| format!("{namespace}/"))
        .unwrap_or_default();
    format!(
        "{} {namespace}{}",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

fn is_definition(object: &Value) -> bool {
    object["kind"] == "CustomResourceDefinition"
}

async fn established(client: &Client, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let waiting = await_condition(definitions, name, conditions::is_crd_established());
    match timeout(ESTABLISHING, waiting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Error::failed(format!(
            "waiting for CustomResourceDefinition {name}"
        ))
        .because(&error)),
        Err(_) => Err(Error::failed(format!(
            "CustomResourceDefinition {name} is not Established after {} s",
            ESTABLISHING.as_secs()
        ))),
    }
}

/// Applies one object; retries while the error may be temporary.
async fn one(
    client: &Client,
    connection: &Connection,
    kinds: &mut Kinds,
    object: &Value,
    served_within: Duration,
) -> Result<()> {
    let what = format!("apply {}", name(object));
    // Such as webhooks whose pods are starting, and kinds that are not served yet.
    let mut retries = APPLY.within(served_within).begin(&SystemClock);
    loop {
        let error = match attempt(client, kinds, object).await {
            Ok(true) => return Ok(()),
            Ok(false) => Error::failed(format!(
                "{what}: the API server does not serve {} {}",
                object["apiVersion"].as_str().unwrap_or("?"),
                object["kind"].as_str().unwrap_or("?")
            )),
            Err(error) => {
                connection.doubt(&error).await;
                let passes = may_pass(&error);
                let error = failed(&what, &error);
                if !passes {
                    return Err(error);
                }
                error
            }
        };
        let Some(pause) = retries.next_pause(&SystemClock) else {
            return Err(error);
        };
        SystemClock.sleep(pause).await;
        *kinds = Kinds::default();
    }
}

async fn attempt(client: &Client, kinds: &mut Kinds, object: &Value) -> Result<bool, kube::Error> {
    let Some(api) = kinds.api(client, object).await? else {
        return Ok(false);
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    api.patch(
        name,
        &PatchParams::apply(MANAGER).force(),
        &Patch::Apply(object),
    )
    .await?;
    Ok(true)
}

/// Whether the same request may succeed later.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        // 401 and 403: right after `init` the administrator's RBAC rules are still being created.
        // 404: its namespace or kind is still to come. 409: someone else wrote. 5xx: a webhook or
        // the server itself is starting.
        kube::Error::Api(status) => {
            matches!(status.code, 401 | 403 | 404 | 409 | 429 | 500..) && !is_refusal(status)
        }
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => false,
        _ => true,
    }
}

fn labelled(object: &Value, owner: &str) -> Value {
    let mut object = object.clone();
    json_patch::merge(
        &mut object,
        &json!({"metadata": {"labels": {
            MANAGER_LABEL: MANAGER,
            OWNER_LABEL: owner,
        }}}),
    );
    object
}

/// What the API server serves, queried once for each group and version.
#[derive(Default)]
pub struct Kinds(BTreeMap<String, APIResourceList>);

impl Kinds {
    /// The API of the object's kind; `None` if the server does not know it.
    pub async fn api(
        &mut self,
        client: &Client,
        object: &Value,
    ) -> std::result::Result<Option<Api<DynamicObject>>, kube::Error> {
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let found = self.resource(client, api_version, kind).await?;
        Ok(found.map(|(resource, namespaced)| {
            if namespaced {
                let namespace = object["metadata"]["namespace"]
                    .as_str()
                    .unwrap_or("default");
                Api::namespaced_with(client.clone(), namespace, &resource)
            } else {
                Api::all_with(client.clone(), &resource)
            }
        }))
    }

    /// The resource of a kind, and whether it is namespaced.
    pub async fn resource(
        &mut self,
        client: &Client,
        api_version: &str,
        kind: &str,
    ) -> std::result::Result<Option<(ApiResource, bool)>, kube::Error> {
        if !self.0.contains_key(api_version) {
            let asked = if api_version.contains('/') {
                client.list_api_group_resources(api_version).await
            } else {
                client.list_core_api_resources(api_version).await
            };
            match asked {
                Ok(list) => self.0.insert(api_version.to_owned(), list),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        // Subresources such as `deployments/scale` have kinds as well.
        let Some(found) = self.0.get(api_version).and_then(|list| {
            list.resources
                .iter()
                .find(|r| r.kind == kind && !r.name.contains('/'))
        }) else {
            return Ok(None);
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(group, version, kind),
            &found.name,
        );
        Ok(Some((resource, found.namespaced)))
    }
}
