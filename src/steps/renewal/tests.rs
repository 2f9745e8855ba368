#![allow(clippy::unwrap_used)]

use std::sync::{Arc, LazyLock, Mutex as StdMutex};

use serde_json::json;

use super::*;
use crate::testing::{FakeWorld, Files, Pki, control_plane, output, settings};

const OLD: (&str, &str) = ("2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z");
const OVER: (&str, &str) = ("2025-01-01T00:00:00Z", "2026-11-01T00:00:00Z");
const NEW: (&str, &str) = ("2026-11-23T11:55:00Z", "2027-11-23T12:00:00Z");

/// Made once each: keys take most of the time here.
static PKIS: LazyLock<[((&str, &str), Pki); 3]> =
    LazyLock::new(|| [OLD, OVER, NEW].map(|dates| (dates, Pki::between(dates.0, dates.1))));

/// What kubeadm writes.
static FRESH: LazyLock<Pki> = LazyLock::new(|| Pki::between(NEW.0, NEW.1));

fn pki(dates: (&str, &str)) -> &'static Pki {
    let (_, pki) = PKIS.iter().find(|(its, _)| *its == dates).unwrap();
    pki
}

fn step(which: Which) -> Renewal {
    Renewal::new(which, &settings(), &control_plane("i-1"))
}

fn manifest(part: &str) -> String {
    format!("/etc/kubernetes/manifests/{part}.yaml")
}

/// A control plane at noon of 2026-11-23 with certificates of these dates, whose kubeadm renews
/// each certificate once.
fn world(dates: (&str, &str)) -> FakeWorld {
    let fake = FakeWorld::new().with_certificates(pki(dates));
    fake.etcd.voter("n0", 10);
    for part in PARTS {
        let pod = format!(
            "kind: Pod\nmetadata:\n  name: {}\nspec:\n  containers:\n  - image: x\n",
            part.name
        );
        fake.files.put(manifest(part.name), pod);
    }
    let fresh = FRESH.on_disk();
    fake.on("kubeadm", move |command, files| {
        let name = &command.args[if command.args[0] == "certs" { 2 } else { 3 }];
        let kubeconfig = format!("{name}.conf");
        let source = Source::of(name)
            .or_else(|| Source::of(&kubeconfig))
            .unwrap();
        for file in source.files() {
            files.put(file, &fresh[Path::new(file)]);
        }
        output(0, "", "")
    });
    fake
}

/// Updates the kubelet's mirror pods to the current manifests.
fn follow(fake: &FakeWorld) {
    for part in PARTS {
        let text = fake.files.get(manifest(part.name)).unwrap();
        let pod: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let name = format!("{}-{}", part.name, control_plane("i-1").node_name);
        fake.cluster.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "kube-system",
                "annotations": pod["metadata"]["annotations"],
            },
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }));
    }
}

fn annotated(files: &Files) -> Vec<&'static str> {
    let has = |part: &Part| {
        files
            .get(manifest(part.name))
            .unwrap()
            .contains("k8s-bootstrap.io")
    };
    PARTS
        .iter()
        .filter(|part| has(part))
        .map(|part| part.name)
        .collect()
}

