#![allow(clippy::unwrap_used, clippy::panic)]

use std::{path::Path, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::{
    agent::End,
    error::Kind,
    journal::FILE,
    kubernetes::paths,
    observe::Membership,
    plan,
    ports::{Clock, Etcd, Instance, InstanceState, Store},
    testing::{FakeWorld, agent, control_plane, output, running, worker},
};

/// Longer than observations have to agree.
const AGREED: Duration = Duration::from_mins(5);

fn terminated(id: &str) -> Instance {
    Instance {
        state: InstanceState::Terminated,
        ..running(&control_plane(id), 2)
    }
}

/// A worker that joined cluster uid, founded by i-cp and not settled.
async fn joined() -> (FakeWorld, Agent) {
    let fake = FakeWorld::new().recorded("uid", "i-cp").await;
    let me = worker("i-1");
    fake.ec2
        .list([running(&me, 10), running(&control_plane("i-cp"), 2)]);
    let agent = agent(&fake, me).await;
    let membership = Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Joined,
    };
    agent.runner.commit_to(membership).await.unwrap();
    (fake, agent)
}

/// The API goes down with it.
fn founder_is_gone(fake: &FakeWorld) {
    fake.cluster.down(true);
    fake.ec2
        .list([running(&worker("i-1"), 10), terminated("i-cp")]);
}

