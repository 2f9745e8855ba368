#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use serde_json::json;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use super::*;
use crate::error::Kind;

const SERVED_WITHIN: Duration = Duration::from_mins(2);
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// An API server that knows a few kinds, serves `Widget` only after its definition was applied, and
/// records what is applied to it.
struct Server {
    mock: MockServer,
    applied: Arc<Mutex<Vec<String>>>,
}

fn resources(list: &[(&str, &str, bool)]) -> ResponseTemplate {
    let resources: Vec<Value> = list
        .iter()
        .map(|(name, kind, namespaced)| {
            json!({"name": name, "kind": kind, "namespaced": namespaced, "singularName": "", "verbs": []})
        })
        .collect();
    ResponseTemplate::new(200).set_body_json(json!({"groupVersion": "x", "resources": resources}))
}

fn status(code: u16, message: &str) -> ResponseTemplate {
    let reason = if code == 404 { "NotFound" } else { "Other" };
    ResponseTemplate::new(code).set_body_json(json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
    }))
}

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com", "resourceVersion": "1"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"}, "versions": []},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    })
}

impl Server {
    /// `first` may answer an apply instead of the server.
    async fn start(
        first: impl Fn(&Request, usize) -> Option<ResponseTemplate> + Send + Sync + 'static,
    ) -> Self {
        let applied: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = applied.clone();
        let asked = Mutex::new(0);
        let mock = MockServer::start().await;
        Mock::given(any())
            .respond_with(move |request: &Request| {
                let path = request.url.path();
                let query = request.url.query().unwrap_or_default();
                if request.method.as_str() == "PATCH" {
                    let mut asked = asked.lock().unwrap();
                    *asked += 1;
                    if let Some(answer) = first(request, *asked) {
                        return answer;
                    }
                    assert!(query.contains("fieldManager=k8s-bootstrap") && query.contains("force=true"), "{query}");
                    log.lock().unwrap().push(path.to_owned());
                    let body: Value = serde_json::from_slice(&request.body).unwrap();
                    assert_eq!(body["metadata"]["labels"]["k8s-bootstrap.io/owner"], "demo");
                    return ResponseTemplate::new(200).set_body_json(body);
                }
                match path {
                    "/api/v1" => resources(&[
                        ("namespaces", "Namespace", false),
                        ("configmaps", "ConfigMap", true),
                        ("nodes", "Node", false),
                    ]),
                    "/apis/apps/v1" => resources(&[("deployments/scale", "Deployment", true), ("deployments", "Deployment", true)]),
                    "/apis/apiextensions.k8s.io/v1" => resources(&[("customresourcedefinitions", "CustomResourceDefinition", false)]),
                    "/apis/example.com/v1" if log.lock().unwrap().iter().any(|p| p.starts_with(CRDS)) => {
                        resources(&[("widgets", "Widget", true)])
                    }
                    CRDS => ResponseTemplate::new(200).set_body_json(json!({
                        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinitionList",
                        "metadata": {"resourceVersion": "1"}, "items": [definition()],
                    })),
                    "/readyz" => ResponseTemplate::new(200).set_body_string("ok"),
                    "/api/v1/nodes/n1" => ResponseTemplate::new(200).set_body_json(json!({
                        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
                        "status": {"conditions": [
                            {"type": "MemoryPressure", "status": "True", "message": "other"},
                            {"type": "Ready", "status": "False", "message": "cni plugin not initialized"},
                        ]},
                    })),
                    // Without the items' own kinds, as in real lists.
                    "/api/v1/nodes" => ResponseTemplate::new(200).set_body_json(json!({
                        "apiVersion": "v1", "kind": "NodeList", "metadata": {},
                        "items": [{"metadata": {"name": "n1", "uid": "u1"}}],
                    })),
                    "/apis/apps/v1/namespaces/default/deployments/web" => ResponseTemplate::new(200).set_body_json(json!({
                        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "generation": 1},
                        "spec": {"replicas": 2}, "status": {"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 1},
                    })),
                    _ => status(404, "not found"),
                }
            })
            .mount(&mock)
            .await;
        Self { mock, applied }
    }

    fn cluster(&self) -> KubeCluster {
        let config = kube::Config::new(self.mock.uri().parse().unwrap());
        let _ = rustls::crypto::ring::default_provider().install_default();
        KubeCluster::with_client(Client::try_from(config).unwrap())
    }
}

