//! Applications: of those who may join and of those who would like to.

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

use super::{
    stage::{ACCOUNT, CONTROL_PLANE, NODE, Stage, applicant, token, workers},
    sts::{Keys, Signed},
};
use crate::{
    join::{CLUSTER_HEADER, NONCE_HEADER},
    observe::record,
    ports::{Applicant, InstanceState, Role},
};

/// What an attacker makes of something honest.
type Change<T> = fn(&mut T);

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

    // Killed on the way it asks again: the first token is gone then.
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
async fn a_third_control_plane_is_let_in_once_the_store_says_that_the_cluster_stays() {
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
async fn nonces_are_good_once_for_a_minute_and_for_who_asked() {
    let stage = Stage::new().await;
    let nonce = stage.nonce().await;
    let proof = workers().sign(&stage.honest(&nonce));
    let mut broken = proof.clone();
    flip_signature(&mut broken);
    let answer = stage.prove(&broken).await;
    stage.refused("a tampered signature", answer, 403, "STS does not accept");
    let answer = stage.prove(&proof).await;
    stage.refused("the nonce of a refused proof", answer, 403, "used before");

    let late = stage.nonce().await;
    let proof = workers().sign(&stage.honest(&late));
    stage.clock.forward(Duration::from_mins(1));
    let answer = stage.prove(&proof).await;
    stage.refused("an expired nonce", answer, 403, "expired");

    let invented = workers().sign(&stage.honest("0123456789abcdef0123456789abcdef"));
    let answer = stage.prove(&invented).await;
    stage.refused("an invented nonce", answer, 403, "unknown here");

    let other = Stage::new().await;
    let proof = workers().sign(&stage.honest(&other.nonce().await));
    let answer = stage.prove(&proof).await;
    // The other stage's log is the current one by now.
    assert_eq!(
        (answer.0, answer.1.contains("unknown here")),
        (403, true),
        "{answer:?}"
    );
    stage.gave_nothing("another control plane's nonce");
}

#[tokio::test]
async fn a_proof_that_let_somebody_in_lets_nobody_in_again() {
    let stage = Stage::new().await;
    let proof = workers().sign(&stage.honest(&stage.nonce().await));
    let (status, _) = stage.prove(&proof).await;
    assert_eq!(status, 200);
    let tokens = stage.fake.cluster.applied().len();
    let (status, reason) = stage.prove(&proof).await;
    assert_eq!(
        (status, reason.contains("used before")),
        (403, true),
        "{reason}"
    );
    assert_eq!(stage.fake.cluster.applied().len(), tokens);
}

fn flip_signature(headers: &mut [(String, String)]) {
    let authorization = headers.iter_mut().find(|(name, _)| name == "authorization");
    let value = &mut authorization.unwrap().1;
    let last = value.pop().unwrap();
    value.push(if last == '0' { '1' } else { '0' });
}

/// What is signed differs from what the server forwards: STS sees that.
#[tokio::test]
async fn whatever_else_is_signed_does_not_fit_what_is_forwarded() {
    let stage = Stage::new().await;
    let cases: [(&str, Change<Signed>); 9] = [
        ("another body", |s| {
            s.body = "Action=GetSessionToken&Version=2011-06-15".into();
        }),
        ("a longer body", |s| s.body.push_str("&DurationSeconds=900")),
        ("two actions", |s| s.body.push_str("&Action=AssumeRole")),
        ("GET", |s| s.method = "GET"),
        ("another path", |s| s.url.push('x')),
        ("an action in the query", |s| {
            s.url.push_str("?Action=AssumeRole");
        }),
        ("a foreign host", |s| {
            s.url = "https://sts.example.com/".into();
        }),
        ("a foreign port", |s| s.url = "http://127.0.0.1:1/".into()),
        ("another user's name in the host", |s| {
            s.url = s.url.replace("http://", "https://");
            s.url = s.url.replace("127.0.0.1:", "127.0.0.1.example.com:");
        }),
    ];
    for (case, change) in cases {
        let mut signed = stage.honest(&stage.nonce().await);
        change(&mut signed);
        let answer = stage.prove(&workers().sign(&signed)).await;
        stage.refused(case, answer, 403, "STS does not accept");
        stage.clock.forward(Duration::from_secs(10));
    }
}

/// What the form of a proof has no place for is not even looked at.
#[tokio::test]
async fn nobody_tells_the_server_where_to_send_a_proof_or_what() {
    let stage = Stage::new().await;
    let honest = workers().sign(&stage.honest(&stage.nonce().await));
    for (member, value) in [
        ("url", "https://sts.example.com/"),
        ("url", "https://sts.eu-central-1.amazonaws.com@example.com/"),
        ("host", "sts.eu-central-1.amazonaws.com:444"),
        ("method", "GET"),
        ("body", "Action=AssumeRole"),
        ("region", "us-east-1"),
    ] {
        let mut application = json!({"applicant": applicant(), "proof": honest});
        application[member] = value.into();
        let answer = stage.post(&application).await;
        stage.refused(member, answer, 400, "not of the expected form");
        let mut application = json!({"applicant": applicant(), "proof": honest});
        application["applicant"][member] = value.into();
        let answer = stage.post(&application).await;
        stage.refused(member, answer, 400, "not of the expected form");
        stage.clock.forward(Duration::from_secs(5));
    }
    assert!(stage.sts.received_requests().await.unwrap().is_empty());
}

type Headers = Vec<(String, String)>;

fn add(headers: &mut Headers, name: &str, value: &str) {
    headers.push((name.to_owned(), value.to_owned()));
}

fn drop_header(headers: &mut Headers, name: &str) {
    headers.retain(|(n, _)| n != name);
}

fn edit(headers: &mut Headers, name: &str, change: impl Fn(&str) -> String) {
    for (n, value) in headers {
        if n == name {
            *value = change(value);
        }
    }
}

#[tokio::test]
async fn a_proof_has_its_headers_each_once_and_all_of_them_signed() {
    let stage = Stage::new().await;
    let cases: [(&str, u16, &str, Change<Headers>); 21] = [
        ("a host", 400, "no proof has", |h| {
            drop_header(h, "content-type");
            add(h, "host", "sts.example.com");
        }),
        ("a header in capitals", 400, "no proof has", |h| {
            drop_header(h, "x-amz-date");
            add(h, "X-Amz-Date", "20261123T120000Z");
        }),
        ("a header of the forwarding", 400, "no proof has", |h| {
            drop_header(h, "content-type");
            add(h, "transfer-encoding", "chunked");
        }),
        ("one header more", 400, "too many headers", |h| {
            add(h, "x-more", "1");
        }),
        ("many headers", 400, "too many headers", |h| {
            (0..500).for_each(|n| add(h, &format!("x-{n}"), "1"));
        }),
        ("two nonces", 400, "twice", |h| {
            drop_header(h, "x-amz-security-token");
            add(h, NONCE_HEADER, "another");
        }),
        ("two clusters", 400, "twice", |h| {
            drop_header(h, "x-amz-security-token");
            add(h, CLUSTER_HEADER, "other");
        }),
        ("no nonce", 400, "no header x-k8s-bootstrap-nonce", |h| {
            drop_header(h, NONCE_HEADER);
        }),
        (
            "no cluster",
            400,
            "no header x-k8s-bootstrap-cluster",
            |h| {
                drop_header(h, CLUSTER_HEADER);
            },
        ),
        ("no date", 400, "no header x-amz-date", |h| {
            drop_header(h, "x-amz-date");
        }),
        ("no authorization", 400, "no header authorization", |h| {
            drop_header(h, "authorization");
        }),
        (
            "no header at all",
            400,
            "no header authorization",
            Vec::clear,
        ),
        (
            "a signed header that is missing",
            400,
            "does not carry",
            |h| {
                drop_header(h, "x-amz-security-token");
            },
        ),
        ("another cluster's name", 403, "another cluster", |h| {
            edit(h, CLUSTER_HEADER, |_| "other".to_owned());
        }),
        (
            "an unsigned nonce",
            403,
            "header x-k8s-bootstrap-nonce is not signed",
            |h| {
                edit(h, "authorization", |v| {
                    v.replace(";x-k8s-bootstrap-nonce", "")
                });
            },
        ),
        (
            "an unsigned cluster",
            403,
            "header x-k8s-bootstrap-cluster is not signed",
            |h| {
                edit(h, "authorization", |v| {
                    v.replace(";x-k8s-bootstrap-cluster", "")
                });
            },
        ),
        ("an unsigned host", 403, "header host is not signed", |h| {
            edit(h, "authorization", |v| v.replace("host;", ""));
        }),
        ("another content type", 400, "another content type", |h| {
            edit(h, "content-type", |_| "application/json".to_owned());
        }),
        ("a header with a line break", 400, "not printable", |h| {
            edit(h, "x-amz-date", |v| format!("{v}\r\nhost: example.com"));
        }),
        ("a header without an end", 400, "too long", |h| {
            edit(h, "x-amz-security-token", |_| "x".repeat(5000));
        }),
        ("another algorithm", 400, "no Signature Version 4", |h| {
            edit(h, "authorization", |v| {
                v.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")
            });
        }),
    ];
    let nonce = stage.nonce().await;
    for (case, status, reason, change) in cases {
        let mut headers = workers().sign(&stage.honest(&nonce));
        change(&mut headers);
        let answer = stage.prove(&headers).await;
        stage.refused(case, answer, status, reason);
        stage.clock.forward(Duration::from_secs(1));
    }
    assert!(stage.sts.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_proof_for_another_service_or_region_is_not_forwarded() {
    let stage = Stage::new().await;
    let cases: [(&str, Change<Signed>); 2] = [
        ("another region", |s| s.region = "us-east-1"),
        ("another service", |s| s.service = "ec2"),
    ];
    for (case, change) in cases {
        let mut signed = stage.honest(&stage.nonce().await);
        change(&mut signed);
        let answer = stage.prove(&workers().sign(&signed)).await;
        stage.refused(case, answer, 403, "another region or service");
    }
    assert!(stage.sts.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_sts_that_redirects_fails_or_never_ends_lets_nobody_in() {
    let stage = Stage::new().await;
    let trap = MockServer::start().await;
    let cases = [
        (
            "a redirect",
            ResponseTemplate::new(302).insert_header("location", trap.uri()),
            "STS gives no verdict",
        ),
        (
            "an error",
            ResponseTemplate::new(500),
            "STS gives no verdict",
        ),
        (
            "throttling",
            ResponseTemplate::new(400).set_body_string(
                "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>",
            ),
            "STS gives no verdict",
        ),
        (
            "an answer without an end",
            ResponseTemplate::new(200).set_body_bytes(vec![b'x'; 1 << 20]),
            "STS gives no verdict",
        ),
        (
            "an answer that names nobody",
            ResponseTemplate::new(200).set_body_string("<html/>"),
            "STS does not accept",
        ),
    ];
    for (case, answer, reason) in cases {
        stage.sts.reset().await;
        Mock::given(matchers::any())
            .respond_with(answer)
            .mount(&stage.sts)
            .await;
        stage.not_let_in(case, stage.join().await, reason);
    }
    assert!(trap.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_sts_that_is_busy_for_a_moment_is_asked_again_with_the_same_proof() {
    let stage = Stage::new().await;
    let busy = "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>";
    Mock::given(matchers::any())
        .respond_with(ResponseTemplate::new(400).set_body_string(busy))
        .up_to_n_times(2)
        .with_priority(1)
        .mount(&stage.sts)
        .await;
    stage.join().await.unwrap();
}

#[tokio::test]
async fn other_accounts_and_users_are_nobody() {
    for (case, keys, reason) in [
        (
            "another account",
            Keys::of("ASIAOTHER", "999999999999", "workers", "i-w"),
            "another account",
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
async fn roles_are_those_of_the_lists() {
    let stage = Stage::set(|s| s.join.worker_roles = vec!["nodes".to_owned()]).await;
    let outcome = stage.join().await;
    stage.not_let_in(
        "a role not on the list",
        outcome,
        "role workers may not join as worker",
    );

    let stage = Stage::set(|s| s.join.worker_roles = vec!["workers".to_owned()]).await;
    stage.join().await.unwrap();

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
async fn a_worker_gets_no_control_planes_material_whatever_its_role() {
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
async fn ec2_must_know_the_instance_as_running_here_and_at_that_address() {
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
        stage.ec2_lists(|instance| instance.state = state);
        stage.not_let_in(&format!("{state:?}"), stage.join().await, "does not run");
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
    assert!(!said.unwrap().contains("details"), "the cause is ours");
    stage.not_let_in("EC2 is away", outcome, "EC2 does not answer now");
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
        "another cluster by word alone",
        answer,
        403,
        "this is another cluster",
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
async fn the_name_of_a_node_that_is_ready_is_its_own() {
    let stage = Stage::new().await;
    for provider in ["aws:///eu-central-1a/i-0", "aws:///eu-central-1a/xi-w", ""] {
        stage.fake.cluster.put(there(provider, "True"));
        let outcome = stage.join().await;
        stage.not_let_in(provider, outcome, "Ready and belongs to another instance");
    }
    stage
        .fake
        .cluster
        .put(there("aws:///eu-central-1a/i-w", "True"));
    stage.join().await.unwrap();

    let stage = Stage::new().await;
    stage
        .fake
        .cluster
        .put(there("aws:///eu-central-1a/i-0", "Unknown"));
    stage.join().await.unwrap();
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
async fn an_api_that_is_away_lets_nobody_in() {
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
