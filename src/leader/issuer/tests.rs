#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::testing::FakeWorld;

const ISSUER: &str = "https://keys.s3.eu-central-1.amazonaws.com/demo";

fn wish() -> ServiceAccounts {
    ServiceAccounts {
        issuer: ISSUER.to_owned(),
        publish_to: "file:///www".to_owned(),
    }
}

fn place() -> Place {
    wish().place().unwrap().unwrap()
}

fn discovery(issuer: &str) -> String {
    json!({"issuer": issuer, "jwks_uri": format!("{issuer}/{KEYS}")}).to_string()
}

/// A cluster whose API server serves these keys for the issuer.
fn serving(keys: &str) -> FakeWorld {
    let fake = FakeWorld::new();
    fake.cluster
        .serve(&format!("/{DISCOVERY}"), &discovery(ISSUER));
    fake.cluster.serve(&format!("/{KEYS}"), keys);
    fake
}

async fn there(fake: &FakeWorld, name: &str) -> Option<String> {
    let archive = fake.ports().archive;
    archive.read(&place(), name).await.unwrap()
}

async fn lead(fake: &FakeWorld, published: &mut Published) -> IssuerReport {
    let report = cycle(&fake.ports(), "i-1", &wish(), &place(), published).await;
    report.unwrap()
}

#[tokio::test(start_paused = true)]
async fn keys_are_published_and_follow_those_of_the_api_server() {
    let fake = serving("one key");
    let mut published = Published::new();
    let report = lead(&fake, &mut published).await;
    assert_eq!((report.published, report.trouble), (true, None));
    assert_eq!(there(&fake, KEYS).await.as_deref(), Some("one key"));
    assert_eq!(there(&fake, DISCOVERY).await, Some(discovery(ISSUER)));
    fake.cluster.serve(&format!("/{KEYS}"), "two keys");
    let report = lead(&fake, &mut published).await;
    assert_eq!((report.published, report.trouble), (true, None));
    assert_eq!(there(&fake, KEYS).await.as_deref(), Some("two keys"));
}

#[tokio::test(start_paused = true)]
async fn what_another_client_writes_is_replaced_and_reported() {
    let fake = serving("ours");
    let archive = fake.ports().archive;
    archive.publish(&place(), KEYS, "theirs").await.unwrap();
    let mut published = Published::new();
    // A new leader cannot know who wrote it.
    assert_eq!(lead(&fake, &mut published).await.trouble, None);
    archive.publish(&place(), KEYS, "theirs").await.unwrap();
    let report = lead(&fake, &mut published).await;
    let trouble = report.trouble.unwrap();
    assert!(
        trouble.contains(&format!("{KEYS} in file:///www")),
        "{trouble}"
    );
    assert!(report.published);
    assert_eq!(there(&fake, KEYS).await.as_deref(), Some("ours"));
    assert_eq!(lead(&fake, &mut published).await.trouble, None);
}

#[tokio::test(start_paused = true)]
async fn a_follower_publishes_nothing() {
    let fake = serving("a key");
    let mut published = Published::new();
    lead(&fake, &mut published).await;
    let archive = fake.ports().archive;
    archive.delete(&place(), KEYS).await.unwrap();
    let mut others = Published::from([(KEYS, "a key".to_owned())]);
    let report = cycle(&fake.ports(), "i-2", &wish(), &place(), &mut others).await;
    assert_eq!((report, others.len()), (None, 0));
    assert_eq!(there(&fake, KEYS).await, None);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_another_issuer_is_published() {
    let fake = serving("a key");
    let other = "https://kubernetes.default.svc.cluster.local";
    fake.cluster
        .serve(&format!("/{DISCOVERY}"), &discovery(other));
    let report = lead(&fake, &mut Published::new()).await;
    let trouble = report.trouble.unwrap();
    let expected = format!("issuer is `{other}` and not {ISSUER}");
    assert!(trouble.contains(&expected), "{trouble}");
    assert!(trouble.contains("Roles for pods"), "{trouble}");
    assert!(!report.published);
    assert_eq!(there(&fake, KEYS).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_reported() {
    let fake = FakeWorld::new();
    let report = lead(&fake, &mut Published::new()).await;
    let trouble = report.trouble.unwrap();
    assert!(trouble.contains(DISCOVERY), "{trouble}");
    assert!(!report.published);
}
