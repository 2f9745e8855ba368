#![allow(clippy::unwrap_used)]

use std::time::Duration;

use secrecy::ExposeSecret;
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

async fn token(fake: &FakeWorld, role: Role) -> String {
    let ticket = JoinTicket::fetch(&fake.ports(), role).await.unwrap();
    ticket.unwrap().token.expose_secret().to_owned()
}

async fn tokens(fake: &FakeWorld) -> [String; 2] {
    [
        token(fake, Role::Worker).await,
        token(fake, Role::ControlPlane).await,
    ]
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

#[tokio::test(start_paused = true)]
async fn tickets_are_due_past_half_of_their_life_and_not_before() {
    let fake = FakeWorld::founded();
    let step = JoinTickets::for_all();
    assert_eq!(
        fake.differs(&step).await,
        "join tickets are due for: worker, control-plane"
    );
    fake.carry_out(&step).await;
    let first = tokens(&fake).await;

    sleep(TICKET_TTL / 2).await;
    fake.holds(&step).await;
    assert_eq!(tokens(&fake).await, first);

    sleep(Duration::from_secs(1)).await;
    fake.carry_out(&step).await;
    let second = tokens(&fake).await;
    assert!(first[0] != second[0] && first[1] != second[1]);
}

#[tokio::test(start_paused = true)]
async fn only_the_ticket_that_is_due_is_made_anew() {
    let fake = FakeWorld::founded();
    let step = JoinTickets::for_all();
    fake.carry_out(&step).await;
    let before = tokens(&fake).await;
    fake.store
        .delete(&JoinTicket::key(Role::Worker))
        .await
        .unwrap();
    assert_eq!(
        fake.differs(&step).await,
        "join tickets are due for: worker"
    );
    fake.carry_out(&step).await;
    let after = tokens(&fake).await;
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
}

#[tokio::test(start_paused = true)]
async fn an_unparsable_ticket_is_named_without_its_content() {
    let fake = FakeWorld::founded();
    let key = JoinTicket::key(Role::Worker);
    for damaged in [
        "abcdef.secretsecret",
        r#"{"token": "abcdef.secretsecret", "expires": "secretsecret"}"#,
        r#"{"token": "abcdef.secretsecr"#,
    ] {
        fake.store.put_secret(&key, &damaged.into()).await.unwrap();
        let step = JoinTickets::for_all();
        for error in [
            fake.check(&step).await.unwrap_err(),
            fake.apply(&step).await.unwrap_err(),
        ] {
            let said = format!("{error}\n{error:?}");
            assert!(said.contains("`join/worker` is no join ticket"), "{said}");
            assert!(!said.contains("secretsecr"), "{said}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_control_planes_only_the_leader_renews() {
    let fake = FakeWorld::founded();
    let led = leader::lead(&fake.ports(), "i-2").await.unwrap();
    assert_eq!(led, Leader::Me);
    fake.holds(&JoinTickets::by_the_leader("i-1")).await;
    let due = "join tickets are due for: worker, control-plane";
    assert_eq!(fake.differs(&JoinTickets::by_the_leader("i-2")).await, due);
    // A founder that is not through yet has nobody to leave it to.
    assert_eq!(fake.differs(&JoinTickets::for_all()).await, due);
    fake.carry_out(&JoinTickets::by_the_leader("i-2")).await;
}
