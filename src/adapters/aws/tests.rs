#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, Request, ResponseTemplate,
    matchers::{body_partial_json, body_string_contains, header, method},
};

use super::{
    autoscaling::AutoScaling, ec2::Ec2Api, ecr::Ecr, endpoint::Endpoints, route53::Route53,
    ssm::Ssm, *,
};
use crate::{
    adapters::{http::Clients, store::SsmStore},
    error::Kind,
    ports::{Created, Ec2, InstanceState, Role, Store},
    report::Work,
    testing::StoppedClock,
};

/// Hands out key `AKIA0`, and the next number after each `forget`.
#[derive(Default)]
struct Keys(AtomicUsize);

#[async_trait]
impl CredentialSource for Keys {
    async fn current(&self) -> Result<Arc<RoleCredentials>> {
        Ok(Arc::new(RoleCredentials {
            role: "node-role".into(),
            access_key_id: format!("AKIA{}", self.0.load(Ordering::SeqCst)),
            secret_access_key: "s3cret".into(),
            session_token: Some("t0ken".into()),
            expires: "2027-01-01T00:00:00Z".parse().unwrap(),
        }))
    }

    async fn forget(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A region whose services give the answers that the test prepared.
pub(super) struct Region {
    pub work: Work,
    pub server: MockServer,
    clock: Arc<StoppedClock>,
    ec2: Ec2Api,
    ssm: Ssm,
    pub route53: Route53,
    pub scaling: AutoScaling,
    pub ecr: Ecr,
}

impl Region {
    pub async fn new() -> Self {
        let server = MockServer::start().await;
        let clock = StoppedClock::showing("2026-01-01T00:00:00Z");
        let endpoints = Endpoints::with_override("eu-central-1", Some(&server.uri())).unwrap();
        let keys = Arc::new(Keys::default());
        let work = Work::default();
        let clients = Clients::new().unwrap().counting(work.clone());
        let aws = Aws::new(&clients, endpoints, keys, clock.clone()).unwrap();
        let aws = Arc::new(aws);
        Self {
            work,
            server,
            clock,
            ec2: Ec2Api::new(aws.clone()),
            ssm: Ssm::new(aws.clone()),
            route53: Route53::new(aws.clone()),
            scaling: AutoScaling::new(aws.clone()),
            ecr: Ecr::new(aws),
        }
    }

    /// Answers the calls in this order, and repeats the last answer.
    pub async fn answers(&self, answers: impl IntoIterator<Item = ResponseTemplate>) {
        let answers: Vec<_> = answers.into_iter().collect();
        let next = Mutex::new(0);
        Mock::given(method("POST"))
            .respond_with(move |_: &Request| {
                let mut next = next.lock().unwrap();
                let answer = answers[(*next).min(answers.len() - 1)].clone();
                *next += 1;
                answer
            })
            .mount(&self.server)
            .await;
    }

    pub async fn requests(&self) -> Vec<Request> {
        self.server.received_requests().await.unwrap()
    }

    async fn header(&self, name: &str) -> Vec<String> {
        let requests = self.requests().await;
        let value = |r: &Request| r.headers[name].to_str().unwrap().to_owned();
        requests.iter().map(value).collect()
    }
}

fn xml_error(status: u16, code: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_string(format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>said so</Message></Error></Errors><RequestID>1</RequestID></Response>"
    ))
}

fn json_error(code: &str) -> ResponseTemplate {
    ResponseTemplate::new(400).set_body_json(json!({"__type": code, "message": "said so"}))
}

fn page(instances: &[&str], next: &str) -> ResponseTemplate {
    let item = |id: &&str| {
        format!(
            "<item><reservationId>r-1</reservationId><instancesSet><item><instanceId>{id}</instanceId>
            <instanceState><code>16</code><name>running</name></instanceState>
            <privateDnsName>{id}.internal</privateDnsName><privateIpAddress>10.0.0.4</privateIpAddress><ipAddress>54.1.2.3</ipAddress>
            <iamInstanceProfile><arn>arn:aws:iam::111122223333:instance-profile/k8s/workers</arn><id>AIPAEXAMPLE</id></iamInstanceProfile>
            <launchTime>2026-01-01T10:00:00.000Z</launchTime>
            <tagSet><item><key>k8s-bootstrap:role</key><value>worker</value></item></tagSet>
            </item></instancesSet></item>"
        )
    };
    let items: Vec<String> = instances.iter().map(item).collect();
    let items = items.concat();
    ResponseTemplate::new(200).set_body_string(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>1</requestId><reservationSet>{items}</reservationSet>{next}</DescribeInstancesResponse>"
    ))
}

