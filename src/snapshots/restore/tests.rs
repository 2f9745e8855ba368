#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    journal::{Course, Membership},
    observe::{Claim, Evidence, Record},
    ports::Instance,
    snapshots::{Subject, take},
    testing::{FakeWorld, Pki, control_plane, output, running, settings},
};

fn place() -> Place {
    Place::Folder("/backups".into())
}

/// A world with a backup of its cluster, and the cluster as the store records it.
async fn backed_up() -> (FakeWorld, Initialized) {
    let fake = FakeWorld::new().with_pki(&Pki::new());
    fake.etcd.voter("a", 10);
    let subject = Subject {
        cluster: "demo",
        cluster_uid: "uid",
        instance: "i-1",
        kubernetes: "1.36.3",
    };
    take(&fake.ports(), &place(), 3, subject).await.unwrap();
    let ca = fake.files.get(paths::CA).unwrap();
    let cluster = Initialized {
        cluster_uid: "uid".to_owned(),
        ca_hash: ca_cert_hash(ca.as_bytes()).unwrap(),
        founder: "i-1".to_owned(),
        time: fake.ports().clock.now(),
    };
    (fake, cluster)
}

/// A new machine that reaches the same backups, with programs that do what the real ones do.
fn successor(of: &FakeWorld) -> FakeWorld {
    let new = of.another_host();
    for file in ["db", "pki.tar", "json"] {
        let path = format!("/backups/uid/{STAMP}.{file}");
        let content = std::fs::read(of.files.root().join(&path[1..])).unwrap();
        new.files.put(&path, content);
    }
    new.commands.state().images.insert(ETCD_IMAGE.to_owned());
    // Nothing is left of an earlier restore.
    for nothing in ["tasks rm", "containers rm"] {
        new.on(&format!("{CTR} --namespace k8s.io {nothing}"), |_, _| {
            output(1, "", "not found")
        });
    }
    new.on("mkdir", |_, _| output(0, "", ""));
    new.on(RESTORE, |_, files| {
        files.put(format!("{MADE}/member/snap/db"), "restored");
        output(0, "", "")
    });
    new.on("mv", |command, files| {
        let at = |path: &str| files.root().join(&path[1..]);
        std::fs::rename(at(&command.args[0]), at(&command.args[1])).unwrap();
        output(0, "", "")
    });
    new.on("rm -rf", |command, files| {
        let _ = std::fs::remove_dir_all(files.root().join(&command.args[1][1..]));
        output(0, "", "")
    });
    new
}

const STAMP: &str = "20261123T120000.000Z";
const ETCD_IMAGE: &str = "registry.k8s.io/etcd:3.6.8-0";
const RESTORE: &str = "/usr/local/bin/ctr --namespace k8s.io run --rm";