/// Scripts the programs that the removal runs.
fn with_programs(fake: &FakeWorld) {
    fake.on("/usr/local/bin/kubeadm reset", |_, files| {
        assert!(
            !files.has(paths::ADMIN_CONF),
            "kubeadm would wait for an API that is gone"
        );
        files.delete(paths::KUBELET_CONF);
        output(0, "", "")
    });
    fake.on("systemctl show", |_, _| {
        output(0, "ActiveState=inactive\nUnitFileState=disabled\n", "")
    });
    fake.on("nft list tables", |_, _| output(0, "table ip filter\n", ""));
    fake.on("rm -rf", |command, files| {
        for path in &command.args[2..] {
            let path = files.root().join(path.trim_start_matches('/'));
            let _ = std::fs::remove_dir_all(&path);
            let _ = std::fs::remove_file(&path);
        }
        output(0, "", "")
    });
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_abandoned_once_observations_of_minutes_agree() {
    let (fake, agent) = joined().await;
    assert!(timeout(AGREED, agent.until_abandoned()).await.is_err());
    founder_is_gone(&fake);
    let begun = fake.clock.since_noon();
    let why = agent.until_abandoned().await.unwrap();
    assert_eq!(
        why,
        "cluster uid lost its founder i-cp before it was settled"
    );
    let took = fake.clock.since_noon().saturating_sub(begun);
    assert!(took >= Duration::from_mins(3) && took < AGREED, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_settled_cluster_is_never_abandoned_and_no_longer_checked() {
    let (fake, agent) = joined().await;
    fake.settled().await;
    founder_is_gone(&fake);
    assert_eq!(agent.until_abandoned().await, None);
    assert!(fake.clock.since_noon() < Duration::from_mins(1));
}

/// The agent of the control plane that founded the cluster.
async fn founder(fake: &FakeWorld) -> Agent {
    let me = control_plane("i-1");
    fake.ec2.list([running(&me, 10)]);
    let agent = agent(fake, me).await;
    let membership = Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Founded,
    };
    agent.runner.commit_to(membership).await.unwrap();
    agent
}

#[tokio::test(start_paused = true)]
async fn a_founder_never_abandons_its_cluster() {
    let fake = FakeWorld::new().recorded("uid", "i-1").await;
    let agent = founder(&fake).await;
    fake.cluster.down(true);
    fake.claimed(2, "uid-2", "i-2").await;
    assert!(timeout(AGREED, agent.until_abandoned()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_founder_keeps_the_settled_record_across_restarts() {
    let fake = FakeWorld::founded().recorded("uid", "i-1").await;
    let agent = founder(&fake).await;
    fake.settled().await;
    assert_eq!(agent.until_abandoned().await, None);
    let kept = agent.runner.memory().await.settled.unwrap();
    assert_eq!(kept.cluster_uid(), "uid");
    // Across a restart, and independent of the store.
    let restarted = crate::testing::agent(&fake, control_plane("i-1")).await;
    assert_eq!(restarted.runner.memory().await.settled, Some(kept));
}

/// The sequence that once destroyed a cluster: its founder was replaced, then one key was lost.
#[tokio::test(start_paused = true)]
async fn a_lost_key_is_written_again_and_no_node_starts_over() {
    let (fake, _) = joined().await;
    fake.settled().await;
    let me = control_plane("i-2");
    let other = fake.another_host();
    let member = agent(&other, me.clone()).await;
    let membership = Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Joined,
    };
    member.runner.commit_to(membership).await.unwrap();
    fake.ec2.list([running(&me, 11), terminated("i-cp")]);
    assert_eq!(member.until_abandoned().await, None);
    let whole = fake.store.list("").await.unwrap();
    for key in whole.keys() {
        fake.store.delete(key).await.unwrap();
        let restarted = crate::testing::agent(&other, me.clone()).await;
        assert_eq!(restarted.until_abandoned().await, None);
        let seen = restarted.observe().await.unwrap();
        restarted.repair_record(&seen).await.unwrap();
        assert_eq!(fake.store.list("").await.unwrap(), whole, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_the_settled_record_does_not_start_over_while_the_api_answers() {
    let (fake, agent) = joined().await;
    founder_is_gone(&fake);
    fake.cluster.down(false);
    assert!(timeout(AGREED, agent.until_abandoned()).await.is_err());
    fake.cluster.down(true);
    // Another control plane that waits in the same way also shows the cluster's certificate.
    fake.peers.show(&["10.42.0.3:6443"]);
    let peer = running(&control_plane("i-2"), 3);
    fake.ec2
        .list([running(&worker("i-1"), 10), terminated("i-cp"), peer]);
    assert!(agent.until_abandoned().await.is_some());
}

/// The agent of a control plane that votes in the etcd of cluster uid, whose founder is terminated.
async fn voter(fake: &FakeWorld, others: &[Instance]) -> Agent {
    let me = control_plane("i-2");
    let own = [running(&me, 10), terminated("i-cp")];
    fake.ec2.list(own.into_iter().chain(others.iter().cloned()));
    fake.cluster.down(true);
    let agent = agent(fake, me).await;
    let membership = Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Joined,
    };
    agent.runner.commit_to(membership).await.unwrap();
    fake.etcd.voter("founder", 2);
    let own = fake.etcd.learner("own", 10);
    fake.etcd.start(own.id);
    fake.etcd.promote(own.id).await.unwrap();
    agent
}

#[tokio::test(start_paused = true)]
async fn an_etcd_voter_does_not_start_over() {
    let fake = FakeWorld::new().recorded("uid", "i-cp").await;
    let agent = voter(&fake, &[]).await;
    assert!(timeout(AGREED, agent.until_abandoned()).await.is_err());
}

/// Its data may be wanted, and so may the cluster that was founded while it was stopped.
#[tokio::test(start_paused = true)]
async fn an_etcd_voter_whose_cluster_was_replaced_reports_that_a_person_must_decide() {
    let fake = FakeWorld::new().recorded("uid", "i-cp").await;
    let successor = running(&control_plane("i-3"), 3);
    let agent = voter(&fake, &[successor]).await;
    fake.claimed(2, "uid-2", "i-3").await;
    assert!(timeout(AGREED, agent.until_abandoned()).await.is_err());
    let status = agent.reporter.subscribe();
    let conflict = status.borrow().conflict.clone().unwrap();
    assert!(conflict.contains("i-3 has founded cluster uid-2 since: "));
    assert!(conflict.contains("terminate this instance or run"));
    assert!(status.borrow().line().contains(&conflict));
    // A person has ended the other cluster.
    fake.store.delete("founder/2").await.unwrap();
    assert!(timeout(AGREED, agent.until_abandoned()).await.is_err());
    assert_eq!(status.borrow().conflict, None);
}

#[tokio::test(start_paused = true)]
async fn a_failing_ec2_or_store_is_no_reason_to_start_over() {
    let (fake, agent) = joined().await;
    fake.ec2.fail_with(|| Error::failed("EC2 does not answer"));
    assert!(timeout(AGREED, agent.until_abandoned()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn starting_over_removes_the_clusters_data_and_then_the_journal() {
    let (fake, agent) = joined().await;
    with_programs(&fake);
    for path in [paths::ADMIN_CONF, paths::KUBELET_CONF, paths::JOINED] {
        fake.files.put(path, "x");
    }
    fake.files
        .put(Path::new(paths::ETCD_MEMBER).join("snap/db"), "x");
    let error = agent.start_over("why", &plan::removal::start_over()).await;
    // The unit starts the agent again.
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.one_line().starts_with("why: "), "{error}");
    for path in [paths::KUBERNETES, paths::ETCD_MEMBER, FILE] {
        assert!(!fake.files.has(path), "{path}");
    }
    let ran = fake.commands.ran();
    assert!(
        ran.iter()
            .all(|line| !line.contains("k8s-bootstrap.service")),
        "{ran:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_start_over_keeps_the_membership_until_all_else_is_removed() {
    let (fake, agent) = joined().await;
    with_programs(&fake);
    for path in [paths::KUBELET_CONF, paths::JOINED] {
        fake.files.put(path, "x");
    }
    fake.commands.fail("rm -rf", "Device or resource busy");
    let error = agent.start_over("why", &plan::removal::start_over()).await;
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.one_line().starts_with("cannot start over"), "{error}");
    assert!(fake.files.has(FILE));
    // The next start decides the same and completes it.
    with_programs(&fake);
    let again = crate::testing::agent(&fake, worker("i-1")).await;
    founder_is_gone(&fake);
    let why = again.until_abandoned().await.unwrap();
    again.start_over(&why, &plan::removal::start_over()).await;
    assert!(!fake.files.has(FILE) && !fake.files.has(paths::JOINED));
}

#[tokio::test(start_paused = true)]
async fn the_steady_state_ends_when_the_cluster_is_abandoned() {
    let (fake, agent) = joined().await;
    founder_is_gone(&fake);
    let end = timeout(AGREED, agent.stay()).await.unwrap();
    assert!(matches!(end, End::Abandoned(_)), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_join_in_progress_ends_when_its_cluster_is_abandoned() {
    let (fake, agent) = joined().await;
    with_programs(&fake);
    let clock = fake.clock.clone();
    let ends = async {
        clock.sleep(Duration::from_mins(10)).await;
        founder_is_gone(&fake);
        clock.sleep(Duration::from_hours(1)).await;
    };
    let waits = [Phase {
        name: "ticket".to_owned(),
        why: "a join takes long".to_owned(),
        after: Vec::new(),
        deadline_seconds: 7200,
        step: Waits,
    }];
    let removal = plan::removal::start_over();
    let boot = agent.boot_by(&[], &removal, |_| Ok(waits.into()));
    let outcome = tokio::select! {
        outcome = boot => outcome,
        () = ends => panic!("the join does not end"),
    };
    let error = outcome.unwrap_err();
    assert!(
        error.one_line().starts_with("cluster uid lost its founder"),
        "{error}"
    );
    assert!(!fake.files.has(FILE));
}

/// A step that never ends.
#[derive(Debug, Serialize)]
struct Waits;

#[async_trait::async_trait]
impl Step for Waits {
    async fn check(&self, _: &crate::ports::World) -> crate::error::Result<crate::steps::State> {
        Ok(crate::steps::State::Differs(
            "the ticket is missing".to_owned(),
        ))
    }

    async fn apply(
        &self,
        _: &crate::ports::World,
        _: &crate::wait::Notes,
    ) -> crate::error::Result<()> {
        std::future::pending().await
    }
}
