#![allow(clippy::unwrap_used)]

use super::*;
use crate::{error::Kind, testing::MemoryStore};

const NOON: &str = "2026-11-23T12:00:00Z";

fn time() -> Timestamp {
    NOON.parse().unwrap()
}

fn initialized(uid: &str) -> Initialized {
    Initialized {
        cluster_uid: uid.to_owned(),
        ca_hash: "sha256:00".to_owned(),
        founder: "i-1".to_owned(),
        time: time(),
    }
}

fn settled(uid: &str) -> Settled {
    Settled {
        cluster_uid: uid.to_owned(),
        instance: "i-1".to_owned(),
        time: time(),
    }
}

/// `c1` is a claim for cluster uid-1, `i1` says that it exists, `s1` that it is settled.
fn stored(words: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for word in words.split_whitespace() {
        let (kind, number) = word.split_at(1);
        let uid = format!("uid-{number}");
        let number: u32 = number.parse().unwrap();
        let (key, value) = match kind {
            "c" => (
                format!("founder/{number}"),
                form(&Entry::Claim(Claim {
                    cluster_uid: uid,
                    ..Claim::new(number, "i-1", time())
                })),
            ),
            "s" => (
                format!("founder/{}", number + 1),
                form(&Entry::Settled(settled(&uid))),
            ),
            _ => (format!("initialized/{number}"), form(&initialized(&uid))),
        };
        values.insert(key, value.unwrap());
    }
    values
}

#[test]
fn the_cluster_is_that_of_the_last_claim_once_it_is_initialized() {
    for (words, cluster, is_settled) in [
        ("", None, false),
        ("c1", None, false),
        ("c1 i1", Some("uid-1"), false),
        ("c1 i1 s1", Some("uid-1"), true),
        // A takeover abandons what was founded before.
        ("c1 i1 c2", None, false),
        ("c1 i1 c2 i2", Some("uid-2"), false),
        ("c1 c2 i2 s2", Some("uid-2"), true),
        // Written by the dying founder after the takeover.
        ("c1 c2 i2 i1", Some("uid-2"), false),
        // Once a cluster is settled, no later claim counts.
        ("c1 i1 s1 c3 i3", Some("uid-1"), true),
        ("c1 i1 s1 c3 i3 s3", Some("uid-1"), true),
        // Ten comes after nine.
        (
            "c1 c2 c3 c4 c5 c6 c7 c8 c9 c10 i10 i9",
            Some("uid-10"),
            false,
        ),
        // Incomplete lists.
        ("i1", None, false),
        ("c1 s1", None, true),
        ("c1 i2", None, false),
    ] {
        let record = Record::of(&stored(words)).unwrap();
        let found = record.cluster().map(|there| there.cluster_uid.as_str());
        assert_eq!(found, cluster, "{words}");
        assert_eq!(record.settled.is_some(), is_settled, "{words}");
    }
}

#[test]
fn an_unknown_key_is_refused_and_keys_of_others_are_ignored() {
    for key in ["founder/x", "founder", "initialized", "initialized/"] {
        let error = Record::of(&[(key.to_owned(), String::new())].into()).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{key}");
        assert!(error.one_line().contains(&format!("`{key}`")), "{error}");
    }
    let error = Record::of(&[("founder/1".to_owned(), "{}".to_owned())].into()).unwrap_err();
    assert!(error.one_line().contains("founder/1"), "{error}");
    let other = [("founders".to_owned(), "x".to_owned())].into();
    assert_eq!(Record::of(&other).unwrap(), Record::default());
}

async fn store(words: &str) -> MemoryStore {
    let store = MemoryStore::default();
    for (key, value) in stored(words) {
        store.create(&key, &value).await.unwrap();
    }
    store
}

#[tokio::test]
async fn exactly_one_of_a_takeover_and_a_settling_happens() {
    let taken = store("c1 i1").await;
    let second = Claim::new(2, "i-2", time());
    assert_eq!(claim(&taken, &second).await.unwrap(), Created::Yes);
    let error = settle(&taken, &settled("uid-1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(
        error.one_line(),
        "cluster uid-1 was abandoned: i-2 has since claimed to found another"
    );
    assert_eq!(read(&taken).await.unwrap().settled, None);

    let stays = store("c1 i1").await;
    settle(&stays, &settled("uid-1")).await.unwrap();
    // Another instance settles it again.
    settle(&stays, &settled("uid-1")).await.unwrap();
    assert_eq!(claim(&stays, &second).await.unwrap(), Created::AlreadyThere);
    assert_eq!(read(&stays).await.unwrap().claims.len(), 1);
}

#[tokio::test]
async fn a_cluster_is_recorded_under_the_number_of_its_claim() {
    let taken = store("c1 c2").await;
    initialize(&taken, &initialized("uid-2")).await.unwrap();
    initialize(&taken, &initialized("uid-2")).await.unwrap();
    let record = read(&taken).await.unwrap();
    assert_eq!(record.initialized.keys().collect::<Vec<_>>(), [&2]);
    let error = initialize(&taken, &initialized("uid-1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.one_line().contains("was abandoned"), "{error}");
    // A list that lags behind the claim: it passes by itself.
    for error in [
        initialize(&taken, &initialized("uid-3")).await.unwrap_err(),
        settle(&taken, &settled("uid-3")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Failed);
        assert_eq!(
            error.one_line(),
            "the store lists no claim for cluster uid-3"
        );
    }
}

#[tokio::test]
async fn lost_keys_of_a_settled_cluster_are_written_again() {
    let whole = stored("c2 i2 s2");
    let kept = Record::of(&whole).unwrap().settled_record("uid-2").unwrap();
    let keys: Vec<&String> = whole.keys().collect();
    for lost in 0..8 {
        let store = MemoryStore::default();
        let there = keys
            .iter()
            .enumerate()
            .filter(|(n, _)| lost & (1 << n) == 0);
        for (_, key) in there {
            store.create(key, &whole[*key]).await.unwrap();
        }
        let seen = read(&store).await.unwrap();
        let written = write_again(&store, &seen, &kept).await.unwrap();
        assert_eq!(
            written,
            usize::try_from(i32::count_ones(lost)).unwrap(),
            "{lost}"
        );
        assert_eq!(store.list("").await.unwrap(), whole, "{lost}");
        // From a list that lags behind what was just written.
        assert_eq!(write_again(&store, &seen, &kept).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_lost_key_that_another_cluster_has_taken_is_named() {
    let record = Record::of(&stored("c1 i1 s1")).unwrap();
    let kept = record.settled_record("uid-1").unwrap();
    let taken = store("c1 i1 c2").await;
    let seen = read(&taken).await.unwrap();
    let error = write_again(&taken, &seen, &kept).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(
        error
            .one_line()
            .starts_with("the store's `founder/2` does not belong to cluster uid-1"),
        "{error}"
    );
    assert_eq!(taken.list("").await.unwrap().len(), 3);
}

#[test]
fn only_the_complete_record_of_the_settled_cluster_is_kept() {
    for (words, kept) in [
        ("c1 i1 s1", true),
        ("c1 i1", false),
        ("c1 s1", false),
        ("i1 s1", false),
        ("c1 c2 i2 s2", false),
    ] {
        let record = Record::of(&stored(words)).unwrap();
        assert_eq!(record.settled_record("uid-1").is_some(), kept, "{words}");
    }
}
