#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    journal::Journal,
    kubernetes::ca::ca_cert_hash,
    observe::{
        Claim, Evidence, Membership, Origin, Record,
        record::{self, Recorded},
    },
    ports::{Instance, Output},
    snapshots::{
        Name, Subject, WORK,
        fetch::{fetch, newest_of, source},
        take,
    },
    testing::{FakeWorld, Pki, control_plane, output, running, settings},
};

fn place() -> Place {
    Place::Folder("/backups".into())
}

/// A world with a backup of its cluster, and the cluster in the store's record.
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

/// A new machine that reaches the same backups, with programs that act like the real ones.
fn successor(of: &FakeWorld) -> FakeWorld {
    successor_that_is_killed_after(usize::MAX, of).0
}

/// The same, but killed after this number of programs have done their work; the count may be raised
/// later.
fn successor_that_is_killed_after(acts: usize, of: &FakeWorld) -> (FakeWorld, Arc<Mutex<usize>>) {
    let left = Arc::new(Mutex::new(acts));
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
    let killed = {
        let left = left.clone();
        move || {
            let mut left = left.lock().unwrap();
            let killed = *left == 0;
            *left = left.saturating_sub(1);
            killed
        }
    };
    let on = |start: &str, effect: fn(&[String], &std::path::Path) -> Output| {
        let killed = killed.clone();
        new.on(start, move |command, files| {
            if killed() {
                return output(137, "", "killed");
            }
            effect(&command.args, files.root())
        });
    };
    on("mkdir", |_, _| output(0, "", ""));
    on(RESTORE, |_, root| {
        let member = root.join(&MADE[1..]).join("member/snap");
        std::fs::create_dir_all(&member).unwrap();
        std::fs::write(member.join("db"), "restored").unwrap();
        output(0, "", "")
    });
    on("mv", |args, root| {
        let at = |path: &str| root.join(&path[1..]);
        std::fs::rename(at(&args[0]), at(&args[1])).unwrap();
        output(0, "", "")
    });
    on("rm -rf", |args, root| {
        let _ = std::fs::remove_dir_all(root.join(&args[1][1..]));
        output(0, "", "")
    });
    (new, left)
}

/// Fetches the backup and restores the cluster, as the command does.
async fn restore(new: &FakeWorld, cluster: &Initialized) -> Result<()> {
    let world = new.ports();
    let name = newest_of(&world, &place(), &cluster.cluster_uid).await?;
    let fetched = fetch(&world, &place(), name, Some(cluster), Purpose::Restore).await?;
    let me = control_plane("i-9");
    let journal = Journal::open(new.host.as_ref(), &me.instance_id).await?;
    let runner = Runner::new(world.clone(), journal);
    restore_here(&world, &settings(), &me, &runner, &place(), &fetched).await
}

async fn journal(new: &FakeWorld) -> Journal {
    Journal::open(new.host.as_ref(), "i-9").await.unwrap()
}

/// The first founder's machine, where etcd has already run.
async fn with_its_own_data(new: &FakeWorld) {
    new.files.put("/var/lib/etcd/member/snap/db", "mine");
    new.files.put("/etc/kubernetes/manifests/etcd.yaml", "");
    let mut journal = Journal::new("i-9");
    journal.etcd_cluster = Some("c1".to_owned());
    journal.membership = Some(Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Founded,
    });
    journal.save(new.host.as_ref()).await.unwrap();
}

