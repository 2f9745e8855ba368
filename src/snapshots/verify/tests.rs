#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    error::Kind,
    snapshots::{Subject, WORK, fetch::newest_of, take},
    testing::{FakeWorld, Pki, control_plane, output, settings},
};

fn place() -> Place {
    Place::Folder("/backups".into())
}

/// A control plane with a backup, and an etcdutl whose restored data have this many keys.
async fn backed_up(keys: u64) -> FakeWorld {
    let fake = FakeWorld::new().with_pki(&Pki::new());
    fake.etcd.voter("a", 10);
    let subject = Subject {
        cluster: "demo",
        cluster_uid: "uid",
        instance: "i-1",
        kubernetes: "1.36.3",
    };
    take(&fake.ports(), &place(), 3, subject).await.unwrap();
    fake.files.put("/var/lib/etcd/member/snap/db", "in use");
    let image = "registry.k8s.io/etcd:3.6.8-0";
    fake.commands.state().images.insert(image.to_owned());
    for nothing in ["tasks rm", "containers rm"] {
        fake.on(
            &format!("/usr/local/bin/ctr --namespace k8s.io {nothing}"),
            |_, _| output(1, "", "not found"),
        );
    }
    fake.on("mkdir", |_, _| output(0, "", ""));
    fake.on("rm -rf", |command, files| {
        let _ = std::fs::remove_dir_all(files.root().join(&command.args[1][1..]));
        output(0, "", "")
    });
    fake.on("/usr/local/bin/ctr --namespace k8s.io run", move |command, files| {
        let args: Vec<&str> = command.args.iter().map(String::as_str).collect();
        let (revision, keys) = match args[..] {
            [.., "status", database, "--write-out", "json"] if files.has(database) => {
                if database.starts_with(SCRATCH) {
                    (1_000_000_700, keys)
                } else {
                    (700, 9)
                }
            }
            _ => {
                files.put(format!("{SCRATCH}/data/member/snap/db"), "restored");
                return output(0, "", "");
            }
        };
        let said = serde_json::json!({
            "hash": 1, "revision": revision, "totalKey": keys, "totalSize": 4096, "version": "3.6.0",
        });
        output(0, &said.to_string(), "")
    });
    fake
}

async fn verified(fake: &FakeWorld) -> Result<Verified> {
    let world = fake.ports();
    let name = newest_of(&world, &place(), "uid").await.unwrap();
    verify(&world, &settings(), &control_plane("i-1"), &place(), name).await
}

/// Nothing is left behind, and etcd's own data are unchanged.
async fn left_alone(fake: &FakeWorld) {
    assert_eq!(
        fake.files.get("/var/lib/etcd/member/snap/db").as_deref(),
        Some("in use")
    );
    assert!(!fake.files.has(SCRATCH));
    let left = fake.ports().host.list(Path::new(WORK)).await.unwrap();
    assert_eq!(left, Some(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_backup_is_verified_by_a_trial_restore_in_a_separate_folder() {
    let fake = backed_up(8).await;
    let found = verified(&fake).await.unwrap();
    assert_eq!((found.revision, found.keys), (700, 8));
    assert!(
        found.backup.starts_with("file:///backups/uid/"),
        "{found:?}"
    );
    left_alone(&fake).await;
    let ran = fake.commands.ran();
    let restore = ran
        .iter()
        .find(|line| line.contains("snapshot restore"))
        .unwrap();
    let scratch = format!("--mount type=bind,src={SCRATCH},dst={SCRATCH},options=rbind:rw");
    assert!(restore.contains(&scratch), "{restore}");
    assert!(!restore.contains("src=/var/lib/etcd"), "{restore}");
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_cannot_be_restored_is_reported_and_leaves_nothing() {
    let fake = backed_up(8).await;
    fake.on("/usr/local/bin/ctr --namespace k8s.io run", |_, _| {
        output(1, "", "Error: database is damaged")
    });
    let error = verified(&fake).await.unwrap_err();
    assert!(error.one_line().contains("database is damaged"), "{error}");
    left_alone(&fake).await;
    let empty = backed_up(0).await;
    let error = verified(&empty).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.one_line().contains("after a trial restore 0 at"),
        "{error}"
    );
    left_alone(&empty).await;
}
