#![allow(clippy::unwrap_used, clippy::panic)]

use secrecy::ExposeSecret;
use serde_json::json;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{header, method, path},
};

use super::*;
use crate::{error::Kind, ports::Interruption, testing::StoppedClock};

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const INSTANCE: &str = "i-0123456789abcdef0";

/// A metadata service with content from the tests.
struct Service {
    server: MockServer,
    clock: Arc<StoppedClock>,
    imds: Imds,
}

impl Service {
    async fn empty() -> Self {
        let server = MockServer::start().await;
        let clock = StoppedClock::showing("2026-01-01T00:00:00Z");
        let imds = Imds::at(&server.uri(), &Clients::new().unwrap(), clock.clone()).unwrap();
        Self {
            server,
            clock,
            imds,
        }
    }

    /// A service that grants tokens.
    async fn with_tokens() -> Self {
        let service = Self::empty().await;
        service.grants("token-1", 21_600, 100).await;
        service
    }

    async fn grants(&self, token: &str, ttl: u32, times: u64) {
        Mock::given(method("PUT"))
            .and(path("/latest/api/token"))
            .and(header(TTL, "21600"))
            .respond_with(
                ResponseTemplate::new(200)
                    .set_body_string(token)
                    .insert_header(TTL, ttl.to_string().as_str()),
            )
            .up_to_n_times(times)
            .mount(&self.server)
            .await;
    }

    async fn has(&self, at: &str, content: &str) {
        self.answers(
            "GET",
            at,
            ResponseTemplate::new(200).set_body_string(content),
        )
        .await;
    }

    async fn answers(&self, verb: &str, at: &str, answer: ResponseTemplate) {
        Mock::given(method(verb))
            .and(path(format!("/latest/{at}")))
            .respond_with(answer)
            .mount(&self.server)
            .await;
    }

    async fn has_document(&self) {
        let document = json!({
            "accountId": "123456789012", "architecture": "x86_64",
            "availabilityZone": "eu-central-1a", "instanceId": INSTANCE,
            "instanceType": "c7i-flex.large", "privateIp": "10.0.0.1",
            "region": "eu-central-1", "billingProducts": null,
        });
        self.has("dynamic/instance-identity/document", &document.to_string())
            .await;
    }

    async fn has_credentials(&self, key: &str, expires: &str, times: u64) {
        self.has("meta-data/iam/security-credentials", "node-role\n")
            .await;
        let body = json!({
            "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": key,
            "SecretAccessKey": "s3cret", "Token": "t0ken", "Expiration": expires,
        });
        Mock::given(path("/latest/meta-data/iam/security-credentials/node-role"))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
            .up_to_n_times(times)
            .mount(&self.server)
            .await;
    }

    /// The number of requests with this method and path.
    async fn asked(&self, verb: &str, at: &str) -> usize {
        let at = format!("/latest/{at}");
        let requests = self.server.received_requests().await.unwrap();
        requests
            .iter()
            .filter(|r| r.method.as_str() == verb && r.url.path() == at)
            .count()
    }
}

fn remedy(error: &Error) -> &str {
    error.remedy().unwrap_or_default()
}

#[tokio::test]
async fn facts_come_from_the_document_and_one_token_serves_all() {
    let service = Service::empty().await;
    service.grants("token-1", 21_600, 100).await;
    service.has_document().await;
    service
        .has(
            "meta-data/local-hostname",
            "ip-10-0-0-1.eu-central-1.compute.internal\n",
        )
        .await;
    let facts = service.imds.facts().await.unwrap();
    assert_eq!(
        facts,
        InstanceFacts {
            instance_id: INSTANCE.into(),
            instance_type: "c7i-flex.large".into(),
            region: "eu-central-1".into(),
            zone: "eu-central-1a".into(),
            account: "123456789012".into(),
            private_ip: [10, 0, 0, 1].into(),
            local_hostname: "ip-10-0-0-1.eu-central-1.compute.internal".into(),
        }
    );
    assert_eq!(service.asked("PUT", "api/token").await, 1);
    for request in service.server.received_requests().await.unwrap() {
        if request.method.as_str() == "GET" {
            assert_eq!(request.headers[TOKEN], "token-1");
        }
    }
}

