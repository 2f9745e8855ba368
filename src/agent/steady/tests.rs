#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    adapters::balancer::{Answer, Health, Probe},
    identity::Identity,
    journal::Journal,
    observe::{Membership, Origin},
    testing::{FakeWorld, agent, control_plane, not_ready, ready, running, worker},
};

const ME: &str = "ip-10-42-0-10.eu-central-1.compute.internal";

/// The agent of a node that has joined and is Ready.
async fn member(fake: &FakeWorld, me: Identity) -> Agent {
    // And a control plane that admits nodes.
    fake.ec2
        .list([running(&me, 10), running(&control_plane("i-cp"), 2)]);
    fake.cluster.node_conditions([Some(ready())]);
    let agent = agent(fake, me).await;
    let membership = Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Joined,
    };
    agent.runner.commit_to(membership).await.unwrap();
    agent
}

/// Repairs, and then observes.
async fn cycle(agent: &Agent, full: bool) -> (Stage, String) {
    let unrepaired = agent.repair(full).await;
    let unseen = agent.look_at_peers().await.err();
    agent
        .look_at_node(unseen.into_iter().chain(unrepaired))
        .await
}

/// Lets the agent work for this time; it must not end.
async fn work_for(time: Duration, keep: &mut Pin<&mut impl Future<Output = End>>) {
    let ended = timeout(time, keep.as_mut()).await;
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_is_degraded_with_its_kubelets_message_until_it_is_ready() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    let status = agent.reporter.subscribe();
    let reported = || {
        let status = status.borrow();
        (status.stage, status.message.clone())
    };
    fake.cluster
        .node_conditions([Some(not_ready("cni plugin not initialized")), Some(ready())]);
    let mut keep = pin!(agent.stay());
    work_for(CYCLE / 2, &mut keep).await;
    let message = format!("node {ME} is not Ready: cni plugin not initialized");
    assert_eq!(reported(), (Stage::Degraded, message));
    work_for(CYCLE, &mut keep).await;
    let message = format!("node {ME} is Ready in cluster demo, Kubernetes 1.36.3");
    assert_eq!(reported(), (Stage::Ready, message));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_api_does_not_list_is_degraded() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    fake.cluster.node_conditions([None]);
    let (stage, message) = cycle(&agent, false).await;
    assert_eq!(stage, Stage::Degraded);
    assert_eq!(message, format!("the cluster no longer has the node {ME}"));
    fake.cluster.down(true);
    let (stage, message) = cycle(&agent, false).await;
    assert_eq!(stage, Stage::Degraded);
    assert_eq!(message, "connection refused");
}