#[tokio::test]
async fn a_call_is_signed_for_its_service_with_token_and_time() {
    let region = Region::new().await;
    region.answers([page(&[], "")]).await;
    assert!(region.ec2.instances("prod").await.unwrap().is_empty());
    let request = &region.requests().await[0];
    let signed = request.headers["authorization"].to_str().unwrap();
    assert!(
        signed.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIA0/20260101/eu-central-1/ec2/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature="
        ),
        "{signed}"
    );
    assert_eq!(request.headers["x-amz-date"], "20260101T000000Z");
    assert_eq!(request.headers["x-amz-security-token"], "t0ken");
    let body = std::str::from_utf8(&request.body).unwrap();
    assert_eq!(
        body,
        "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag%3Ak8s-bootstrap%3Acluster&Filter.1.Value.1=prod&MaxResults=1000"
    );
}

#[tokio::test]
async fn instances_of_all_pages_are_listed() {
    let region = Region::new().await;
    Mock::given(body_string_contains("NextToken=a%2Fb%3D"))
        .respond_with(page(&["i-1"], "<nextToken/>"))
        .mount(&region.server)
        .await;
    Mock::given(method("POST"))
        .respond_with(page(&["i-3", "i-2"], "<nextToken>a/b=</nextToken>"))
        .mount(&region.server)
        .await;
    let found = region.ec2.instances("prod").await.unwrap();
    let ids: Vec<_> = found.iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["i-1", "i-2", "i-3"]);
    assert_eq!(found[0].role, Some(Role::Worker));
    assert_eq!(found[0].state, InstanceState::Running);
    assert_eq!(found[0].private_ip, Some([10, 0, 0, 4].into()));
    assert_eq!(found[0].public_ip, Some([54, 1, 2, 3].into()));
    assert_eq!(found[0].private_dns_name.as_deref(), Some("i-1.internal"));
    assert_eq!(found[0].profile.as_deref(), Some("workers"));
    assert_eq!(found[0].launched, "2026-01-01T10:00:00Z".parse().unwrap());
}

#[tokio::test]
async fn instances_are_found_by_their_ids_whatever_their_tags() {
    let region = Region::new().await;
    region.answers([page(&["i-2"], "")]).await;
    let found = region.ec2.by_ids(&["i-1", "i-2"]).await.unwrap();
    assert_eq!(found.len(), 1);
    let request = &region.requests().await[0];
    assert_eq!(
        std::str::from_utf8(&request.body).unwrap(),
        "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=instance-id&Filter.1.Value.1=i-1&Filter.1.Value.2=i-2&MaxResults=1000"
    );
}

#[tokio::test]
async fn a_terminated_instance_without_address_or_tags_is_listed_too() {
    let region = Region::new().await;
    let body = "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><instanceState><code>48</code><name>terminated</name></instanceState><privateDnsName/><launchTime>2026-01-01T10:00:00Z</launchTime><tagSet><item><key>k8s-bootstrap:role</key><value>queen</value></item></tagSet></item><item><instanceId>i-2</instanceId><instanceState><code>32</code><name>shutting-down</name></instanceState><launchTime>2026-01-01T10:00:00Z</launchTime></item></instancesSet></item></reservationSet></DescribeInstancesResponse>";
    region
        .answers([ResponseTemplate::new(200).set_body_string(body)])
        .await;
    let found = region.ec2.instances("prod").await.unwrap();
    let states: Vec<_> = found.iter().map(|i| i.state).collect();
    assert_eq!(
        states,
        [InstanceState::Terminated, InstanceState::ShuttingDown]
    );
    assert_eq!((found[0].private_ip, found[0].role), (None, None));
    assert_eq!(found[0].public_ip, None);
    assert_eq!(found[0].private_dns_name, None);
    assert_eq!(found[0].profile, None);
}

#[tokio::test]
async fn an_instance_is_tagged() {
    let region = Region::new().await;
    region.answers([ResponseTemplate::new(200)]).await;
    let tagged = region.ec2.tag("i-1", "a:b", "{\"c\":1}").await;
    tagged.unwrap();
    let requests = region.requests().await;
    assert_eq!(
        std::str::from_utf8(&requests[0].body).unwrap(),
        "Action=CreateTags&Version=2016-11-15&ResourceId.1=i-1&Tag.1.Key=a%3Ab&Tag.1.Value=%7B%22c%22%3A1%7D"
    );
}