fn seen(cluster: &Initialized, others: &[(&str, InstanceState)]) -> Observation {
    let instances = others.iter().map(|(id, state)| Instance {
        state: *state,
        ..running(&control_plane(id), 11)
    });
    Observation {
        now: "2026-11-24T12:00:00Z".parse().unwrap(),
        elapsed: std::time::Duration::ZERO,
        instances: instances.collect(),
        record: Record {
            claims: vec![Claim {
                cluster_uid: cluster.cluster_uid.clone(),
                ..Claim::new(1, &cluster.founder, cluster.time)
            }],
            initialized: [(1, cluster.clone())].into(),
            settled: None,
        },
        membership: None,
        settled: None,
        evidence: Evidence::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_restore() {
    use InstanceState::{Running, ShuttingDown, Stopped, Terminated};
    let (_, cluster) = backed_up().await;
    let me = control_plane("i-9");
    let alone: &[_] = &[("i-9", Running), ("i-1", Terminated)];
    let mut unrecorded = seen(&cluster, alone);
    unrecorded.record.initialized.clear();
    let member = |uid: &str| Observation {
        membership: Some(Membership {
            cluster_uid: uid.to_owned(),
            course: Course::Join,
        }),
        ..seen(&cluster, alone)
    };
    let with = |state| seen(&cluster, &[("i-9", Running), ("i-1", state)]);
    for (case, seen, leading, force, refusal) in [
        (
            "all others terminated",
            seen(&cluster, alone),
            false,
            false,
            "",
        ),
        ("another runs", with(Running), false, false, "i-1"),
        ("another is stopped", with(Stopped), false, false, "i-1"),
        ("another is dying", with(ShuttingDown), false, false, "i-1"),
        ("by force", with(Running), true, true, ""),
        (
            "its own etcd works",
            member("uid"),
            true,
            false,
            "has a leader",
        ),
        ("the survivor", member("uid"), false, false, ""),
        (
            "a stranger",
            member("other"),
            false,
            true,
            "belongs to cluster other",
        ),
        ("no record", unrecorded, false, true, "records no cluster"),
    ] {
        match may_restore(&me, &seen, leading, force) {
            Ok(_) => assert_eq!(refusal, "", "{case}"),
            Err(error) => {
                assert!(!refusal.is_empty(), "{case}: {error}");
                assert!(error.one_line().contains(refusal), "{case}: {error}");
                assert!(error.remedy().is_some(), "{case}");
            }
        }
    }
}

#[test]
fn a_backup_is_named_by_its_place_or_its_manifest() {
    let bucket = "s3://backups/prod";
    let name = Name::of("uid", &format!("{STAMP}.json"));
    for (from, to, expected) in [
        ("latest", bucket, Some((bucket, None))),
        (bucket, "", Some((bucket, None))),
        (
            "s3://backups/prod/uid/20261123T120000.000Z.json",
            "",
            Some((bucket, name)),
        ),
        ("latest", "", None),
        ("s3://backups/prod/uid/notes.json", "", None),
        ("yesterday", bucket, None),
    ] {
        let found = source(from, to).ok();
        let expected = expected.map(|(place, name)| (Place::parse(place).unwrap(), name));
        assert_eq!(found, expected, "{from}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_machine_gets_keys_and_data_and_keeps_no_copy() {
    let (old, cluster) = backed_up().await;
    let new = successor(&old);
    let world = new.ports();
    let fetched = fetch(&world, &place(), None, &cluster).await.unwrap();
    let me = control_plane("i-9");
    put_back(&world, &settings(), &me, &fetched).await.unwrap();
    assert_eq!(
        new.files.get("/var/lib/etcd/member/snap/db").as_deref(),
        Some("restored")
    );
    assert_eq!(new.files.get(paths::CA), old.files.get(paths::CA));
    assert_eq!(new.files.mode("/etc/kubernetes/pki/ca.key"), 0o600);
    assert!(new.files.has(paths::PREFLIGHT_PASSED));
    assert!(!new.files.has(MADE));
    let left = world.host.list(Path::new(WORK)).await.unwrap();
    assert_eq!(left, Some(Vec::new()));
    let ran = new.commands.ran();
    let restore = ran.iter().find(|line| line.contains("etcdutl")).unwrap();
    let ip = me.private_ip;
    for part in [
        format!("--initial-cluster {}=https://{ip}:2380", me.node_name),
        "--bump-revision 1000000000 --mark-compacted".to_owned(),
    ] {
        assert!(restore.contains(&part), "{restore}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_survivors_own_data_are_set_aside() {
    let (old, cluster) = backed_up().await;
    let new = successor(&old);
    new.files.put("/var/lib/etcd/member/snap/db", "mine");
    new.files.put("/etc/kubernetes/manifests/etcd.yaml", "");
    let world = new.ports();
    let fetched = fetch(&world, &place(), None, &cluster).await.unwrap();
    let me = control_plane("i-9");
    put_back(&world, &settings(), &me, &fetched).await.unwrap();
    let aside = format!("/var/lib/etcd/before-{STAMP}/snap/db");
    assert_eq!(new.files.get(aside).as_deref(), Some("mine"));
    assert!(!new.files.has("/etc/kubernetes/manifests/etcd.yaml"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_restore_leaves_the_machine_as_it_was() {
    let (old, cluster) = backed_up().await;
    let new = successor(&old);
    new.files.put("/var/lib/etcd/member/snap/db", "mine");
    new.files.put("/etc/kubernetes/manifests/etcd.yaml", "");
    new.on(RESTORE, |_, _| {
        output(1, "", "Error: snapshot file is not one")
    });
    let world = new.ports();
    let fetched = fetch(&world, &place(), None, &cluster).await.unwrap();
    let me = control_plane("i-9");
    let error = put_back(&world, &settings(), &me, &fetched).await;
    assert!(error.unwrap_err().one_line().contains("is not one"));
    assert_eq!(
        new.files.get("/var/lib/etcd/member/snap/db").as_deref(),
        Some("mine")
    );
    assert!(new.files.has("/etc/kubernetes/manifests/etcd.yaml"));
    assert!(!new.files.has(paths::CA));
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_is_not_whole_or_not_this_clusters_changes_nothing() {
    let (old, cluster) = backed_up().await;
    let other = Initialized {
        cluster_uid: "other".to_owned(),
        ..cluster.clone()
    };
    let foreign_ca = Initialized {
        ca_hash: "sha256:00".to_owned(),
        ..cluster.clone()
    };
    let named = || Name::of("uid", &format!("{STAMP}.json"));
    let damage: [(&str, Harm, &Initialized, &str); 7] = [
        ("another cluster", |_| {}, &other, "the store records other"),
        ("another CA", |_| {}, &foreign_ca, "sha256:00"),
        ("cut", |new| cut(new, "db"), &cluster, "cut off or damaged"),
        (
            "keys cut",
            |new| cut(new, "pki.tar"),
            &cluster,
            "cut off or damaged",
        ),
        (
            "no manifest",
            |new| cut(new, "json"),
            &cluster,
            "describe a backup",
        ),
        ("no data", |new| gone(new, "db"), &cluster, "cannot read"),
        (
            "no keys",
            |new| gone(new, "pki.tar"),
            &cluster,
            "cannot read",
        ),
    ];
    for (case, harm, cluster, said) in damage {
        let new = successor(&old);
        harm(&new);
        let outcome = fetch(&new.ports(), &place(), named(), cluster).await;
        let error = outcome.unwrap_err();
        assert!(error.one_line().contains(said), "{case}: {error}");
        assert!(!new.files.has(paths::CA), "{case}");
        assert!(!new.files.has(paths::ETCD), "{case}");
    }
    let empty = old.another_host();
    let error = fetch(&empty.ports(), &place(), None, &cluster).await;
    assert!(error.unwrap_err().one_line().contains("no whole backup"));
}

/// What happens to a backup.
type Harm = fn(&FakeWorld);

fn cut(new: &FakeWorld, ending: &str) {
    let path = format!("/backups/uid/{STAMP}.{ending}");
    let content = std::fs::read(new.files.root().join(&path[1..])).unwrap();
    new.files.put(path, &content[..content.len() / 2]);
}

fn gone(new: &FakeWorld, ending: &str) {
    new.files.delete(format!("/backups/uid/{STAMP}.{ending}"));
}

#[tokio::test(start_paused = true)]
async fn keys_of_another_cluster_are_never_overwritten() {
    let (old, cluster) = backed_up().await;
    let new = successor(&old).with_pki(&Pki::new());
    let before = new.files.get(paths::CA);
    let world = new.ports();
    let fetched = fetch(&world, &place(), None, &cluster).await.unwrap();
    let me = control_plane("i-9");
    let error = put_back(&world, &settings(), &me, &fetched).await;
    let error = error.unwrap_err();
    assert!(error.remedy().unwrap().contains("new one"), "{error}");
    assert_eq!(new.files.get(paths::CA), before);
    assert!(!new.files.has(paths::ETCD));
}
