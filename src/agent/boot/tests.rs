//! How instances come to agree on one founder.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::future::join_all;

use super::*;
use crate::{
    error::Kind,
    identity::Identity,
    ports::Store,
    testing::{FakeWorld, MemoryStore, agent, control_plane, running, worker},
};

async fn once(agent: &Agent) -> Result<Probe<Choice>> {
    agent
        .decide_once(&Mutex::default(), &[], &Notes::unread())
        .await
}

#[tokio::test(start_paused = true)]
async fn one_of_five_simultaneous_control_planes_founds() {
    // One store and one EC2 for all, a host for each.
    let shared = FakeWorld::new();
    let hosts: Vec<FakeWorld> = (0..5).map(|_| shared.another_host()).collect();
    let identities: Vec<Identity> = (0..5).map(|n| control_plane(&format!("i-{n}"))).collect();
    let listed = identities.iter().zip(10..);
    shared.ec2.list(listed.map(|(me, last)| running(me, last)));
    let mut agents = Vec::new();
    for (host, me) in hosts.iter().zip(&identities) {
        agents.push(agent(host, me.clone()).await);
    }
    let found = join_all(agents.iter().map(once)).await;
    let founders: Vec<Choice> = found
        .into_iter()
        .filter_map(|probe| match probe.unwrap() {
            Probe::Done(choice) => Some(choice),
            Probe::NotYet(_) => None,
        })
        .collect();
    let [Choice::Belong(founder)] = &founders[..] else {
        panic!("{founders:?}");
    };
    assert_eq!(founder.origin, Origin::Founded);
    // Asked again, the founder still founds and the others name the instance they wait for.
    let again = join_all(agents.iter().map(once)).await;
    let waits = again
        .into_iter()
        .filter_map(|probe| match probe.unwrap() {
            Probe::Done(choice) => {
                assert_eq!(choice, founders[0]);
                None
            }
            Probe::NotYet(why) => Some(why),
        })
        .filter(|why| why.ends_with("is founding the cluster"))
        .count();
    assert_eq!(waits, 4);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_fails_preflight_claims_nothing() {
    let fake = FakeWorld::new();
    let me = control_plane("i-1");
    fake.ec2.list([running(&me, 10)]);
    fake.metadata.add_network("192.168.7.0/24");
    let agent = agent(&fake, me).await;
    let error = agent.boot().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error
            .one_line()
            .contains("cluster.pod_cidr 192.168.0.0/16 overlaps the VPC's 192.168.7.0/24"),
        "{error}"
    );
    let record = record::read(fake.store.as_ref()).await.unwrap();
    assert!(record.claims.is_empty(), "{:?}", record.claims);
}

/// A store that does not list yet what was written to it.
#[derive(Default)]
struct Lagging {
    store: MemoryStore,
    created: Mutex<usize>,
}

#[async_trait]
impl Store for Lagging {
    async fn create(&self, key: &str, value: &str) -> Result<Created> {
        *self.created.lock().unwrap() += 1;
        self.store.create(key, value).await
    }

    async fn get(&self, _key: &str) -> Result<Option<String>> {
        Ok(None)
    }

    async fn list(&self, _prefix: &str) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_the_store_does_not_list_yet_is_retried_after_a_pause() {
    let fake = FakeWorld::new();
    let me = control_plane("i-1");
    fake.ec2.list([running(&me, 10)]);
    let store = Arc::new(Lagging::default());
    let mut agent = agent(&fake, me).await;
    agent.world.store = store.clone();
    let error = agent.choose_cluster(&[]).await.unwrap_err();
    assert!(
        error
            .one_line()
            .ends_with("claim 1 is taken; the store does not list it yet"),
        "{error}"
    );
    // In half an hour, with pauses of up to five seconds.
    let created = *store.created.lock().unwrap();
    assert!((2..1000).contains(&created), "{created}");
}

#[tokio::test(start_paused = true)]
async fn one_answer_without_the_record_refuses_no_member() {
    let fake = FakeWorld::new();
    let me = control_plane("i-1");
    fake.ec2.list([running(&me, 10)]);
    let agent = agent(&fake, me).await;
    let membership = Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Joined,
    };
    agent.runner.commit_to(membership).await.unwrap();
    let agreement = Mutex::default();
    for _ in 0..10 {
        let probe = agent
            .decide_once(&agreement, &[], &Notes::unread())
            .await
            .unwrap();
        assert!(matches!(probe, Probe::NotYet(_)), "{probe:?}");
    }
    // Such answers for some minutes are enough.
    let begun = fake.clock.since_noon();
    let error = agent.choose_cluster(&[]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let took = fake.clock.since_noon().saturating_sub(begun);
    assert!(
        took >= Duration::from_mins(3) && took < Duration::from_mins(5),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_choice_is_recorded_before_it_is_carried_out() {
    let fake = FakeWorld::new();
    let me = control_plane("i-1");
    fake.ec2.list([running(&me, 10)]);
    let chosen = agent(&fake, me.clone())
        .await
        .choose_cluster(&[])
        .await
        .unwrap();
    let again = agent(&fake, me).await;
    let membership = again.runner.membership().await.unwrap();
    assert_eq!(chosen, Choice::Belong(membership));
}

#[tokio::test(start_paused = true)]
async fn a_worker_gives_up_at_the_deadline_and_reports_what_it_waited_for() {
    let fake = FakeWorld::new();
    let me = worker("i-1");
    fake.ec2.list([running(&me, 10)]);
    let error = agent(&fake, me)
        .await
        .choose_cluster(&[])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert_eq!(
        error.one_line(),
        "gave up after 1800 s waiting for a cluster to found or to join: no control plane has claimed to found the cluster yet"
    );
}
