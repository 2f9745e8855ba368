#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::{
    error::Kind,
    testing::{self, FakeWorld, Pki},
};

fn removed(verdict: &Verdict) -> Vec<&str> {
    verdict.remove.keys().map(String::as_str).collect()
}

#[test]
fn a_complete_folder_needs_nothing() {
    assert!(judge(&testing::Pki::new().files).is_whole());
}

#[test]
fn in_an_empty_folder_there_is_nothing_to_remove() {
    let verdict = judge(&BTreeMap::new());
    assert!(verdict.remove.is_empty());
    assert_eq!(verdict.missing.len(), 22);
    assert_eq!(verdict.reason(), "ca.crt and 21 more are missing");
}

#[test]
fn a_key_without_its_certificate_is_removed() {
    let mut files = testing::Pki::new().files;
    files.remove("apiserver.crt");
    let verdict = judge(&files);
    assert_eq!(removed(&verdict), ["apiserver.key"]);
    assert!(!verdict.foundations);
}

#[test]
fn a_truncated_certificate_is_removed_with_its_key() {
    let mut files = testing::Pki::new().files;
    files.get_mut("etcd/peer.crt").unwrap().truncate(100);
    assert_eq!(removed(&judge(&files)), ["etcd/peer.crt", "etcd/peer.key"]);

    let mut files = testing::Pki::new().files;
    files.insert("etcd/peer.key".into(), Vec::new());
    assert_eq!(removed(&judge(&files)), ["etcd/peer.crt", "etcd/peer.key"]);
}

#[test]
fn a_new_ca_invalidates_only_its_own_leaves() {
    let mut files = testing::Pki::new().files;
    for name in ["front-proxy-ca.crt", "front-proxy-ca.key"] {
        files.insert(name.into(), testing::Pki::new().files[name].clone());
    }
    let verdict = judge(&files);
    assert_eq!(
        removed(&verdict),
        ["front-proxy-client.crt", "front-proxy-client.key"]
    );
    assert!(
        verdict
            .reason()
            .contains("is not signed by front-proxy-ca.crt")
    );
}

#[test]
fn a_half_written_ca_is_removed_with_its_leaves() {
    let mut files = testing::Pki::new().files;
    files.remove("front-proxy-ca.crt");
    let verdict = judge(&files);
    assert_eq!(
        removed(&verdict),
        [
            "front-proxy-ca.key",
            "front-proxy-client.crt",
            "front-proxy-client.key"
        ]
    );
    assert!(verdict.foundations);
}

#[test]
fn service_account_keys_are_replaced_only_if_damaged() {
    let mut files = testing::Pki::new().files;
    files.remove("sa.pub");
    let verdict = judge(&files);
    assert!(verdict.remove.is_empty());
    assert_eq!(verdict.missing, ["sa.pub"]);

    files.get_mut("sa.key").unwrap().truncate(40);
    let verdict = judge(&files);
    assert_eq!(removed(&verdict), ["sa.key"]);
    assert!(verdict.foundations);
}

fn on_a_host(files: BTreeMap<String, Vec<u8>>) -> FakeWorld {
    FakeWorld::new().with_pki(&Pki {
        files,
        elsewhere: BTreeMap::new(),
    })
}

#[tokio::test(start_paused = true)]
async fn the_ca_of_a_cluster_with_data_is_never_removed() {
    let mut files = testing::Pki::new().files;
    files.get_mut("ca.crt").unwrap().truncate(100);
    let fake = on_a_host(files);
    fake.files.put(paths::ETCD_MEMBER, "");
    let error = cure(fake.host.as_ref()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(fake.files.has("/etc/kubernetes/pki/ca.key"));

    fake.files.delete(paths::ETCD_MEMBER);
    cure(fake.host.as_ref()).await.unwrap();
    assert!(!fake.files.has("/etc/kubernetes/pki/ca.key"));
    assert!(!fake.files.has("/etc/kubernetes/pki/apiserver.crt"));
    assert!(fake.files.has("/etc/kubernetes/pki/etcd/ca.crt"));
}

#[tokio::test(start_paused = true)]
async fn a_ca_without_its_key_is_left_to_a_person() {
    let mut files = testing::Pki::new().files;
    files.remove("ca.key");
    let fake = on_a_host(files);
    let error = cure(fake.host.as_ref()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.one_line().contains("without its key"), "{error}");
    assert!(fake.files.has("/etc/kubernetes/pki/ca.crt"));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_with_data_gets_no_new_ca_or_service_account_keys() {
    for lost in [
        &["ca.crt", "ca.key"][..],
        &["etcd/ca.crt", "etcd/ca.key"],
        &["sa.key", "sa.pub"],
        &["sa.key"],
    ] {
        let mut files = testing::Pki::new().files;
        files.retain(|name, _| !lost.contains(&name.as_str()));
        let kept: Vec<String> = files.keys().cloned().collect();
        let fake = on_a_host(files);
        fake.files.put(paths::ETCD_MEMBER, "");
        let error = cure(fake.host.as_ref()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{lost:?}");
        for name in kept {
            assert!(fake.files.has(format!("{}/{name}", paths::PKI)), "{name}");
        }

        fake.files.delete(paths::ETCD_MEMBER);
        cure(fake.host.as_ref()).await.unwrap();
    }
}
