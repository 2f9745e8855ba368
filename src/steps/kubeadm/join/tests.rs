#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::testing::{self, FakeWorld, Files};

const TOKEN: &str = "abcdef.0123456789abcdef";

fn step(role: Role) -> Join {
    Join::new(&testing::settings(), &testing::identity(role), "uid").unwrap()
}

/// A world with a cluster whose control plane i-cp admits nodes.
async fn open(role: Role) -> FakeWorld {
    FakeWorld::new()
        .recorded("uid", "i-cp")
        .await
        .with_a_join_service(JoinTicket {
            token: TOKEN.to_owned().into(),
            ca: "the CA".to_owned(),
            certificate_key: (role == Role::ControlPlane).then(|| "key".to_owned().into()),
            expires: "2026-11-23T12:10:00Z".parse().unwrap(),
        })
}

/// What a successful join leaves on disk.
fn member(host: &Files) {
    let ca = &testing::Pki::new().files["ca.crt"];
    host.put(paths::CA, ca);
    host.put(paths::KUBELET_CONF, testing::rotating_kubeconfig(ca));
    host.put(paths::KUBELET_CLIENT, "");
}

fn joins(fake: &FakeWorld) -> usize {
    let ran = fake.commands.ran();
    ran.iter()
        .filter(|line| line.starts_with("kubeadm join"))
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_worker_joins_and_leaves_no_token_behind() {
    let fake = open(Role::Worker).await;
    fake.on("kubeadm join", |_, host| {
        let document: Value = serde_json::from_str(&host.get(paths::JOIN_CONFIG).unwrap()).unwrap();
        let discovery = &document["discovery"];
        assert_eq!(discovery["tlsBootstrapToken"], TOKEN);
        let file = discovery["file"]["kubeConfigPath"].as_str().unwrap();
        let file = host.get(file).unwrap();
        let found: Value = serde_json::from_str(&file).unwrap();
        let cluster = &found["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://127.0.0.1:7443");
        let ca = BASE64_STANDARD.encode("the CA");
        assert_eq!(cluster["certificate-authority-data"], ca);
        // kubeadm requires an existing user in the context.
        assert_eq!(found["contexts"][0]["context"]["user"], "nobody");
        assert_eq!(found["users"][0]["name"], "nobody");
        assert!(!file.contains(TOKEN));
        assert_eq!(host.mode(paths::JOIN_CONFIG), 0o600);
        member(host);
        testing::output(0, "", "")
    });
    let (world, step) = (fake.ports(), step(Role::Worker));
    assert!(matches!(
        step.check(&world).await.unwrap(),
        State::Differs(_)
    ));
    step.apply(&world, &Notes::unread()).await.unwrap();
    assert_eq!(step.check(&world).await.unwrap(), State::AsWanted);
    assert!(!fake.files.has(paths::JOIN_CONFIG) && !fake.files.has(paths::DISCOVERY_CONF));
    assert!(!format!("{step:?}").contains(TOKEN));
    let (server, pin, applicant) = fake.join.asked().remove(0);
    assert_eq!(server.to_string(), "10.42.0.2:7444");
    assert_eq!(pin, "sha256:00");
    assert_eq!(applicant, step.applicant);
}

#[tokio::test(start_paused = true)]
async fn a_worker_joins_with_the_ticket_that_it_received_while_it_downloaded() {
    let fake = open(Role::Worker).await;
    let join = step(Role::Worker);
    let ticket = Ticket::before(&join);
    assert_eq!(
        fake.differs(&ticket).await,
        "no control plane has admitted this node yet"
    );
    fake.carry_out(&ticket).await;
    // The control planes are gone, so that there is no other ticket.
    fake.ec2.list([]);
    fake.on("kubeadm join", |_, host| {
        assert!(host.get(paths::JOIN_CONFIG).unwrap().contains(TOKEN));
        member(host);
        testing::output(0, "", "")
    });
    fake.carry_out(&join).await;
    assert_eq!(ticket.check(&fake.ports()).await.unwrap(), State::AsWanted);
}

/// Its kubelet would report a Ready node for ever, and a Ready worker gets no ticket.
#[tokio::test(start_paused = true)]
async fn a_worker_that_lost_its_identity_stops_its_kubelet_before_it_asks() {
    for early in [true, false] {
        let fake = open(Role::Worker).await;
        fake.files.put(paths::CA, "the CA");
        fake.on("kubeadm join", |_, host| {
            member(host);
            testing::output(0, "", "")
        });
        let asked_when_stopped = fake.join.clone();
        fake.on("systemctl stop kubelet.service", move |_, _| {
            assert!(asked_when_stopped.asked().is_empty());
            testing::output(0, "", "")
        });
        let join = step(Role::Worker);
        if early {
            fake.carry_out(&Ticket::before(&join)).await;
        } else {
            fake.carry_out(&join).await;
        }
        assert!(
            fake.commands
                .ran()
                .contains(&"systemctl stop kubelet.service".to_owned())
        );
        assert_eq!(fake.join.asked().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_used_once_and_only_while_it_is_fresh() {
    let fake = open(Role::Worker).await;
    let join = step(Role::Worker);
    let ticket = Ticket::before(&join);
    fake.carry_out(&ticket).await;
    tokio::time::advance(Duration::from_mins(5)).await;
    assert_ne!(ticket.check(&fake.ports()).await.unwrap(), State::AsWanted);
    let now = || fake.ports().clock.elapsed();
    assert!(join.kept.take(now()).is_none());
    fake.carry_out(&ticket).await;
    assert!(join.kept.take(now()).is_some());
    assert!(join.kept.take(now()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failed_join_reports_why_and_leaves_no_token_behind() {
    let fake = open(Role::Worker).await;
    fake.on("kubeadm join", |_, _| {
        testing::output(1, "", "[ERROR Port-10250]: Port 10250 is in use")
    });
    let error = step(Role::Worker)
        .apply(&fake.ports(), &Notes::unread())
        .await
        .unwrap_err();
    assert!(error.one_line().contains("Port 10250 is in use"), "{error}");
    assert!(!fake.files.has(paths::JOIN_CONFIG));
}

#[tokio::test(start_paused = true)]
async fn the_leftovers_of_a_killed_join_are_removed_before_the_next() {
    let fake = open(Role::Worker).await;
    for path in [paths::BOOTSTRAP_KUBELET_CONF, paths::CA, paths::JOIN_CONFIG] {
        fake.files.put(path, "half");
    }
    fake.on("kubeadm join", |_, host| {
        assert!(
            !host.has(paths::BOOTSTRAP_KUBELET_CONF),
            "kubeadm's preflight checks would fail"
        );
        assert!(
            !host.has(paths::CA),
            "kubeadm's preflight checks would fail"
        );
        member(host);
        testing::output(0, "", "")
    });
    step(Role::Worker)
        .apply(&fake.ports(), &Notes::unread())
        .await
        .unwrap();
    let ran = fake.commands.ran();
    assert_eq!(ran[0], "systemctl stop kubelet.service");
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_kubelet_got_its_certificate_never_joins_again() {
    let fake = FakeWorld::new();
    member(&fake.files);
    fake.files.put(paths::BOOTSTRAP_KUBELET_CONF, TOKEN);
    fake.files.put(paths::JOIN_CONFIG, TOKEN);
    let (world, step) = (fake.ports(), step(Role::Worker));
    let State::Differs(reason) = step.check(&world).await.unwrap() else {
        panic!("a token on disk was not detected");
    };
    assert!(reason.contains("still contains a join token"));
    step.apply(&world, &Notes::unread()).await.unwrap();
    assert_eq!(step.check(&world).await.unwrap(), State::AsWanted);
    assert_eq!(joins(&fake), 0);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_killed_while_joining_is_reset_and_joins_again() {
    let fake = open(Role::ControlPlane).await;
    member(&fake.files);
    fake.files
        .put("/etc/kubernetes/manifests/etcd.yaml", "half");
    fake.on("kubeadm join", |_, host| {
        let document: Value = serde_json::from_str(&host.get(paths::JOIN_CONFIG).unwrap()).unwrap();
        assert_eq!(document["controlPlane"]["certificateKey"], "key");
        assert_eq!(
            document["controlPlane"]["localAPIEndpoint"]["bindPort"],
            6443
        );
        member(host);
        testing::output(0, "", "")
    });
    let (world, step) = (fake.ports(), step(Role::ControlPlane));
    assert!(matches!(
        step.check(&world).await.unwrap(),
        State::Differs(_)
    ));
    step.apply(&world, &Notes::unread()).await.unwrap();
    assert_eq!(step.check(&world).await.unwrap(), State::AsWanted);
    let ran = fake.commands.ran();
    assert!(
        ran[0].starts_with("/usr/local/bin/kubeadm reset --force"),
        "{ran:?}"
    );
}

/// kubeadm stops at a file that it cannot read, on every attempt: a full disk leaves such files.
#[tokio::test(start_paused = true)]
async fn a_control_planes_half_written_certificates_are_removed_before_it_joins_again() {
    let fake = open(Role::ControlPlane).await;
    let pki = |name: &str| format!("{}/{name}", paths::PKI);
    for (name, content) in testing::Pki::new().files {
        fake.files.put(pki(&name), content);
    }
    fake.files.put(pki("etcd/server.crt"), "");
    fake.on("kubeadm join", move |_, host| {
        for gone in ["etcd/server.crt", "etcd/server.key"] {
            assert!(!host.has(pki(gone)), "kubeadm would stop at {gone}");
        }
        for stays in ["ca.crt", "apiserver.crt", "etcd/peer.crt"] {
            assert!(host.has(pki(stays)), "{stays} was whole");
        }
        member(host);
        testing::output(0, "", "")
    });
    let (world, step) = (fake.ports(), step(Role::ControlPlane));
    step.apply(&world, &Notes::unread()).await.unwrap();
    assert_eq!(joins(&fake), 1);
    let ran = fake.commands.ran();
    assert!(
        !ran.iter()
            .any(|line| line.starts_with("/usr/local/bin/kubeadm reset"))
    );
}

/// A joiner's authorities are copies: none is worth keeping without its key.
#[tokio::test(start_paused = true)]
async fn a_copied_authority_without_its_key_does_not_stop_a_join() {
    let fake = open(Role::ControlPlane).await;
    let ca = format!("{}/ca.crt", paths::PKI);
    let content = testing::Pki::new().files["ca.crt"].clone();
    fake.files.put(ca.clone(), content);
    fake.on("kubeadm join", move |_, host| {
        assert!(!host.has(ca.clone()), "kubeadm would stop");
        member(host);
        testing::output(0, "", "")
    });
    let (world, step) = (fake.ports(), step(Role::ControlPlane));
    step.apply(&world, &Notes::unread()).await.unwrap();
    assert_eq!(joins(&fake), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_joiner_reports_the_reason_of_each_control_plane() {
    let no_cluster = FakeWorld::new();
    let abandoned = open(Role::Worker).await;
    abandoned.claimed(2, "uid-2", "i-new").await;
    let no_control_plane = FakeWorld::new().recorded("uid", "i-cp").await;
    let refused = FakeWorld::new().recorded("uid", "i-cp").await;
    let listed = |id: &str, last: u8| testing::running(&testing::control_plane(id), last);
    let mut stopped = listed("i-stopped", 4);
    stopped.state = InstanceState::Stopped;
    let me = &step(Role::Worker).applicant.instance;
    let others = [listed("i-a", 2), listed("i-b", 3), stopped, listed(me, 10)];
    refused.ec2.list(others);
    for (fake, expected) in [
        (no_cluster, "the store records no cluster uid"),
        (abandoned, "cluster uid was abandoned: i-new founds another"),
        (no_control_plane, "EC2 lists no running control plane"),
        (
            refused,
            "10.42.0.2:7444 admits no node; 10.42.0.3:7444 admits no node",
        ),
    ] {
        let error = step(Role::Worker)
            .apply(&fake.ports(), &Notes::unread())
            .await
            .unwrap_err();
        assert!(error.one_line().ends_with(expected), "{error}");
        assert_eq!(joins(&fake), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_has_joined_is_never_reset() {
    let fake = open(Role::ControlPlane).await;
    member(&fake.files);
    fake.files.put(paths::JOINED, "");
    fake.files.delete(paths::KUBELET_CLIENT);
    let error = step(Role::ControlPlane)
        .apply(&fake.ports(), &Notes::unread())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Refused);
    assert!(error.one_line().contains(paths::KUBELET_CLIENT), "{error}");
    assert!(error.remedy().is_some());
    assert!(fake.commands.ran().is_empty());
    assert!(fake.files.has(paths::KUBELET_CONF));
}

/// A control plane whose agent ended after its member's promotion but before recording it. It is at
/// 10.42.0.10, the founder at 10.42.0.2.
async fn promoted() -> (FakeWorld, Join, crate::ports::Member) {
    let fake = open(Role::ControlPlane).await;
    member(&fake.files);
    for path in ["/etc/kubernetes/manifests/etcd.yaml", paths::ETCD_MEMBER] {
        fake.files.put(path, "");
    }
    fake.on("kubeadm join", |_, host| {
        member(host);
        testing::output(0, "", "")
    });
    let step = step(Role::ControlPlane);
    fake.etcd.voter("cp", 2);
    let own = fake.etcd.voter(&step.applicant.node, 10);
    let me = testing::control_plane(&step.applicant.instance);
    let others = [(testing::control_plane("i-cp"), 2), (me, 10)];
    fake.ec2
        .list(others.map(|(who, last)| testing::running(&who, last)));
    (fake, step, own)
}

/// Applies the step; returns the error.
async fn refused(fake: &FakeWorld, step: &Join) -> String {
    let error = fake.apply(step).await.unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Failed, "{error}");
    assert_eq!(fake.commands.ran(), [""; 0]);
    assert!(fake.files.has(paths::ETCD_MEMBER));
    error.one_line()
}

#[tokio::test(start_paused = true)]
async fn a_voter_whose_api_is_ready_has_joined() {
    let (fake, step, _) = promoted().await;
    let world = fake.ports();
    JOIN_LOCK
        .take(&world, &step.applicant.instance)
        .await
        .unwrap();
    fake.carry_out(&step).await;
    assert_eq!(fake.commands.ran(), [""; 0]);
    assert!(fake.join.asked().is_empty());
    let next = JOIN_LOCK.take(&world, "i-next").await.unwrap();
    assert_eq!(next, crate::kubernetes::lease::Holder::Me);
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_the_others_need_is_never_reset_and_may_recover() {
    let (fake, step, own) = promoted().await;
    let third = fake.etcd.voter("cp3", 12);
    fake.etcd.stop(third.id);
    fake.etcd.stop(own.id);
    let why = refused(&fake, &step).await;
    assert!(why.contains("only 0 of the 2 other voters"), "{why}");
    let server = SocketAddr::from((own.address, 6443));
    fake.etcd.start(own.id);
    fake.cluster.unready([server]);
    let why = refused(&fake, &step).await;
    assert!(why.contains("10.42.0.10:6443 is not ready"), "{why}");
    fake.cluster.unready([]);
    fake.carry_out(&step).await;
    assert!(fake.commands.ran().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_voter_whose_kubelet_has_no_certificate_has_not_joined() {
    let (fake, step, _) = promoted().await;
    let third = fake.etcd.voter("cp3", 12);
    fake.etcd.stop(third.id);
    fake.files.delete(paths::KUBELET_CLIENT);
    let why = refused(&fake, &step).await;
    assert!(why.contains(paths::KUBELET_CLIENT), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_is_never_ready_leaves_etcd_before_it_is_reset() {
    let (fake, step, own) = promoted().await;
    fake.etcd.voter("cp3", 12);
    fake.etcd.stop(own.id);
    let etcd = fake.etcd.clone();
    fake.on("/usr/local/bin/kubeadm reset", move |_, _| {
        assert_eq!(etcd.count(), 2, "reset before it left etcd");
        testing::output(0, "", "")
    });
    fake.carry_out(&step).await;
    let ran = fake.commands.ran();
    assert!(
        ran[0].starts_with("/usr/local/bin/kubeadm reset"),
        "{ran:?}"
    );
    assert!(ran[1].starts_with("kubeadm join"), "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_with_etcd_data_is_not_reset_while_no_member_lists_the_voters() {
    let (fake, step, own) = promoted().await;
    fake.ec2.list([]);
    fake.etcd.stop(own.id);
    fake.etcd.stop(1);
    let why = refused(&fake, &step).await;
    assert!(why.contains("connection refused"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_learner_is_reset_and_joins_again() {
    let (fake, step, own) = promoted().await;
    fake.ports().etcd.remove(own.id).await.unwrap();
    fake.etcd.learner(&step.applicant.node, 10);
    fake.carry_out(&step).await;
    let ran = fake.commands.ran();
    assert!(
        ran[0].starts_with("/usr/local/bin/kubeadm reset"),
        "{ran:?}"
    );
    assert!(ran[1].starts_with("kubeadm join"), "{ran:?}");
}