/// Applies the step while a kubelet follows the manifests.
async fn apply(fake: &FakeWorld, which: Which) -> Result<()> {
    let world = fake.ports();
    let notes = Notes::unread();
    let step = step(which);
    let mut work = Box::pin(step.apply(&world, &notes));
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            () = tokio::time::sleep(Duration::from_millis(50)) => follow(fake),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn due_certificates_are_renewed_and_their_readers_restarted() {
    let fake = world(OLD);
    let due = step(Which::Due);
    assert_eq!(
        fake.differs(&due).await,
        "etcd-server has a third of its lifetime left or less, and 9 more"
    );
    fake.holds(&step(Which::Useless)).await;
    apply(&fake, Which::Due).await.unwrap();
    fake.holds(&due).await;
    let ran = fake.commands.ran();
    assert_eq!(ran.len(), 10);
    assert_eq!(
        ran[0],
        "kubeadm certs renew etcd-server --config /etc/kubernetes/k8s-bootstrap/kubeadm.yaml"
    );
    assert_eq!(annotated(&fake.files).len(), 3);
    let noted = fake.host.list(Path::new(NOTES)).await.unwrap().unwrap();
    assert!(noted.is_empty(), "{noted:?}");
}

#[tokio::test(start_paused = true)]
async fn new_certificates_and_parts_that_kubeadm_started_are_left_alone() {
    let fake = world(NEW);
    fake.holds(&step(Which::Due)).await;
    fake.holds(&step(Which::Useless)).await;
}

#[tokio::test(start_paused = true)]
async fn expired_certificates_are_renewed_at_once_without_the_api() {
    let fake = world(OVER);
    fake.cluster.down(true);
    fake.cluster.ready_after(usize::MAX);
    let useless = step(Which::Useless);
    assert_eq!(
        fake.differs(&useless).await,
        "etcd-server has expired, and 9 more"
    );
    fake.carry_out(&useless).await;
    assert_eq!(annotated(&fake.files).len(), 3);
    fake.holds(&step(Which::Due)).await;
}

#[tokio::test(start_paused = true)]
async fn a_person_may_renew_all_certificates_before_they_are_due() {
    let fake = world(NEW);
    ask_for_all(fake.host.as_ref()).await.unwrap();
    // Here kubeadm writes another run's certificates.
    fake.differs(&step(Which::Due)).await;
    fake.holds(&step(Which::Useless)).await;
    apply(&fake, Which::Due).await.unwrap();
    fake.holds(&step(Which::Due)).await;
    assert_eq!(fake.commands.ran().len(), 10);
    assert_eq!(annotated(&fake.files).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_part_is_stopped_while_etcd_or_the_api_is_unhealthy() {
    type Hurt = (&'static str, fn(&FakeWorld));
    let hurts: [Hurt; 2] = [
        ("etcd", |fake: &FakeWorld| fake.etcd.stop(1)),
        ("api", |fake: &FakeWorld| {
            fake.cluster.ready_after(usize::MAX);
        }),
    ];
    for (case, hurt) in hurts {
        let fake = world(OLD);
        hurt(&fake);
        let error = apply(&fake, Which::Due).await.unwrap_err();
        assert!(
            error.one_line().contains("the API and etcd to be healthy"),
            "{case}: {error}"
        );
        assert!(annotated(&fake.files).is_empty(), "{case}");
        // The certificates are renewed, and the remaining work is still known.
        assert_eq!(
            fake.differs(&step(Which::Due)).await,
            "kube-apiserver still runs with the old apiserver"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_part_waits_until_the_previous_one_is_ready() {
    let fake = world(OLD);
    // There is no kubelet to follow the manifests.
    let error = fake.apply(&step(Which::Due)).await.unwrap_err();
    assert!(
        error
            .one_line()
            .contains("kube-apiserver to run with its renewed certificate"),
        "{error}"
    );
    assert_eq!(annotated(&fake.files), ["kube-apiserver"]);
}

/// Both need the API server but not each other.
#[tokio::test(start_paused = true)]
async fn once_the_api_server_is_back_the_other_parts_are_restarted_together() {
    let fake = world(OLD);
    let world = fake.ports();
    let notes = Notes::unread();
    let step = step(Which::Due);
    let mut work = Box::pin(step.apply(&world, &notes));
    // A kubelet that starts only the API server.
    let started = async {
        while annotated(&fake.files).is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(annotated(&fake.files), ["kube-apiserver"]);
        follow(&fake);
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        outcome = &mut work => outcome.unwrap_err(),
        () = started => unreachable!("it never ends"),
    };
    assert!(
        error.one_line().contains("kube-controller-manager to run"),
        "{error}"
    );
    assert_eq!(annotated(&fake.files).len(), 3);
}

/// Kills the agent at each call of kubeadm, in each state in which kubeadm may leave its two files,
/// and lets the next agent continue.
#[tokio::test(start_paused = true)]
async fn after_a_kill_at_any_point_the_next_agent_continues() {
    let fresh = FRESH.on_disk();
    for at in 0..10 {
        for torn in ["nothing", "a key", "an empty file", "both"] {
            let fake = world(OLD);
            let calls = Arc::new(StdMutex::new(0));
            let files = fresh.clone();
            let dying = calls.clone();
            fake.on("kubeadm certs renew", move |command, disk| {
                let source = Source::of(&command.args[2]).unwrap();
                let mut calls = dying.lock().unwrap();
                *calls += 1;
                let dies = *calls == at + 1;
                for file in source.files() {
                    match (dies, torn) {
                        (true, "nothing") => {}
                        (true, "a key") if file != source.key.unwrap() => {}
                        (true, "an empty file") => disk.put(file, ""),
                        _ => disk.put(file, &files[Path::new(file)]),
                    }
                }
                if dies {
                    output(137, "", "killed")
                } else {
                    output(0, "", "")
                }
            });
            apply(&fake, Which::Due).await.unwrap_err();
            // As the agent's cycles do.
            for which in [Which::Useless, Which::Due] {
                if fake.check(&step(which)).await.unwrap() != State::AsWanted {
                    apply(&fake, which).await.unwrap();
                }
            }
            fake.holds(&step(Which::Due)).await;
            let inventory = Inventory::read(fake.host.as_ref()).await.unwrap();
            assert!(inventory.broken.is_empty());
            let old = inventory
                .certificates
                .iter()
                .find(|c| c.renewed_by == Keeper::Agent && c.not_after.to_string() != NEW.1);
            assert_eq!(old, None, "{torn} at {at}");
            assert_eq!(annotated(&fake.files).len(), 3, "{torn} at {at}");
        }
    }
}
