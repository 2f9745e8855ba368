#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::time::sleep;

use super::*;
use crate::{
    error::Kind,
    ports::Store,
    testing::{FakeWorld, Pki},
};

fn cluster(uid: &str) -> RecordCluster {
    RecordCluster {
        cluster_uid: uid.to_owned(),
        founder: "i-1".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_recorded_once() {
    let fake = FakeWorld::founded();
    fake.carry_out(&cluster("uid-1")).await;
    let there = record::read(fake.store.as_ref()).await.unwrap();
    let first = there.initialized.unwrap();
    assert_eq!(
        (first.cluster_uid.as_str(), first.founder.as_str()),
        ("uid-1", "i-1")
    );
    assert!(first.ca_hash.starts_with("sha256:"), "{}", first.ca_hash);
    // An interrupted run applies it once more, later: the first record stays.
    sleep(Duration::from_mins(1)).await;
    fake.apply(&cluster("uid-1")).await.unwrap();
    let again = record::read(fake.store.as_ref()).await.unwrap();
    assert_eq!(again.initialized, Some(first));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_record_is_refused_and_stays() {
    let fake = FakeWorld::founded();
    fake.carry_out(&cluster("uid-1")).await;
    let second = fake.another_host().with_pki(&Pki::new());
    assert_eq!(
        second.differs(&cluster("uid-2")).await,
        "the store records cluster uid-1"
    );
    let error = second.apply(&cluster("uid-2")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(
        error.one_line(),
        "the store already records the cluster uid-1 founded by i-1; this instance founded uid-2"
    );
    assert!(
        error
            .remedy()
            .unwrap()
            .starts_with("terminate this instance")
    );
    fake.holds(&cluster("uid-1")).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_recorded_before_there_is_a_ca() {
    let fake = FakeWorld::new();
    let error = fake.apply(&cluster("uid-1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert_eq!(
        error.one_line(),
        "/etc/kubernetes/pki/ca.crt does not exist: this node has no cluster yet"
    );
    assert_eq!(fake.store.get("initialized").await.unwrap(), None);
}