#[tokio::test(start_paused = true)]
async fn a_failing_ec2_api_is_reported_and_the_node_stays_ready() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    fake.ec2
        .fail_with(|| Error::failed("cannot reach the EC2 API"));
    let (stage, message) = cycle(&agent, false).await;
    assert_eq!(stage, Stage::Ready);
    assert_eq!(
        message,
        format!(
            "node {ME} is Ready in cluster demo, Kubernetes 1.36.3; but cannot reach the EC2 API"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn what_only_a_person_can_fix_is_reported_and_the_agent_goes_on() {
    let fake = FakeWorld::new();
    let agent = member(&fake, worker("i-1")).await;
    fake.ec2
        .fail_with(|| Error::refused("the instance profile may not describe instances"));
    let mut keep = pin!(agent.stay());
    work_for(Duration::from_mins(10), &mut keep).await;
    let line = agent.reporter.subscribe().borrow().line();
    assert!(
        line.starts_with("Ready: ") && line.ends_with("may not describe instances"),
        "{line}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_removes_the_blanket_approval_whenever_it_comes_back() {
    let fake = FakeWorld::founded();
    let agent = member(&fake, control_plane("i-1")).await;
    let key = "ClusterRoleBinding kubeadm:node-autoapprove-bootstrap";
    for _ in 0..2 {
        fake.cluster.put(serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubeadm:node-autoapprove-bootstrap"},
        }));
        let other = member(&fake, worker("i-1")).await;
        cycle(&other, false).await;
        assert!(fake.cluster.objects().contains_key(key));
        cycle(&agent, false).await;
        assert!(!fake.cluster.objects().contains_key(key));
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_records_the_id_of_etcds_cluster_and_reports_its_members() {
    let fake = FakeWorld::founded();
    fake.etcd.voter(ME, 10);
    let agent = member(&fake, control_plane("i-1")).await;
    let kept = timeout(HEALING / 2, agent.heal_and_maintain()).await;
    assert!(kept.is_err());
    let journal = Journal::open(fake.host.as_ref(), "i-1").await.unwrap();
    assert_eq!(journal.etcd_cluster.as_deref(), Some("c1"));
    let status = agent.reporter.subscribe().borrow().clone();
    assert_eq!(status.etcd.as_ref().unwrap().members.len(), 1);
    let line = format!("  etcd {ME} healthy, leads, 20 of 8192 MiB, 15 in use\n");
    assert!(status.text().contains(&line), "{}", status.text());
}

#[tokio::test(start_paused = true)]
async fn a_full_check_repairs_a_removed_file_and_only_that() {
    let founder = FakeWorld::founded().recorded("uid", "i-cp").await;
    let fake = founder.another_host().with_a_whole_kernel().with_a_way_in();
    let agent = member(&fake, worker("i-1")).await;
    // At first everything is to be done: a whole boot.
    let (stage, message) = cycle(&agent, true).await;
    assert_eq!(stage, Stage::Ready);
    assert!(!message.contains("but"), "{message}");
    let sysctl = "/etc/sysctl.d/90-k8s-bootstrap.conf";
    let before = fake.files.get(sysctl).unwrap();
    let (downloads, _) = (fake.downloads.fetched().len(), fake.commands.ran());

    let mut keep = pin!(agent.stay());
    work_for(CYCLE / 2, &mut keep).await;
    fake.files.delete(sysctl);
    work_for(Duration::from_mins(59), &mut keep).await;
    assert!(
        !fake.files.has(sysctl),
        "the check of each cycle repairs everything"
    );
    work_for(CYCLE * 2, &mut keep).await;
    assert_eq!(fake.files.get(sysctl), Some(before));
    assert_eq!(fake.downloads.fetched().len(), downloads);
    let changes = ["kubeadm", "systemctl restart", "systemctl enable"];
    let ran = fake.commands.ran();
    let unneeded = ran
        .iter()
        .find(|l| changes.iter().any(|c| l.starts_with(c)));
    assert_eq!(unneeded, None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_full_check_is_reported_and_the_node_stays_ready() {
    let founder = FakeWorld::founded().recorded("uid", "i-cp").await;
    let fake = founder.another_host().with_a_whole_kernel().with_a_way_in();
    let agent = member(&fake, worker("i-1")).await;
    cycle(&agent, true).await;
    fake.commands
        .fail("systemctl show", "Failed to connect to bus");
    let (stage, message) = cycle(&agent, true).await;
    assert_eq!(stage, Stage::Ready);
    assert!(message.contains("; but phase "), "{message}");
    assert!(message.contains("Failed to connect to bus"), "{message}");
    sleep(CYCLE).await;
    fake.commands.repair();
    let (_, message) = cycle(&agent, true).await;
    assert!(!message.contains("but"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn status_and_api_servers_are_updated_while_a_full_check_downloads() {
    let founder = FakeWorld::founded().recorded("uid", "i-cp").await;
    let fake = founder.another_host().with_a_whole_kernel().with_a_way_in();
    let me = worker("i-1");
    let agent = member(&fake, me.clone()).await;
    cycle(&agent, true).await;
    fake.files.delete("/usr/local/bin/kubeadm");
    fake.downloads.stall();
    let before = fake.downloads.fetched().len();
    let mut keep = pin!(agent.stay());
    work_for(FULL_CHECK + CYCLE, &mut keep).await;
    assert_eq!(fake.downloads.fetched().len(), before + 1);
    fake.cluster
        .node_conditions([Some(not_ready("cni plugin not initialized"))]);
    fake.ec2
        .list([running(&me, 10), running(&control_plane("i-new"), 3)]);
    work_for(CYCLE * 2, &mut keep).await;
    assert!(!fake.files.has("/usr/local/bin/kubeadm"));
    assert_eq!(agent.reporter.subscribe().borrow().stage, Stage::Degraded);
    let servers = agent.api_servers.borrow().clone();
    let addresses: Vec<_> = servers.iter().map(|s| s.ip().to_string()).collect();
    assert_eq!(addresses, ["10.42.0.3"]);
}

#[test]
fn all_instances_together_make_about_four_calls_a_second_at_most() {
    let pause = |role, instances| between_looks(role, instances).as_secs();
    for (instances, seconds) in [
        (0, 30),
        (3, 30),
        (120, 30),
        (121, 30),
        (400, 100),
        (4000, 1000),
    ] {
        assert_eq!(pause(Role::Worker, instances), seconds, "{instances}");
    }
    assert_eq!(pause(Role::ControlPlane, 4000), 30);
}

#[tokio::test(start_paused = true)]
async fn in_a_small_cluster_each_cycle_observes_however_slow_ec2_is() {
    let fake = FakeWorld::founded().recorded("uid", "i-cp").await;
    fake.settled().await;
    let agent = member(&fake, worker("i-1")).await;
    let mut keep = pin!(agent.stay());
    work_for(CYCLE * 2 + CYCLE / 2, &mut keep).await;
    fake.ec2.takes(Duration::from_secs(2));
    let before = fake.ec2.asked();
    work_for(CYCLE * 20, &mut keep).await;
    assert_eq!(fake.ec2.asked() - before, 20);
}

/// One server is ready, if any.
struct Ready(Option<SocketAddr>);

#[async_trait]
impl Probe for Ready {
    async fn probe(&self, server: SocketAddr) -> Result<Answer> {
        if self.0 == Some(server) {
            return Ok(Answer::Ready);
        }
        Err(Error::failed("connection refused"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_a_large_cluster_asks_rarely_until_it_loses_an_api_server() {
    let fake = FakeWorld::founded().recorded("uid", "i-cp").await;
    fake.settled().await;
    let mut agent = member(&fake, worker("i-1")).await;
    let health = Arc::new(Health::default());
    agent.api_health = health.clone();
    let peers = (0..1200).map(|n| worker(&format!("i-{n}")));
    fake.ec2.list(peers.map(|peer| running(&peer, 20)));
    let mut keep = pin!(agent.stay());
    work_for(CYCLE * 2 + CYCLE / 2, &mut keep).await;
    let before = fake.ec2.asked();
    work_for(CYCLE * 20, &mut keep).await;
    assert_eq!(fake.ec2.asked() - before, 2);
    let servers = ["10.42.0.2:6443", "10.42.0.3:6443"].map(|server| server.parse().unwrap());
    // Which server is ready, and how often EC2 is asked: once per loss, in every cycle if none is
    // ready.
    for (ready, asks) in [(Some(servers[0]), 1), (Some(servers[0]), 0), (None, 5)] {
        for _ in 0..2 {
            health.round(&servers, &Ready(ready)).await;
        }
        let before = fake.ec2.asked();
        work_for(CYCLE * 5, &mut keep).await;
        assert_eq!(fake.ec2.asked() - before, asks, "{ready:?}");
    }
}