fn object(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})
}

#[tokio::test]
async fn definitions_and_namespaces_are_applied_before_what_needs_them() {
    let server = Server::start(|_, _| None).await;
    let mut definition = definition();
    definition.as_object_mut().unwrap().remove("status");
    let objects = [
        object("example.com/v1", "Widget", "w"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "own"}}),
        object("apps/v1", "Deployment", "web"),
        object("v1", "Namespace", "own"),
        definition,
    ];
    server
        .cluster()
        .apply("demo", &objects, SERVED_WITHIN)
        .await
        .unwrap();
    assert_eq!(
        *server.applied.lock().unwrap(),
        [
            "/api/v1/namespaces/own".to_owned(),
            format!("{CRDS}/widgets.example.com"),
            "/apis/example.com/v1/namespaces/default/widgets/w".to_owned(),
            "/api/v1/namespaces/own/configmaps/c".to_owned(),
            "/apis/apps/v1/namespaces/default/deployments/web".to_owned(),
        ]
    );
}

#[tokio::test]
async fn an_apply_is_retried_until_its_webhook_answers() {
    let server =
        Server::start(|_, n| (n <= 2).then(|| status(500, "failed calling webhook"))).await;
    server
        .cluster()
        .apply("demo", &[object("v1", "ConfigMap", "c")], SERVED_WITHIN)
        .await
        .unwrap();
    assert_eq!(server.applied.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_invalid_object_is_refused_at_once_with_the_api_servers_message() {
    let server =
        Server::start(|_, n| (n == 1).then(|| status(422, "spec.mode: Unsupported value"))).await;
    let error = server
        .cluster()
        .apply("demo", &[object("v1", "ConfigMap", "c")], SERVED_WITHIN)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(
        error.one_line(),
        "apply ConfigMap c: spec.mode: Unsupported value (422)"
    );
}

#[tokio::test]
async fn an_unknown_field_is_refused_at_once_although_the_status_is_500() {
    let said = "failed to create typed patch object (/s; /v1, Kind=ConfigMap): .porks: field not declared in schema";
    let server = Server::start(move |_, n| (n == 1).then(|| status(500, said))).await;
    let error = server
        .cluster()
        .apply("demo", &[object("v1", "ConfigMap", "c")], SERVED_WITHIN)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.one_line().contains(".porks"), "{error}");
}

#[tokio::test]
async fn readiness_rollouts_and_objects_are_read() {
    let server = Server::start(|_, _| None).await;
    let cluster = server.cluster();
    assert!(cluster.ready().await.unwrap());

    let condition = cluster.node_ready("n1").await.unwrap().unwrap();
    assert!(!condition.ready);
    assert_eq!(condition.message, "cni plugin not initialized");
    assert_eq!(cluster.node_ready("n2").await.unwrap(), None);

    let missing = cluster
        .not_rolled_out(&[
            object("v1", "ConfigMap", "c"),
            object("apps/v1", "Deployment", "web"),
        ])
        .await
        .unwrap();
    assert_eq!(missing, ["Deployment web 1/2"]);

    let reference = |api_version: &str, kind: &str, name: &str| ObjectRef {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: None,
        name: name.into(),
    };
    let node = cluster
        .get(&reference("v1", "Node", "n1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(node["metadata"]["name"], "n1");
    assert!(
        cluster
            .get(&reference("v1", "Node", "n2"))
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        cluster
            .get(&reference("example.com/v1", "Widget", "w"))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_starting_server_is_not_ready_and_a_closed_port_is_an_error() {
    let mock = MockServer::start().await;
    Mock::given(any())
        .respond_with(status(500, "[-]poststarthook/rbac/bootstrap-roles failed"))
        .mount(&mock)
        .await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = |uri: String| Client::try_from(kube::Config::new(uri.parse().unwrap())).unwrap();
    assert!(
        !KubeCluster::with_client(client(mock.uri()))
            .ready()
            .await
            .unwrap()
    );
    assert!(
        KubeCluster::with_client(client("http://127.0.0.1:1".into()))
            .ready()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn listed_objects_have_their_kind_and_version() {
    let server = Server::start(|_, _| None).await;
    let nodes = server.cluster().list("v1", "Node", None).await.unwrap();
    assert_eq!(ObjectRef::of(&nodes[0]).to_string(), "Node n1");
    assert_eq!(nodes[0]["apiVersion"], "v1");
}