#[tokio::test]
async fn the_networks_of_the_vpc_are_those_of_the_first_interface() {
    let service = Service::empty().await;
    service.grants("token-1", 21_600, 100).await;
    service.has("meta-data/mac", "02:aa:bb:cc:dd:ee\n").await;
    service
        .has(
            "meta-data/network/interfaces/macs/02:aa:bb:cc:dd:ee/vpc-ipv4-cidr-blocks",
            "10.0.0.0/16\n100.64.0.0/16",
        )
        .await;
    assert_eq!(
        service.imds.vpc_networks().await.unwrap(),
        ["10.0.0.0/16", "100.64.0.0/16"]
    );
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let service = Service::empty().await;
    service.grants("token-1", 21_600, 1).await;
    service.grants("token-2", 21_600, 1).await;
    service.has("user-data", "x").await;
    for (minutes, tokens) in [(0, 1), (354, 1), (2, 2)] {
        service.clock.forward(Duration::from_mins(minutes));
        service.imds.user_data().await.unwrap();
        assert_eq!(service.asked("PUT", "api/token").await, tokens, "{minutes}");
    }
}

#[tokio::test]
async fn a_rejected_token_is_replaced_once() {
    let service = Service::empty().await;
    service.grants("old", 21_600, 1).await;
    service.grants("new", 21_600, 1).await;
    Mock::given(path("/latest/user-data"))
        .and(header(TOKEN, "old"))
        .respond_with(ResponseTemplate::new(401))
        .mount(&service.server)
        .await;
    Mock::given(path("/latest/user-data"))
        .and(header(TOKEN, "new"))
        .respond_with(ResponseTemplate::new(200).set_body_string("data"))
        .mount(&service.server)
        .await;
    let data = service.imds.user_data().await.unwrap();
    assert_eq!(data.as_deref(), Some(&b"data"[..]));
}

#[tokio::test]
async fn a_service_that_rejects_every_token_ends_in_an_error_instead_of_a_loop() {
    let service = Service::with_tokens().await;
    service
        .answers("GET", "user-data", ResponseTemplate::new(401))
        .await;
    let error = service.imds.user_data().await.unwrap_err();
    assert!(error.one_line().contains("401"), "{error}");
    assert_eq!(service.asked("GET", "user-data").await, 2);
}

#[tokio::test]
async fn a_disabled_service_is_refused_with_the_command_that_enables_it() {
    let service = Service::empty().await;
    service
        .answers("PUT", "api/token", ResponseTemplate::new(403))
        .await;
    let error = service.imds.user_data().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.one_line().contains("403"), "{error}");
    let remedy = remedy(&error);
    assert!(
        remedy.starts_with("IMDS is off: aws ec2 modify-instance-metadata-options --instance-id ")
    );
    assert!(remedy.ends_with("--http-endpoint enabled"), "{remedy}");
}

#[tokio::test]
async fn version_1_alone_is_refused_and_never_used() {
    for status in [404, 405] {
        let service = Service::empty().await;
        service
            .answers("PUT", "api/token", ResponseTemplate::new(status))
            .await;
        service.has("user-data", "by version 1").await;
        let error = service.imds.user_data().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.one_line().contains("only version 1"), "{error}");
        assert!(remedy(&error).contains("--http-tokens required"), "{error}");
        assert_eq!(service.asked("GET", "user-data").await, 0);
    }
}

#[tokio::test]
async fn an_unreachable_service_is_retried_for_a_minute() {
    // A port that was free a moment ago refuses connections.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let clock = StoppedClock::showing("2026-01-01T00:00:00Z");
    let base = format!("http://127.0.0.1:{port}");
    let imds = Imds::at(&base, &Clients::new().unwrap(), clock.clone()).unwrap();
    let error = imds.user_data().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed, "the network may come up later");
    assert!(error.one_line().contains("refused"), "{error}");
    assert!(
        remedy(&error).contains("--http-endpoint enabled"),
        "{error}"
    );
    let waits = clock.waits();
    let total: Duration = waits.iter().sum();
    assert!((50..=60).contains(&total.as_secs()), "{total:?}");
    assert!(waits.iter().all(|wait| *wait <= METADATA.longest));
}

