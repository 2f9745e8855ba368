#![allow(clippy::unwrap_used)]

use super::*;
use crate::observe::Origin;
use crate::{error::Kind, testing::FakeWorld};

async fn open(fake: &FakeWorld, instance_id: &str) -> Result<Journal> {
    Journal::open(fake.host.as_ref(), instance_id).await
}

/// The journal of a member with a phase that was interrupted.
async fn written(fake: &FakeWorld) -> Journal {
    let mut journal = Journal::new("i-1");
    journal.membership = Some(Membership {
        cluster_uid: "uid".to_owned(),
        origin: Origin::Joined,
    });
    let entry = Entry {
        inputs: "00".to_owned(),
        begun: "2026-11-23T12:00:00Z".parse().unwrap(),
        held: None,
    };
    journal.phases.insert("kernel".to_owned(), entry);
    journal.save(fake.host.as_ref()).await.unwrap();
    journal
}

#[tokio::test]
async fn a_new_instance_has_an_empty_journal_and_opening_writes_nothing() {
    let fake = FakeWorld::new();
    assert_eq!(open(&fake, "i-1").await.unwrap(), Journal::new("i-1"));
    assert!(!fake.files.has(FILE));
}

#[tokio::test]
async fn a_saved_journal_is_read_back_and_only_root_can_read_it() {
    let fake = FakeWorld::new();
    let journal = written(&fake).await;
    assert_eq!(open(&fake, "i-1").await.unwrap(), journal);
    assert_eq!(fake.files.mode(FILE), 0o600);
}

#[tokio::test]
async fn a_journal_of_an_older_agent_is_read() {
    let fake = FakeWorld::new();
    let journal = written(&fake).await;
    let whole = fake.files.get(FILE).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&whole).unwrap();
    for newer in ["etcd_cluster", "restoring"] {
        assert!(old.as_object_mut().unwrap().remove(newer).is_some());
    }
    fake.files.put(FILE, old.to_string());
    assert_eq!(open(&fake, "i-1").await.unwrap(), journal);
}

#[tokio::test]
async fn an_incomplete_restore_is_refused_with_the_command_that_resumes_it() {
    let fake = FakeWorld::new();
    let mut journal = written(&fake).await;
    journal.refuse_while_restoring().unwrap();
    journal.restoring = Some(Restoring {
        backup: "s3://b/uid/20261123T120000.000Z.json".to_owned(),
        begun: "2026-11-23T12:00:00Z".parse().unwrap(),
    });
    journal.save(fake.host.as_ref()).await.unwrap();
    let error = open(&fake, "i-1").await.unwrap().refuse_while_restoring();
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error
            .remedy()
            .unwrap()
            .ends_with("etcd restore --from s3://b/uid/20261123T120000.000Z.json")
    );
}

#[tokio::test]
async fn a_truncated_journal_is_refused_and_never_treated_as_empty() {
    let fake = FakeWorld::new();
    written(&fake).await;
    let whole = fake.files.get(FILE).unwrap();
    for end in 0..whole.trim_end().len() {
        fake.files.put(FILE, &whole[..end]);
        let error = open(&fake, "i-1").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "cut at {end}");
        assert!(
            error
                .one_line()
                .starts_with(&format!("cannot read the journal {FILE}: ")),
            "cut at {end}: {error}"
        );
        assert!(error.remedy().is_some(), "cut at {end}");
    }
}

#[tokio::test]
async fn a_journal_of_another_version_is_refused_with_both_versions() {
    let fake = FakeWorld::new();
    written(&fake).await;
    let newer = fake
        .files
        .get(FILE)
        .unwrap()
        .replace("\"version\": 1", "\"version\": 2");
    fake.files.put(FILE, &newer);
    let error = open(&fake, "i-1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(
        error.one_line(),
        format!("the journal {FILE} has version 2, but this agent reads version 1")
    );
    // The file stays as it is for the version that wrote it.
    assert_eq!(fake.files.get(FILE).unwrap(), newer);
}

#[tokio::test]
async fn a_journal_of_another_instance_is_refused_with_both_instances() {
    let fake = FakeWorld::new();
    written(&fake).await;
    let error = open(&fake, "i-2").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error
            .one_line()
            .contains("was written by i-1, but this instance is i-2"),
        "{error}"
    );
    assert!(
        error.remedy().unwrap().contains("the agent never ran"),
        "{error}"
    );
}