#[tokio::test]
async fn a_repeated_page_token_ends_in_an_error_instead_of_a_loop() {
    let region = Region::new().await;
    region
        .answers([page(&[], "<nextToken>x</nextToken>")])
        .await;
    let error = region.ec2.instances("prod").await.unwrap_err();
    assert!(error.one_line().contains("twice"), "{error}");
}

#[tokio::test]
async fn throttled_calls_are_retried_with_growing_pauses() {
    let region = Region::new().await;
    let throttled = || xml_error(503, "RequestLimitExceeded");
    region
        .answers([
            throttled(),
            throttled(),
            xml_error(400, "Throttling"),
            page(&["i-1"], ""),
        ])
        .await;
    assert_eq!(region.ec2.instances("prod").await.unwrap().len(), 1);
    let waits: Vec<_> = region
        .clock
        .waits()
        .iter()
        .map(Duration::as_millis)
        .collect();
    assert_eq!(waits, [250, 500, 1000]);
    assert_eq!(region.work.counts().aws_requests["ec2"], 4);
}

#[tokio::test]
async fn endless_throttling_ends_in_an_error_with_the_count_and_the_code() {
    let region = Region::new().await;
    region
        .answers([xml_error(503, "RequestLimitExceeded")])
        .await;
    let error = region.ec2.instances("prod").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    for part in [
        "ec2:DescribeInstances",
        "8 attempts",
        "503 RequestLimitExceeded: said so",
    ] {
        assert!(error.one_line().contains(part), "{error}");
    }
    assert_eq!(region.requests().await.len(), 8);
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_retried_and_named() {
    // A port that was free a moment ago refuses connections.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}/");
    let endpoints = Endpoints::with_override("eu-central-1", Some(&url)).unwrap();
    let clock = StoppedClock::showing("2026-01-01T00:00:00Z");
    let keys = Arc::new(Keys::default());
    let aws = Aws::new(&Clients::new().unwrap(), endpoints, keys, clock.clone()).unwrap();
    let error = Ec2Api::new(Arc::new(aws))
        .instances("prod")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.one_line().contains(&url), "{error}");
    assert!(error.one_line().contains("refused"), "{error}");
    assert_eq!(clock.waits().len(), 7);
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_from_the_answer_once() {
    for code in [
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "AuthFailure",
    ] {
        let region = Region::new().await;
        let date = "Thu, 01 Jan 2026 01:00:00 GMT";
        region
            .answers([
                xml_error(403, code).insert_header("date", date),
                page(&["i-1"], "").insert_header("date", date),
            ])
            .await;
        assert_eq!(
            region.ec2.instances("prod").await.unwrap().len(),
            1,
            "{code}"
        );
        region.ec2.instances("prod").await.unwrap();
        let dates = region.header("x-amz-date").await;
        assert_eq!(
            dates,
            ["20260101T000000Z", "20260101T010000Z", "20260101T010000Z"]
        );
        assert!(region.clock.waits().is_empty());
        assert!(region.header("authorization").await[1].contains("AKIA0/"));
    }
}

#[tokio::test]
async fn expired_credentials_are_renewed_once() {
    let region = Region::new().await;
    let date = "Thu, 01 Jan 2026 00:00:01 GMT";
    region
        .answers([json_error("ExpiredTokenException").insert_header("date", date)])
        .await;
    let error = store(&region).get("k").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(
        error.one_line().contains("ExpiredTokenException"),
        "{error}"
    );
    let keys = region.header("authorization").await;
    assert_eq!(keys.len(), 2);
    assert!(
        keys[0].contains("AKIA0/") && keys[1].contains("AKIA1/"),
        "{keys:?}"
    );
}

#[tokio::test]
async fn a_missing_permission_is_not_retried_and_names_action_and_role() {
    let region = Region::new().await;
    region
        .answers([xml_error(403, "UnauthorizedOperation")])
        .await;
    let error = region.ec2.instances("prod").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert_eq!(
        error.remedy(),
        Some("allow the action ec2:DescribeInstances for the IAM role node-role")
    );
    assert_eq!(region.requests().await.len(), 1);
}

fn store(region: &Region) -> SsmStore {
    SsmStore::new(region.ssm.clone(), "/k8s-bootstrap/", "prod")
}

#[tokio::test]
async fn a_key_is_created_without_overwriting() {
    let region = Region::new().await;
    Mock::given(header("x-amz-target", "AmazonSSM.PutParameter"))
        .and(header("content-type", "application/x-amz-json-1.1"))
        .and(body_partial_json(json!({
            "Name": "/k8s-bootstrap/prod/founder/1", "Value": "me",
            "Type": "String", "Overwrite": false,
        })))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"Version": 1})))
        .up_to_n_times(1)
        .mount(&region.server)
        .await;
    region.answers([json_error("ParameterAlreadyExists")]).await;
    let store = store(&region);
    assert_eq!(store.create("founder/1", "me").await.unwrap(), Created::Yes);
    let second = store.create("founder/1", "me").await.unwrap();
    assert_eq!(second, Created::AlreadyThere);
}

