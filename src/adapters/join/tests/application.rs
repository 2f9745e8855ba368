//! Applications with a valid proof: who may join, and as what.

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{
    stage::{ACCOUNT, CONTROL_PLANE, NODE, Stage, applicant, token, workers},
    sts::Keys,
};
use crate::{
    observe::record,
    ports::{Applicant, InstanceState, Role},
};

#[tokio::test]
async fn a_worker_gets_a_token_for_its_own_name_and_finds_its_node() {
    let stage = Stage::new().await;
    let ticket = stage.join().await.unwrap();
    assert!(ticket.certificate_key.is_none());
    assert_eq!(ticket.expires.to_string(), "2026-11-23T12:10:00Z");
    let (owner, secrets) = stage.fake.cluster.applied().remove(0);
    let secret = &secrets[0];
    assert_eq!(owner, "join");
    assert_eq!(
        secret["metadata"]["annotations"]["k8s-bootstrap.io/node"],
        NODE
    );
    assert_eq!(
        secret["metadata"]["annotations"]["k8s-bootstrap.io/instance"],
        "i-w"
    );
    assert_eq!(secret["stringData"]["expiration"], "2026-11-23T12:10:00Z");
    let text = |key: &str| secret["stringData"][key].as_str().unwrap().to_owned();
    assert_eq!(
        token(&ticket),
        format!("{}.{}", text("token-id"), text("token-secret"))
    );
    let node = stage
        .fake
        .cluster
        .objects()
        .remove(&format!("Node {NODE}"))
        .unwrap();
    assert_eq!(node["spec"]["providerID"], "aws:///eu-central-1a/i-w");
    assert_eq!(node["metadata"]["labels"]["team"], "blue");
    stage.no_secret("a worker joins");
    let log = stage.log();
    assert!(!log.contains(&token(&ticket)), "{log}");
    assert!(log.contains("worker i-w joins as"), "{log}");

    // If it is killed on the way, it asks again; then the first token is gone.
    let again = stage.join().await.unwrap();
    assert_ne!(token(&again), token(&ticket));
    let objects = stage.fake.cluster.objects();
    let tokens = objects
        .keys()
        .filter(|key| key.contains("bootstrap-token-"));
    assert_eq!(tokens.count(), 1);
}

#[tokio::test]
async fn a_control_plane_with_the_control_planes_own_role_gets_the_certificate_key() {
    let keys = Keys::of("ASIASECOND", ACCOUNT, "control-planes", "i-w");
    let stage = Stage::knowing(keys.clone()).await;
    stage.ec2_lists(|instance| instance.role = Some(Role::ControlPlane));
    let wish = Applicant {
        role: Role::ControlPlane,
        ..applicant()
    };
    let ticket = stage.join_as(&keys, &wish).await.unwrap();
    let key = ticket.certificate_key.unwrap();
    assert_eq!(key.expose_secret(), "ab".repeat(32));
    stage.no_secret("a control plane joins");
}

#[tokio::test]
async fn a_third_control_plane_is_admitted_once_the_cluster_is_recorded_as_settled() {
    let keys = Keys::of("ASIASECOND", ACCOUNT, "control-planes", "i-w");
    let stage = Stage::knowing(keys.clone()).await;
    stage.ec2_lists(|instance| instance.role = Some(Role::ControlPlane));
    stage.fake.etcd.voter("cp2", 12);
    let wish = Applicant {
        role: Role::ControlPlane,
        ..applicant()
    };
    let error = stage.join_as(&keys, &wish).await.unwrap_err();
    assert!(error.one_line().contains("cannot be recorded"), "{error}");
    stage.fake.record("uid", "i-cp").await;
    stage.join_as(&keys, &wish).await.unwrap();
    let record = record::read(stage.fake.store.as_ref()).await.unwrap();
    assert_eq!(record.settled.unwrap().instance, "i-cp");
}

#[tokio::test]
async fn other_accounts_and_users_are_refused() {
    for (case, keys, reason) in [
        (
            "another account",
            Keys::of("ASIAOTHER", "999999999999", "workers", "i-w"),
            "another AWS account",
        ),
        (
            "a user",
            Keys {
                id: "AKIAUSER",
                arn: format!("arn:aws:iam::{ACCOUNT}:user/i-w"),
            },
            "STS does not accept",
        ),
        (
            "a session of a person",
            Keys::of("ASIAPERSON", ACCOUNT, "admin", "somebody"),
            "not signed by that instance",
        ),
        (
            "another instance",
            Keys::of("ASIAELSE", ACCOUNT, "workers", "i-cp"),
            "not signed by that instance",
        ),
    ] {
        let stage = Stage::knowing(keys.clone()).await;
        stage.not_let_in(case, stage.join_as(&keys, &applicant()).await, reason);
    }
    let stage = Stage::new().await;
    let stranger = Keys::of("ASIAUNKNOWN", ACCOUNT, "workers", "i-w");
    let outcome = stage.join_as(&stranger, &applicant()).await;
    stage.not_let_in(
        "keys that STS does not know",
        outcome,
        "STS does not accept",
    );
}

