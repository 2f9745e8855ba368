#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::testing::{FakeWorld, settings};

const TEXT: &str =
    "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: calico-node, namespace: kube-system}\n";

fn addon() -> Addon {
    Addon::of_the_founder(&settings())[0][0].clone()
}

fn fake() -> FakeWorld {
    let fake = FakeWorld::new();
    let addon = addon();
    fake.downloads
        .offer(&addon.sources[0].url, &addon.sources[0].sha256, TEXT);
    fake
}

#[test]
fn the_founder_applies_the_network_and_the_leader_the_rest_in_order() {
    let mut settings = settings();
    let calico = settings.addons["calico"].clone();
    let with = |order, enabled| crate::config::Addon {
        enabled,
        order,
        ..calico.clone()
    };
    settings.addons.retain(|name, _| name == "calico");
    settings.addons.insert("cloud".into(), with(49, true));
    settings.addons.insert("b".into(), with(100, true));
    settings.addons.insert("a".into(), with(100, true));
    settings.addons.insert("z".into(), with(50, true));
    settings.addons.insert("off".into(), with(1, false));
    let names = |addons: Vec<Addon>| -> Vec<String> {
        addons.into_iter().map(|addon| addon.name).collect()
    };
    let groups = Addon::of_the_founder(&settings).into_iter().map(names);
    assert_eq!(groups.collect::<Vec<_>>(), [["calico"], ["cloud"]]);
    assert_eq!(names(Addon::of_the_leader(&settings)), ["z", "a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn an_addon_is_applied_waited_for_and_recorded_last() {
    let fake = fake();
    fake.cluster
        .rollouts([vec!["DaemonSet calico-node 0/1".to_owned()], vec![]]);
    let (notes, shown) = Notes::new();
    let (world, addon) = (fake.ports(), addon());
    assert!(matches!(
        addon.check(&world).await.unwrap(),
        State::Differs(_)
    ));
    addon.apply(&world, &notes).await.unwrap();
    assert_eq!(
        shown.borrow().as_deref(),
        Some("the roll-out of calico: DaemonSet calico-node 0/1")
    );
    assert_eq!(addon.check(&world).await.unwrap(), State::AsWanted);
    let applied = fake.cluster.applied();
    assert_eq!(applied[0].1[0]["metadata"]["name"], "calico-node");
    assert_eq!(
        applied[1].1[0]["metadata"]["name"],
        "k8s-bootstrap-addon-calico"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_hangs_is_not_recorded() {
    let fake = fake();
    fake.cluster
        .rollouts(vec![vec!["calico-node 0/1".to_owned()]; 1000]);
    let error = addon()
        .apply(&fake.ports(), &Notes::unread())
        .await
        .unwrap_err();
    assert!(error.one_line().contains("calico-node 0/1"), "{error}");
    assert!(matches!(
        addon().check(&fake.ports()).await.unwrap(),
        State::Differs(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_new_patch_changes_an_addon_but_a_new_mirror_does_not() {
    let fake = fake();
    let (world, mut addon) = (fake.ports(), addon());
    addon.apply(&world, &Notes::unread()).await.unwrap();
    addon.sources[0].url = "https://mirror.example.com/calico.yaml".into();
    assert_eq!(addon.check(&world).await.unwrap(), State::AsWanted);
    addon.patches.push(Patch {
        kind: None,
        name: None,
        merge: Some(json!({})),
        json: None,
    });
    assert!(matches!(
        addon.check(&world).await.unwrap(),
        State::Differs(_)
    ));
}

fn from(url: &str) -> Addon {
    let mut addon = addon();
    addon.patches.clear();
    addon.sources = vec![Source {
        url: url.to_owned(),
        inline: String::new(),
        sha256: String::new(),
    }];
    addon
}

fn load(text: &str) -> Addon {
    let fragment = crate::config::Fragment::parse("c", text).unwrap();
    let addons = Addon::of_the_leader(&crate::config::load(&[fragment]).unwrap());
    let mut addons = addons.into_iter();
    addons.find(|addon| addon.name == "mine").unwrap()
}

/// `chart/rendered.yaml` is what the documented command prints for the chart next to it, with Helm
/// 3.18.6: `helm template mine . --namespace mine --include-crds --no-hooks`.
#[tokio::test(start_paused = true)]
async fn what_helm_prints_is_a_source_and_a_patch_names_the_namespace() {
    let fake = FakeWorld::new();
    fake.files
        .put("/chart.yaml", include_str!("chart/rendered.yaml"));
    let mine = load(
        r#"
[addons.mine]
enabled = true
[[addons.mine.sources]]
inline = "{ apiVersion: v1, kind: Namespace, metadata: { name: mine } }"
[[addons.mine.sources]]
url = "file:///chart.yaml"
[[addons.mine.patches]]
kind = "Deployment"
merge = { metadata = { namespace = "mine" } }
[[addons.mine.patches]]
kind = "Service"
merge = { metadata = { namespace = "mine" } }
"#,
    );
    let manifests = mine.manifests(&fake.ports()).await.unwrap();
    let objects: Vec<String> = references(&manifests)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        objects,
        [
            "Namespace mine",
            "CustomResourceDefinition visits.example.com",
            "Service mine/mine-page",
            "Deployment mine/mine-page",
        ]
    );
    assert_eq!(
        manifests[1].images(),
        ["docker.io/library/nginx:1.29".to_owned()].into()
    );
}

#[tokio::test(start_paused = true)]
async fn manifests_of_the_settings_get_the_values_patches_and_images_of_the_settings() {
    let text = r#"
[addons.mine]
enabled = true
values = { replicas = 3, host = "www.example.com" }
image_overrides = { "docker.io/library/nginx" = "registry.example.com/nginx:1" }
[[addons.mine.sources]]
inline = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: "{values.replicas}"
  template: {spec: {containers: [{name: web, image: "docker.io/library/nginx:1.29"}]}}
"""
[[addons.mine.patches]]
merge.metadata.annotations.host = "{values.host}"
"#;
    let (mine, world) = (load(text), FakeWorld::new().ports());
    let manifests = mine.manifests(&world).await.unwrap();
    assert_eq!(manifests[0].place, "inline");
    let object = &manifests[0].objects[0];
    assert_eq!(object["spec"]["replicas"], 3);
    assert_eq!(object["metadata"]["annotations"]["host"], "www.example.com");
    let container = &object["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example.com/nginx:1");
    // Each of them makes another version of the add-on.
    let digest = mine.digest(&world).await.unwrap();
    for (from, to) in [("= 3", "= 4"), ("nginx:1\"", "nginx:2\""), ("1.29", "1.30")] {
        let changed = load(&text.replace(from, to));
        assert_ne!(changed.digest(&world).await.unwrap(), digest, "{from}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_manifests_of_a_folder_are_sorted_by_name() {
    let fake = fake();
    let world = fake.ports();
    let addon = from("file:///m");
    assert_eq!(
        addon.manifests(&world).await.err().unwrap().one_line(),
        "add-on calico: /m does not exist"
    );
    for (file, name) in [("b.yaml", "b"), ("a.yml", "a"), ("notes.txt", "[")] {
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
        fake.files.put(format!("/m/{file}"), text);
    }
    let before = addon.digest(&world).await.unwrap();
    let names: Vec<String> = references(&addon.manifests(&world).await.unwrap())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["ConfigMap a", "ConfigMap b"]);
    fake.files.put("/m/b.yaml", "not: an object");
    assert_ne!(addon.digest(&world).await.unwrap(), before);
    let error = addon.manifests(&world).await.err().unwrap();
    assert!(
        error
            .one_line()
            .starts_with("add-on calico: /m/b.yaml: document 1"),
        "{error}"
    );
    let file = from("file:///m/a.yml").manifests(&world).await.unwrap();
    assert_eq!(file[0].place, "/m/a.yml");
}

#[tokio::test(start_paused = true)]
async fn embedded_manifests_contain_objects_and_come_after_their_namespaces() {
    for (name, _) in crate::config::EMBEDDED {
        let mut addon = from(&format!("embedded:{name}"));
        addon.values.insert("image".into(), "a.example/b".into());
        let manifests = addon.manifests(&fake().ports()).await.unwrap();
        assert!(!manifests[0].objects.is_empty(), "{name}");
    }
    let mut settings = settings();
    for addon in settings.addons.values_mut() {
        addon.enabled = true;
    }
    for mut addon in Addon::of_the_leader(&settings) {
        addon.values.insert("image".into(), "a.example/b".into());
        if !addon.sources[0].url.starts_with("embedded:") {
            continue;
        }
        let mut namespaces = Vec::new();
        for object in references(&addon.manifests(&fake().ports()).await.unwrap()) {
            if object.kind == "Namespace" {
                namespaces.push(object.name.clone());
            }
            if let Some(namespace) = &object.namespace {
                assert!(namespaces.contains(namespace), "{object}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_defaults_set_default_classes_and_allow_ingress_rules_without_a_host() {
    let settings = settings();
    let fake = fake();
    let object = |kind: &str, name: &str, more: &str| {
        format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n{more}")
    };
    let daemon = "spec: {template: {spec: {containers: [{name: c, args: [-a]}]}}}\n";
    for addon in Addon::of_the_leader(&settings) {
        for source in addon.sources {
            let text = match source.url.rsplit('/').next().unwrap() {
                "local-path-storage.yaml" => object("StorageClass", "local-path", ""),
                "ingress-class.yaml" => object("IngressClass", "nginx", ""),
                "nginx-ingress.yaml" => object("DaemonSet", "nginx-ingress", daemon),
                _ => String::new(),
            };
            fake.downloads.offer(&source.url, &source.sha256, &text);
        }
    }
    let mut objects = Vec::new();
    for addon in Addon::of_the_leader(&settings) {
        for manifest in addon.manifests(&fake.ports()).await.unwrap() {
            objects.extend(manifest.objects);
        }
    }
    let annotations: Vec<&Value> = objects[..2]
        .iter()
        .map(|object| &object["metadata"]["annotations"])
        .collect();
    assert_eq!(
        annotations,
        [
            &json!({"storageclass.kubernetes.io/is-default-class": "true"}),
            &json!({"ingressclass.kubernetes.io/is-default-class": "true"}),
        ]
    );
    let args = &objects[2]["spec"]["template"]["spec"]["containers"][0]["args"];
    assert_eq!(args, &json!(["-a", "-allow-empty-ingress-host"]));
}

/// The application's objects, with these settings merged over the defaults.
async fn application(more: &str) -> Vec<Value> {
    let text = format!(
        "[addons.visits]\nenabled = true\nvalues.image = \"registry.example.com/visits:1\"\n{more}"
    );
    let fragment = crate::config::Fragment::parse("c", &text).unwrap();
    let settings = crate::config::load(&[fragment]).unwrap();
    let addons = Addon::of_the_leader(&settings);
    let visits = addons.iter().find(|addon| addon.name == "visits").unwrap();
    let manifests = visits.manifests(&FakeWorld::new().ports()).await.unwrap();
    let objects = manifests.into_iter().flat_map(|manifest| manifest.objects);
    objects.collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|o| o["kind"] == kind).unwrap()
}

async fn ingress(more: &str) -> Value {
    of_kind(&application(more).await, "Ingress").clone()
}

/// An update of the add-on would reset a number of replicas that it names.
#[tokio::test(start_paused = true)]
async fn only_the_autoscaler_decides_how_many_pods_serve_the_page() {
    let objects = application("").await;
    let page = of_kind(&objects, "Deployment");
    assert_eq!(page["spec"]["replicas"], Value::Null);
    let scaler = of_kind(&objects, "HorizontalPodAutoscaler");
    let target = &scaler["spec"]["scaleTargetRef"];
    assert_eq!(target["kind"], page["kind"]);
    assert_eq!(target["name"], page["metadata"]["name"]);
    let container = &page["spec"]["template"]["spec"]["containers"][0];
    assert_ne!(container["resources"]["requests"]["cpu"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_the_page_is_served_over_plain_http_and_with_one_it_redirects() {
    let redirect = |ingress: &Value| {
        let annotations = &ingress["metadata"]["annotations"];
        annotations["nginx.org/ssl-redirect"].clone()
    };
    let plain = ingress("").await;
    assert_eq!(plain["spec"]["tls"], Value::Null);
    assert_eq!(redirect(&plain), "false");
    // All other Ingresses keep the controller's default: those with a certificate redirect.
    let nginx = settings().addons["ingress-nginx"].clone();
    assert!(!serde_json::to_string(&nginx).unwrap().contains("redirect"));

    let page = include_str!("../../../docs/application.md");
    let (_, recipe) = page.split_once("## With a certificate").unwrap();
    let recipe = recipe.split("```").nth(1).unwrap();
    let secure = ingress(recipe.strip_prefix("toml").unwrap()).await;
    let host = &secure["spec"]["rules"][0]["host"];
    assert_eq!(&secure["spec"]["tls"][0]["hosts"][0], host);
    assert_eq!(redirect(&secure), "true");
    let path = &secure["spec"]["rules"][0]["http"]["paths"][0];
    assert_eq!(path["backend"]["service"]["name"], "backend");
}

#[tokio::test(start_paused = true)]
async fn an_embedded_manifest_that_does_not_exist_is_refused() {
    let error = from("embedded:nowhere")
        .check(&fake().ports())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.one_line().contains("`nowhere`"), "{error}");
}
