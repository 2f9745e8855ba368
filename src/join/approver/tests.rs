#![allow(clippy::unwrap_used)]

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use secrecy::ExposeSecret;

use super::*;
use crate::{
    ports::Instance,
    testing::{FakeWorld, Log, running, worker},
};

const NODE: &str = "ip-10-42-0-11.eu-central-1.compute.internal";

fn instance() -> Instance {
    let mut instance = running(&worker("i-w"), 11);
    instance.private_dns_name = Some(NODE.to_owned());
    instance
}

/// A kubelet's request, as the API server stores it.
fn request(name: &str, signer: &str, username: &str, group: &str) -> Value {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{NODE}"));
    let mut usage = "client auth";
    if signer == SERVING {
        usage = "server auth";
        params.subject_alt_names = vec![
            SanType::DnsName(NODE.try_into().unwrap()),
            SanType::IpAddress([10, 42, 0, 11].into()),
        ];
    }
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({
        "metadata": {"name": name, "uid": format!("uid-of-{name}")},
        "spec": {
            "signerName": signer, "username": username, "groups": [group],
            "usages": ["digital signature", usage], "request": BASE64_STANDARD.encode(pem),
        },
    })
}

/// A world with a token for the node; returns the token's user name.
async fn with_token() -> (FakeWorld, String) {
    let fake = FakeWorld::new();
    fake.ec2.list([instance()]);
    let minted = tokens::mint(&fake.ports(), &instance(), NODE).await;
    let token = minted.unwrap().0.expose_secret().to_owned();
    let user = format!("system:bootstrap:{}", &token[..6]);
    (fake, user)
}

fn outcome(fake: &FakeWorld, name: &str) -> String {
    let (kind, message) = fake.certificates.outcome(name).unwrap();
    format!("{kind}: {message}")
}

#[tokio::test(start_paused = true)]
async fn a_token_gets_one_certificate_and_is_deleted_once_the_kubelet_uses_it() {
    let log = Log::start();
    let (fake, user) = with_token().await;
    let ask = |name: &str| {
        let request = request(name, CLIENT, &user, "system:bootstrappers");
        fake.certificates.ask(request);
    };
    ask("first");
    cycle(&fake.ports(), "demo").await.unwrap();
    assert_eq!(
        outcome(&fake, "first"),
        "Approved: k8s-bootstrap: confirmed"
    );
    ask("second");
    cycle(&fake.ports(), "demo").await.unwrap();
    assert_eq!(
        outcome(&fake, "second"),
        "Denied: k8s-bootstrap: its token has been used"
    );

    let node = format!("system:node:{NODE}");
    let serving = request("serving", SERVING, &node, "system:nodes");
    fake.certificates.ask(serving);
    cycle(&fake.ports(), "demo").await.unwrap();
    assert_eq!(
        outcome(&fake, "serving"),
        "Approved: k8s-bootstrap: confirmed"
    );
    assert!(fake.cluster.objects().is_empty());
    ask("third");
    cycle(&fake.ports(), "demo").await.unwrap();
    assert_eq!(
        outcome(&fake, "third"),
        "Denied: k8s-bootstrap: its token no longer exists"
    );
    let log = log.lines();
    for line in [
        format!("request first of {user} approved"),
        format!("request second of {user} denied: its token has been used"),
        format!("request serving of {node} approved"),
    ] {
        assert!(log.contains(&line), "{line:?} is not in {log}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_simultaneous_requests_with_one_token_one_is_approved() {
    let (fake, user) = with_token().await;
    for name in ["one", "two"] {
        let request = request(name, CLIENT, &user, "system:bootstrappers");
        fake.certificates.ask(request);
    }
    // Another control plane writes the token after we have read it and before we mark it.
    let key = fake.cluster.objects().into_keys().next().unwrap();
    let mut rival = fake.cluster.objects()[&key].clone();
    rival = tokens::used(rival, "uid-of-two");
    rival["metadata"]["resourceVersion"] = 7.into();
    fake.cluster.meanwhile(rival);
    cycle(&fake.ports(), "demo").await.unwrap_err();
    assert_eq!(fake.certificates.outcome("one"), None);
    cycle(&fake.ports(), "demo").await.unwrap();
    let denied = "Denied: k8s-bootstrap: its token has been used";
    assert_eq!(outcome(&fake, "one"), denied);
    assert!(outcome(&fake, "two").starts_with("Approved"));
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_gets_nothing() {
    let (fake, user) = with_token().await;
    tokio::time::sleep(tokens::TTL).await;
    let request = request("late", CLIENT, &user, "system:bootstrappers");
    fake.certificates.ask(request);
    cycle(&fake.ports(), "demo").await.unwrap();
    assert_eq!(
        outcome(&fake, "late"),
        "Denied: k8s-bootstrap: its token has expired"
    );
}

#[tokio::test(start_paused = true)]
async fn a_serving_request_waits_while_ec2_does_not_answer() {
    let fake = FakeWorld::new();
    fake.ec2.fail_with(|| Error::failed("throttled"));
    let node = format!("system:node:{NODE}");
    let serving = request("serving", SERVING, &node, "system:nodes");
    fake.certificates.ask(serving);
    cycle(&fake.ports(), "demo").await.unwrap_err();
    assert_eq!(fake.certificates.outcome("serving"), None);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_left_to_people_makes_no_call_to_ec2() {
    let fake = FakeWorld::new();
    fake.ec2.fail_with(|| Error::failed("asked"));
    let theirs = request("theirs", SERVING, "kubernetes-admin", "system:masters");
    fake.certificates.ask(theirs);
    cycle(&fake.ports(), "demo").await.unwrap();
    assert_eq!(fake.certificates.outcome("theirs"), None);
}

/// Long enough for everything that is under way, and much shorter than any pause.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn requests_are_decided_on_arrival_without_polling() {
    let (fake, user) = with_token().await;
    let world = fake.ports();
    tokio::spawn(async move { keep(&world, "demo").await });
    settle().await;
    let at_first = fake.certificates.looks();
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(fake.certificates.looks(), at_first);
    let request = request("first", CLIENT, &user, "system:bootstrappers");
    fake.certificates.ask(request);
    settle().await;
    assert!(outcome(&fake, "first").starts_with("Approved"));
}

/// A cycle drops a client whose credentials are refused; the watch alone does not.
#[tokio::test(start_paused = true)]
async fn after_a_failed_watch_requests_are_listed_before_the_next_watch() {
    let fake = FakeWorld::new();
    let world = fake.ports();
    tokio::spawn(async move { keep(&world, "demo").await });
    settle().await;
    for _ in 0..2 {
        let before = fake.certificates.looks();
        fake.certificates.refuse_followers();
        settle().await;
        assert_eq!(fake.certificates.looks(), before);
        tokio::time::sleep(APPROVAL).await;
        assert!(fake.certificates.looks() > before);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_a_failed_cycle_left_are_retried() {
    let fake = FakeWorld::new();
    fake.ec2.fail_with(|| Error::failed("throttled"));
    let node = format!("system:node:{NODE}");
    fake.certificates
        .ask(request("serving", SERVING, &node, "system:nodes"));
    let world = fake.ports();
    tokio::spawn(async move { keep(&world, "demo").await });
    settle().await;
    assert_eq!(fake.certificates.outcome("serving"), None);
    fake.ec2.list([instance()]);
    tokio::time::sleep(APPROVAL).await;
    settle().await;
    assert!(outcome(&fake, "serving").starts_with("Approved"));
}