#[tokio::test]
async fn a_secure_string_counts_as_absent_and_is_never_decrypted() {
    let region = Region::new().await;
    let parameter = |kind: &str, value: &str| {
        let body = json!({"Parameter": {"Name": "/k8s-bootstrap/prod/k", "Type": kind, "Value": value, "Version": 1}});
        ResponseTemplate::new(200).set_body_json(body)
    };
    region
        .answers([
            parameter("String", "plain"),
            parameter("SecureString", "cipher"),
            json_error("com.amazonaws.ssm#ParameterNotFound"),
            json_error("ParameterNotFound"),
        ])
        .await;
    let store = store(&region);
    assert_eq!(store.get("k").await.unwrap().as_deref(), Some("plain"));
    assert_eq!(store.get("k").await.unwrap(), None);
    assert_eq!(store.get("k").await.unwrap(), None);
    store.delete("k").await.unwrap();
    let decrypted: Vec<_> = region
        .requests()
        .await
        .iter()
        .map(|r| serde_json::from_slice::<Value>(&r.body).unwrap()["WithDecryption"].clone())
        .collect();
    let never = json!(false);
    assert_eq!(
        decrypted,
        [never.clone(), never.clone(), never, Value::Null]
    );
}

#[tokio::test]
async fn a_listing_has_all_pages_with_relative_keys_and_no_secrets() {
    let region = Region::new().await;
    let page = |names: &[(&str, &str)], next: Value| {
        let parameters: Vec<_> = names
            .iter()
            .map(|(n, kind)| json!({"Name": format!("/k8s-bootstrap/prod/{n}"), "Type": kind, "Value": *n}))
            .collect();
        ResponseTemplate::new(200)
            .set_body_json(json!({"Parameters": parameters, "NextToken": next}))
    };
    Mock::given(header("x-amz-target", "AmazonSSM.GetParametersByPath"))
        .and(body_partial_json(
            json!({"Path": "/k8s-bootstrap/prod/founder", "Recursive": true, "NextToken": "n"}),
        ))
        .respond_with(page(&[("founder/2", "String")], Value::Null))
        .mount(&region.server)
        .await;
    Mock::given(body_partial_json(
        json!({"Path": "/k8s-bootstrap/prod/founder"}),
    ))
    .respond_with(page(
        &[("founder/1", "String"), ("founder/x", "SecureString")],
        json!("n"),
    ))
    .mount(&region.server)
    .await;
    let found = store(&region).list("founder/").await.unwrap();
    let expected = [("founder/1", "founder/1"), ("founder/2", "founder/2")];
    assert_eq!(found, expected.map(|(k, v)| (k.into(), v.into())).into());
}

#[tokio::test]
async fn a_store_error_names_parameter_action_and_remedy() {
    let region = Region::new().await;
    region
        .answers([ResponseTemplate::new(400).set_body_json(json!({
            "__type": "AccessDeniedException",
            "Message": "User: arn:aws:sts::1:assumed-role/node-role/i-1 is not authorized to perform: ssm:PutParameter on resource: x",
        }))])
        .await;
    let error = store(&region).create("founder/1", "me").await.unwrap_err();
    assert!(
        error.one_line().contains("/k8s-bootstrap/prod/founder/1"),
        "{error}"
    );
    assert_eq!(
        error.remedy(),
        Some("allow the action ssm:PutParameter for the IAM role node-role")
    );
}
