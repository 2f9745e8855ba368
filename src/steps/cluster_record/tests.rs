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

fn settled(uid: &str) -> SettleCluster {
    SettleCluster {
        cluster_uid: uid.to_owned(),
        instance: "i-1".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_recorded_once() {
    let fake = FakeWorld::founded();
    fake.claimed(1, "uid-1", "i-1").await;
    fake.carry_out(&cluster("uid-1")).await;
    let there = record::read(fake.store.as_ref()).await.unwrap();
    let first = there.cluster().unwrap().clone();
    assert_eq!(
        (first.cluster_uid.as_str(), first.founder.as_str()),
        ("uid-1", "i-1")
    );
    assert!(first.ca_hash.starts_with("sha256:"), "{}", first.ca_hash);
    // An interrupted run applies it again later: the first record stays.
    sleep(Duration::from_mins(1)).await;
    fake.apply(&cluster("uid-1")).await.unwrap();
    let again = record::read(fake.store.as_ref()).await.unwrap();
    assert_eq!(again.cluster(), Some(&first));
}

#[tokio::test(start_paused = true)]
async fn a_founder_that_was_taken_over_records_and_settles_nothing() {
    let fake = FakeWorld::founded();
    fake.claimed(1, "uid-1", "i-1").await;
    fake.claimed(2, "uid-2", "i-2").await;
    let second = fake.another_host().with_pki(&Pki::new());
    second.carry_out(&cluster("uid-2")).await;
    assert_eq!(
        fake.differs(&cluster("uid-1")).await,
        "the store records cluster uid-2"
    );
    for error in [
        fake.apply(&cluster("uid-1")).await.unwrap_err(),
        fake.apply(&settled("uid-1")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(
            error.one_line(),
            "cluster uid-1 was abandoned: i-2 has since claimed to found another"
        );
        let remedy = error.remedy().unwrap();
        assert!(remedy.starts_with("terminate this instance"), "{remedy}");
    }
    fake.holds(&cluster("uid-2")).await;
    fake.carry_out(&settled("uid-2")).await;
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
    assert!(fake.store.list("").await.unwrap().is_empty());
}