#[tokio::test]
async fn a_failing_service_is_retried() {
    let service = Service::with_tokens().await;
    Mock::given(path("/latest/user-data"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(3)
        .mount(&service.server)
        .await;
    service.has("user-data", "late").await;
    let data = service.imds.user_data().await.unwrap();
    assert_eq!(data.as_deref(), Some(&b"late"[..]));
    let waits: Vec<_> = service
        .clock
        .waits()
        .iter()
        .map(Duration::as_millis)
        .collect();
    assert_eq!(waits, [75, 150, 300]);
}

#[tokio::test]
async fn tags_are_read_one_by_one_and_a_vanished_one_is_left_out() {
    let service = Service::with_tokens().await;
    let keys = "Name\nk8s-bootstrap:cluster\nempty\ngone";
    service.has("meta-data/tags/instance", keys).await;
    service.has("meta-data/tags/instance/Name", "web one").await;
    service
        .has("meta-data/tags/instance/k8s-bootstrap:cluster", "prod")
        .await;
    service.has("meta-data/tags/instance/empty", "").await;
    let tags = service.imds.tags().await.unwrap();
    let expected = [
        ("Name", "web one"),
        ("empty", ""),
        ("k8s-bootstrap:cluster", "prod"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(k, v)| (k.into(), v.into())).into();
    assert_eq!(tags, Some(expected));
}

#[tokio::test]
async fn tags_are_none_if_the_service_does_not_offer_them() {
    let service = Service::with_tokens().await;
    assert_eq!(service.imds.tags().await.unwrap(), None);
}

#[tokio::test]
async fn notices_exist_only_while_an_event_is_pending() {
    let service = Service::with_tokens().await;
    assert_eq!(service.imds.notices().await.unwrap(), Notices::default());
    let lifecycle = "meta-data/autoscaling/target-lifecycle-state";
    service.has(lifecycle, "InService").await;
    assert_eq!(service.imds.notices().await.unwrap(), Notices::default());
    let service = Service::with_tokens().await;
    service.has(lifecycle, "Terminated").await;
    let action = r#"{"action": "terminate", "time": "2026-11-23T08:22:00Z"}"#;
    service.has("meta-data/spot/instance-action", action).await;
    let rebalance = "meta-data/events/recommendations/rebalance";
    service
        .has(rebalance, r#"{"noticeTime": "2026-11-23T08:00:00Z"}"#)
        .await;
    let expected = Notices {
        terminated_by_group: true,
        interruption: Some(Interruption {
            action: "terminate".to_owned(),
            time: "2026-11-23T08:22:00Z".parse().unwrap(),
        }),
        rebalance: true,
    };
    assert_eq!(service.imds.notices().await.unwrap(), expected);
}

#[tokio::test]
async fn absent_user_data_is_none() {
    let service = Service::with_tokens().await;
    assert_eq!(service.imds.user_data().await.unwrap(), None);
}

#[tokio::test]
async fn an_unexpected_document_is_an_error_with_its_url() {
    let service = Service::with_tokens().await;
    service
        .has("dynamic/instance-identity/document", "{}")
        .await;
    let error = service.imds.facts().await.unwrap_err();
    assert!(
        error.one_line().contains("instance-identity/document"),
        "{error}"
    );
    assert!(error.one_line().contains("instanceId"), "{error}");
}

#[tokio::test]
async fn credentials_are_cached_until_five_minutes_before_they_expire() {
    let service = Service::with_tokens().await;
    service
        .has_credentials("ASIA1", "2026-01-01T06:00:00Z", 1)
        .await;
    service
        .has_credentials("ASIA2", "2026-01-01T12:00:00Z", 1)
        .await;
    for (minutes, key) in [(0, "ASIA1"), (354, "ASIA1"), (2, "ASIA2")] {
        service.clock.forward(Duration::from_mins(minutes));
        let credentials = service.imds.credentials().await.unwrap();
        assert_eq!(credentials.access_key_id, key);
        assert_eq!(credentials.role, "node-role");
        assert_eq!(credentials.secret_access_key.expose_secret(), "s3cret");
        assert!(!format!("{credentials:?}").contains("s3cret"));
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_renewed_are_used_until_they_expire() {
    let service = Service::with_tokens().await;
    service
        .has_credentials("ASIA1", "2026-01-01T06:00:00Z", 1)
        .await;
    let imds = &service.imds;
    imds.credentials().await.unwrap();
    service.clock.forward(Duration::from_mins(357));
    assert_eq!(imds.credentials().await.unwrap().access_key_id, "ASIA1");
    service.clock.forward(Duration::from_mins(4));
    assert!(imds.credentials().await.is_err());
}

#[tokio::test]
async fn an_instance_without_a_role_gets_a_hint_and_finds_a_role_attached_later() {
    let service = Service::with_tokens().await;
    service.has_document().await;
    let error = service.imds.credentials().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(
        remedy(&error).starts_with("attach an instance profile"),
        "{error}"
    );
    assert!(remedy(&error).contains(INSTANCE));
    service
        .has_credentials("ASIA1", "2026-01-01T06:00:00Z", 1)
        .await;
    assert_eq!(service.imds.credentials().await.unwrap().role, "node-role");
}

#[tokio::test]
async fn a_role_that_ec2_cannot_assume_is_named() {
    let service = Service::with_tokens().await;
    service
        .has("meta-data/iam/security-credentials", "node-role")
        .await;
    service
        .has(
            "meta-data/iam/security-credentials/node-role",
            r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}"#,
        )
        .await;
    let error = service.imds.credentials().await.unwrap_err();
    assert!(
        error.one_line().contains("AssumeRoleUnauthorizedAccess"),
        "{error}"
    );
    assert!(remedy(&error).contains("trust policy"), "{error}");
}
