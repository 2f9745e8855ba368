//! Proofs: the nonce, what is signed with it, and what STS answers.

use std::time::Duration;

use serde_json::json;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

use super::{
    stage::{Stage, applicant, workers},
    sts::Signed,
};
use crate::join::{CLUSTER_HEADER, NONCE_HEADER};

/// How an attacker changes an honest request or proof.
type Change<T> = fn(&mut T);

#[tokio::test]
async fn a_nonce_is_valid_once_for_a_minute_and_for_its_requester() {
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
    // By now the other stage's log is the current one.
    assert_eq!(
        (answer.0, answer.1.contains("unknown here")),
        (403, true),
        "{answer:?}"
    );
    stage.gave_nothing("another control plane's nonce");
}

#[tokio::test]
async fn a_proof_is_accepted_only_once() {
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

/// The signed request differs from what the server forwards: STS notices that.
#[tokio::test]
async fn a_signature_of_any_other_request_is_refused() {
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

/// A member that the form does not have is rejected; its value is never used.
#[tokio::test]
async fn an_application_cannot_change_what_is_forwarded_or_where() {
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
        stage.refused(member, answer, 400, "is malformed");
        let mut application = json!({"applicant": applicant(), "proof": honest});
        application["applicant"][member] = value.into();
        let answer = stage.post(&application).await;
        stage.refused(member, answer, 400, "is malformed");
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
async fn a_proof_has_each_header_once_and_all_of_them_signed() {
    let stage = Stage::new().await;
    let cases: [(&str, u16, &str, Change<Headers>); 23] = [
        ("a host", 400, "an unexpected header", |h| {
            drop_header(h, "content-type");
            add(h, "host", "sts.example.com");
        }),
        ("a header in capitals", 400, "an unexpected header", |h| {
            drop_header(h, "x-amz-date");
            add(h, "X-Amz-Date", "20261123T120000Z");
        }),
        (
            "a header of the forwarding",
            400,
            "an unexpected header",
            |h| {
                drop_header(h, "content-type");
                add(h, "transfer-encoding", "chunked");
            },
        ),
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
            "does not contain",
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
        ("another content type", 400, "the wrong content type", |h| {
            edit(h, "content-type", |_| "application/json".to_owned());
        }),
        ("a header with a line break", 400, "not printable", |h| {
            edit(h, "x-amz-date", |v| format!("{v}\r\nhost: example.com"));
        }),
        ("an endless header", 400, "too long", |h| {
            edit(h, "x-amz-security-token", |_| "x".repeat(5000));
        }),
        (
            "half a signature",
            400,
            "not an AWS Signature Version 4",
            |h| {
                edit(h, "authorization", |v| v[..v.len() - 32].to_owned());
            },
        ),
        (
            "a signature of other letters",
            400,
            "not an AWS Signature Version 4",
            |h| {
                edit(h, "authorization", |v| {
                    format!("{}{}", &v[..v.len() - 32], "z".repeat(32))
                });
            },
        ),
        (
            "another algorithm",
            400,
            "not an AWS Signature Version 4",
            |h| {
                edit(h, "authorization", |v| {
                    v.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")
                });
            },
        ),
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
async fn a_header_may_have_4096_bytes() {
    let stage = Stage::new().await;
    let mut headers = workers().sign(&stage.honest(&stage.nonce().await));
    edit(&mut headers, "x-amz-security-token", |_| "x".repeat(4096));
    let answer = stage.prove(&headers).await;
    stage.refused("a token of 4096 bytes", answer, 403, "STS does not accept");
    assert_eq!(stage.sts.received_requests().await.unwrap().len(), 1);
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
async fn no_node_is_admitted_if_sts_redirects_fails_or_never_ends() {
    let stage = Stage::new().await;
    let trap = MockServer::start().await;
    let cases = [
        (
            "a redirect",
            ResponseTemplate::new(302).insert_header("location", trap.uri()),
            "STS cannot verify the proof",
        ),
        (
            "an error",
            ResponseTemplate::new(500),
            "STS cannot verify the proof",
        ),
        (
            "throttling",
            ResponseTemplate::new(400).set_body_string(
                "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>",
            ),
            "STS cannot verify the proof",
        ),
        (
            "an endless answer",
            ResponseTemplate::new(200).set_body_bytes(vec![b'x'; 1 << 20]),
            "STS cannot verify the proof",
        ),
        (
            "an answer without a caller",
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
async fn a_throttled_sts_call_is_retried_with_the_same_proof() {
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