#[tokio::test]
async fn only_listed_roles_may_join() {
    let stage = Stage::set(|s| s.join.worker_roles = vec!["nodes".to_owned()]).await;
    let outcome = stage.join().await;
    stage.not_let_in(
        "a role not on the list",
        outcome,
        "role workers may not join as worker",
    );

    let stage = Stage::set(|s| s.join.worker_roles = vec!["workers".to_owned()]).await;
    stage.join().await.unwrap();

    let stage = Stage::new().await;
    stage.ec2_lists(|instance| instance.profile = Some("pods".to_owned()));
    let outcome = stage.join().await;
    stage.not_let_in(
        "a role that is not the instance's own",
        outcome,
        "role workers may not join as worker: the instance's profile is pods",
    );

    let as_control_plane = Applicant {
        role: Role::ControlPlane,
        ..applicant()
    };
    let stage = Stage::new().await;
    stage.ec2_lists(|instance| instance.role = Some(Role::ControlPlane));
    let outcome = stage.join_as(&workers(), &as_control_plane).await;
    stage.not_let_in(
        "a worker's role with a control plane's tag",
        outcome,
        "role workers may not join as control-plane",
    );
    let listed = |s: &mut crate::config::Settings| {
        s.join.control_plane_roles = vec!["masters".to_owned()];
    };
    let stage = Stage::set(listed).await;
    stage.ec2_lists(|instance| instance.role = Some(Role::ControlPlane));
    let outcome = stage.join_as(&workers(), &as_control_plane).await;
    stage.not_let_in(
        "a role not on the control planes' list",
        outcome,
        "may not join",
    );
}

#[tokio::test]
async fn a_worker_gets_no_certificate_key_whatever_its_role() {
    let keys = Keys::of("ASIASECOND", ACCOUNT, "control-planes", "i-w");
    let stage = Stage::knowing(keys.clone()).await;
    let wish = Applicant {
        role: Role::ControlPlane,
        ..applicant()
    };
    let outcome = stage.join_as(&keys, &wish).await;
    stage.not_let_in("tagged as a worker", outcome, "not tagged as control-plane");
    stage.ec2_lists(|instance| instance.role = None);
    stage.clock.forward(Duration::from_secs(5));
    let outcome = stage.join_as(&keys, &wish).await;
    stage.not_let_in("without a tag", outcome, "not tagged as control-plane");
    let ran = stage.fake.commands.ran();
    assert!(ran.is_empty(), "{ran:?}");
}

#[tokio::test]
async fn ec2_must_list_the_instance_as_running_in_this_cluster_at_that_address() {
    let stage = Stage::new().await;
    let others_only = || {
        stage
            .fake
            .ec2
            .list([super::stage::control_plane_instance()]);
    };
    others_only();
    stage.not_let_in(
        "another cluster's",
        stage.join().await,
        "no such instance in this cluster",
    );
    for state in [
        InstanceState::Pending,
        InstanceState::ShuttingDown,
        InstanceState::Terminated,
        InstanceState::Stopping,
        InstanceState::Stopped,
    ] {
        stage.clock.forward(Duration::from_secs(5));
        stage.ec2_lists(|instance| {
            instance.state = state;
            if state == InstanceState::Terminated {
                instance.profile = None;
            }
        });
        stage.not_let_in(&format!("{state:?}"), stage.join().await, "as running");
    }
    for address in [None, Some([10, 42, 0, 11].into())] {
        stage.clock.forward(Duration::from_secs(5));
        stage.ec2_lists(|instance| instance.private_ip = address);
        stage.not_let_in("another address", stage.join().await, "private address");
    }
    stage.clock.forward(Duration::from_secs(5));
    stage
        .fake
        .ec2
        .fail_with(|| crate::error::Error::failed("throttled by secret account details"));
    let outcome = stage.join().await;
    let said = outcome.as_ref().err().map(crate::error::Error::one_line);
    assert!(!said.unwrap().contains("details"), "the cause is not shown");
    stage.not_let_in("EC2 does not answer", outcome, "EC2 does not answer now");
}