const CTR: &str = "/usr/local/bin/ctr";
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
    let member = |uid: &str| Observation {
        membership: Some(Membership {
            cluster_uid: uid.to_owned(),
            origin: Origin::Joined,
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
        (
            "another is shutting down",
            with(ShuttingDown),
            false,
            false,
            "i-1",
        ),
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
    ] {
        match may_restore(&me, &seen, &cluster, leading, force) {
            Ok(()) => assert_eq!(refusal, "", "{case}"),
            Err(error) => {
                assert!(!refusal.is_empty(), "{case}: {error}");
                assert!(error.one_line().contains(refusal), "{case}: {error}");
                assert!(error.remedy().is_some(), "{case}");
            }
        }
    }
}

#[test]
fn a_backup_is_named_by_its_destination_or_its_manifest() {
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
async fn a_lost_record_is_rebuilt_only_if_no_other_control_plane_may_have_it() {
    use InstanceState::{Running, Stopped, Terminated};
    let (_, cluster) = backed_up().await;
    let me = control_plane("i-9");
    let manifest = |name: &str, uid: &str| {
        let mut recorded = Recorded::first(uid, &cluster.ca_hash, "i-1", cluster.time);
        recorded.number = 3;
        let manifest = serde_json::json!({
            "version": 1, "cluster": name, "cluster_uid": uid, "ca_hash": cluster.ca_hash,
            "time": cluster.time, "instance": "i-1", "kubernetes": "1.36.3",
            "snapshot": {"bytes": 1, "sha256": "00"}, "pki_sha256": "00", "record": recorded,
        });
        Manifest::read("x", manifest.to_string().as_bytes()).unwrap()
    };
    let lost = |others: &[(&str, InstanceState)]| Observation {
        record: Record::default(),
        ..seen(&cluster, others)
    };
    let alone = [("i-9", Running), ("i-1", Terminated)];
    let error = recorded(&lost(&alone)).unwrap_err();
    assert!(
        error.remedy().unwrap().contains("--rebuild-record"),
        "{error}"
    );
    let ours = manifest(&me.cluster, "uid");
    for (case, seen, manifest, refusal) in [
        ("lost", lost(&alone), &ours, ""),
        // The same command again, after only its claim was written.
        ("half written", seen(&cluster, &alone), &ours, ""),
        ("another runs", lost(&[("i-1", Running)]), &ours, "i-1"),
        (
            "another is stopped",
            lost(&[("i-1", Stopped)]),
            &ours,
            "i-1",
        ),
        (
            "another cluster's name",
            lost(&alone),
            &manifest("prod", "uid"),
            "of the cluster prod",
        ),
        (
            "another cluster's record",
            seen(&cluster, &alone),
            &manifest(&me.cluster, "other"),
            "records another cluster",
        ),
    ] {
        match may_rebuild(&me, &seen, manifest) {
            Ok(()) => assert_eq!(refusal, "", "{case}"),
            Err(error) => {
                assert!(!refusal.is_empty(), "{case}: {error}");
                assert!(error.one_line().contains(refusal), "{case}: {error}");
                assert!(error.remedy().is_some(), "{case}");
            }
        }
    }
    let fake = FakeWorld::new();
    for _ in 0..2 {
        record::rebuild(fake.store.as_ref(), &ours.recorded())
            .await
            .unwrap();
    }
    let rebuilt = record::read(fake.store.as_ref()).await.unwrap();
    assert_eq!(rebuilt.claims[0].number, 3);
    assert_eq!(rebuilt.cluster(), Some(&ours.recorded().initialized));
}

#[tokio::test(start_paused = true)]
async fn a_new_machine_gets_keys_and_data_and_keeps_no_copy() {
    let (old, cluster) = backed_up().await;
    let new = successor(&old);
    restore(&new, &cluster).await.unwrap();
    assert_eq!(
        new.files.get("/var/lib/etcd/member/snap/db").as_deref(),
        Some("restored")
    );
    assert_eq!(new.files.get(paths::CA), old.files.get(paths::CA));
    assert_eq!(new.files.mode("/etc/kubernetes/pki/ca.key"), 0o600);
    assert!(new.files.has(paths::PREFLIGHT_PASSED));
    assert!(!new.files.has(MADE));
    let left = new.ports().host.list(Path::new(WORK)).await.unwrap();
    assert_eq!(left, Some(Vec::new()));
    let journal = journal(&new).await;
    assert_eq!(journal.membership.unwrap().origin, Origin::Founded);
    let ran = new.commands.ran();
    let restore = ran.iter().find(|line| line.contains("etcdutl")).unwrap();
    let me = control_plane("i-9");
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
    with_its_own_data(&new).await;
    restore(&new, &cluster).await.unwrap();
    let aside = format!("/var/lib/etcd/before-{STAMP}/snap/db");
    assert_eq!(new.files.get(aside).as_deref(), Some("mine"));
    assert!(!new.files.has("/etc/kubernetes/manifests/etcd.yaml"));
    let journal = journal(&new).await;
    assert_eq!((journal.etcd_cluster, journal.restoring), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_failed_restore_leaves_the_machine_as_it_was() {
    let (old, cluster) = backed_up().await;
    let new = successor(&old);
    with_its_own_data(&new).await;
    let before = journal(&new).await;
    new.on(RESTORE, |_, _| {
        output(1, "", "Error: snapshot file is not one")
    });
    let error = restore(&new, &cluster).await;
    assert!(error.unwrap_err().one_line().contains("is not one"));
    assert_eq!(
        new.files.get("/var/lib/etcd/member/snap/db").as_deref(),
        Some("mine")
    );
    assert!(new.files.has("/etc/kubernetes/manifests/etcd.yaml"));
    assert!(!new.files.has(paths::CA));
    assert_eq!(journal(&new).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_restore_killed_at_any_point_continues_and_nothing_starts_in_between() {
    let (old, cluster) = backed_up().await;
    let mut acts = 0;
    loop {
        let (new, left) = successor_that_is_killed_after(acts, &old);
        with_its_own_data(&new).await;
        let killed = restore(&new, &cluster).await.is_err();
        // Either nothing has changed yet, or the agent refuses to start.
        let untouched = new.files.has("/etc/kubernetes/manifests/etcd.yaml")
            && new.files.get("/var/lib/etcd/member/snap/db").as_deref() == Some("mine");
        let refused = journal(&new).await.refuse_while_restoring().is_err();
        assert!(!killed || untouched || refused, "after {acts} acts");
        new.ports().clock.sleep(Duration::from_secs(1)).await;
        *left.lock().unwrap() = usize::MAX;
        if killed {
            restore(&new, &cluster).await.unwrap();
        }
        assert_eq!(
            new.files.get("/var/lib/etcd/member/snap/db").as_deref(),
            Some("restored"),
            "after {acts} acts"
        );
        assert_eq!(new.files.get(paths::CA), old.files.get(paths::CA));
        assert!(!new.files.has(MADE));
        let journal = journal(&new).await;
        journal.refuse_while_restoring().unwrap();
        assert_eq!(journal.etcd_cluster, None);
        if !killed {
            break;
        }
        acts += 1;
    }
    assert_eq!(acts, 6, "programs that a restore runs");
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_backup_or_one_of_another_cluster_changes_nothing() {
    let (old, cluster) = backed_up().await;
    let other = Initialized {
        cluster_uid: "other".to_owned(),
        ..cluster.clone()
    };
    let foreign_ca = Initialized {
        ca_hash: "sha256:00".to_owned(),
        ..cluster.clone()
    };
    let named = || Name::of("uid", &format!("{STAMP}.json")).unwrap();
    let damage: [(&str, Harm, &Initialized, &str); 7] = [
        ("another cluster", |_| {}, &other, "the store records other"),
        ("another CA", |_| {}, &foreign_ca, "sha256:00"),
        (
            "truncated",
            |new| cut(new, "db"),
            &cluster,
            "truncated or damaged",
        ),
        (
            "keys truncated",
            |new| cut(new, "pki.tar"),
            &cluster,
            "truncated or damaged",
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
        let world = new.ports();
        let fetched = fetch(&world, &place(), named(), Some(cluster), Purpose::Restore).await;
        let error = fetched.unwrap_err();
        assert!(error.one_line().contains(said), "{case}: {error}");
        assert!(!new.files.has(paths::CA), "{case}");
        assert!(!new.files.has(paths::ETCD), "{case}");
    }
    let empty = old.another_host();
    let error = newest_of(&empty.ports(), &place(), "uid").await;
    assert!(error.unwrap_err().one_line().contains("no complete backup"));
}

/// What is done to a backup.
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
    let error = restore(&new, &cluster).await.unwrap_err();
    assert!(error.remedy().unwrap().contains("new one"), "{error}");
    assert_eq!(new.files.get(paths::CA), before);
    assert!(!new.files.has(paths::ETCD));
}