#[tokio::test]
async fn names_of_others_are_refused() {
    let stage = Stage::new().await;
    for (case, name) in [
        (
            "another node's name",
            "ip-10-42-0-12.eu-central-1.compute.internal",
        ),
        ("a control plane's name", CONTROL_PLANE),
        ("no name", ""),
    ] {
        let wish = Applicant {
            node: name.to_owned(),
            ..applicant()
        };
        let outcome = stage.join_as(&workers(), &wish).await;
        stage.not_let_in(case, outcome, "not the instance's private DNS name");
    }
    let wish = Applicant {
        cluster: "other".to_owned(),
        ..applicant()
    };
    let outcome = stage.join_as(&workers(), &wish).await;
    stage.not_let_in("another cluster", outcome, "another cluster");
    let proof = workers().sign(&stage.honest(&stage.nonce().await));
    let answer = stage
        .post(&json!({"applicant": wish, "proof": proof}))
        .await;
    stage.refused(
        "another cluster in the application only",
        answer,
        403,
        "this control plane belongs to another cluster",
    );
}

fn there(provider: &str, ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
        "spec": {"providerID": provider},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })
}

#[tokio::test]
async fn the_name_of_a_ready_node_is_refused_to_other_instances() {
    let stage = Stage::new().await;
    for provider in ["aws:///eu-central-1a/i-0", "aws:///eu-central-1a/xi-w", ""] {
        stage.fake.cluster.put(there(provider, "True"));
        let outcome = stage.join().await;
        stage.not_let_in(provider, outcome, "Ready and belongs to another instance");
    }
    let stage = Stage::new().await;
    stage
        .fake
        .cluster
        .put(there("aws:///eu-central-1a/i-0", "Unknown"));
    stage.join().await.unwrap();
}

/// A pod of the worker has its address, and perhaps keys whose session it may name.
#[tokio::test]
async fn a_worker_whose_node_is_ready_gets_no_second_token() {
    let own = "aws:///eu-central-1a/i-w";
    let stage = Stage::new().await;
    stage.fake.cluster.put(there(own, "True"));
    let outcome = stage.join().await;
    stage.not_let_in("a Ready worker", outcome, "it needs no second token");
    stage.fake.cluster.put(there(own, "Unknown"));
    stage.join().await.unwrap();

    // A control plane's kubelet is Ready before its join is complete.
    let keys = Keys::of("ASIASECOND", ACCOUNT, "control-planes", "i-w");
    let stage = Stage::knowing(keys.clone()).await;
    stage.ec2_lists(|instance| instance.role = Some(Role::ControlPlane));
    stage.fake.cluster.put(there(own, "True"));
    let wish = Applicant {
        role: Role::ControlPlane,
        ..applicant()
    };
    stage.join_as(&keys, &wish).await.unwrap();
}

#[tokio::test]
async fn a_node_that_links_an_etcd_member_to_a_dead_instance_is_not_replaced() {
    let keys = Keys::of("ASIASECOND", ACCOUNT, "control-planes", "i-w");
    for role in [Role::Worker, Role::ControlPlane] {
        let stage = Stage::knowing(keys.clone()).await;
        stage.ec2_lists(|instance| {
            instance.role = Some(role);
            instance.profile = Some("control-planes".to_owned());
        });
        let wish = Applicant {
            role,
            ..applicant()
        };
        let dead = there("aws:///eu-central-1a/i-0", "Unknown");
        stage.fake.cluster.put(dead.clone());
        let member = stage.fake.etcd.voter(NODE, 11);
        stage.not_let_in(
            role.as_str(),
            stage.join_as(&keys, &wish).await,
            "an instance that had this address before",
        );
        let objects = stage.fake.cluster.objects();
        assert_eq!(objects[&format!("Node {NODE}")], dead, "{role}");
        stage.fake.ports().etcd.remove(member.id).await.unwrap();
        stage.join_as(&keys, &wish).await.unwrap();
    }
}

#[tokio::test]
async fn labels_beyond_a_kubelets_rights_are_refused() {
    let stage = Stage::new().await;
    for key in [
        "node-role.kubernetes.io/control-plane",
        "node-restriction.kubernetes.io/trusted",
        "topology.kubernetes.io/zone",
    ] {
        let wish = Applicant {
            labels: [(key.to_owned(), "x".to_owned())].into(),
            ..applicant()
        };
        stage.not_let_in(key, stage.join_as(&workers(), &wish).await, key);
    }
}

#[tokio::test]
async fn no_node_is_admitted_while_the_api_is_down() {
    let stage = Stage::new().await;
    stage.fake.cluster.down(true);
    let outcome = stage.join().await;
    stage.not_let_in(
        "the API is down",
        outcome,
        "the Kubernetes API does not answer now",
    );
    stage.fake.cluster.down(false);
    stage.join().await.unwrap();
}
