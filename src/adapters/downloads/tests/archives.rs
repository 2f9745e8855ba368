//! Archives, which are unpacked while they arrive.

use std::{collections::BTreeMap, io::Write};

use super::*;
use crate::steps::host::Inventory;

fn plugins(server: &Server, sha256: String) -> Download {
    Download {
        url: format!("{}/cni-plugins.tgz", server.url),
        sha256,
        target: Target::Programs("/opt/cni/bin".into()),
    }
}

fn tar_gz(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        // Written into the raw field, since the builder rejects `..`.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        } else if content.is_empty() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name("/etc/shadow").unwrap();
        }
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[tokio::test]
async fn an_archive_is_unpacked_by_base_names_and_recorded() {
    let root = tempfile::tempdir().unwrap();
    let archive = tar_gz(&[
        ("bin/", b""),
        ("bin/bridge", b"the bridge"),
        ("../../../etc/cron.d/evil", b"no traversal"),
        ("bin/link", b""),
        ("bin/.hidden", b"not ours"),
    ]);
    let (bytes, digest) = (archive.clone(), sha(&archive));
    // An interruption in the middle: unpacking continues at the same place.
    let server = Server::start(move |number, from| match (number, from) {
        (0, _) => ok(&bytes, bytes.len() / 2),
        (_, Some(from)) => partial(&bytes, from, bytes.len()),
        _ => panic!("asked for the whole file again"),
    })
    .await;
    downloads(root.path())
        .fetch(&plugins(&server, digest.clone()))
        .await
        .unwrap();
    let inventory_path = Inventory::path(&digest);
    assert_eq!(
        files(root.path()),
        [
            "opt/cni/bin/bridge",
            "opt/cni/bin/evil",
            inventory_path.strip_prefix("/").unwrap().to_str().unwrap()
        ]
    );
    let bridge = root.path().join("opt/cni/bin/bridge");
    assert_eq!(
        fs::metadata(bridge).unwrap().permissions().mode() & 0o777,
        0o755
    );
    let inventory = fs::read(root.path().join(inventory_path.strip_prefix("/").unwrap())).unwrap();
    let inventory: Inventory = serde_json::from_slice(&inventory).unwrap();
    assert_eq!(inventory.sha256, digest);
    assert_eq!(
        inventory.files,
        BTreeMap::from([
            ("bridge".to_owned(), sha(b"the bridge")),
            ("evil".to_owned(), sha(b"no traversal")),
        ])
    );
}

#[tokio::test]
async fn an_archive_with_a_wrong_digest_never_reaches_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let archive = tar_gz(&[("bridge", b"evil")]);
    let server = Server::start(move |_, _| ok(&archive, archive.len())).await;
    let error = downloads(root.path())
        .fetch(&plugins(&server, sha(b"the good one")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Doubtful);
    assert!(error.one_line().contains("has the wrong sha256"), "{error}");
    assert!(files(root.path()).is_empty());
}

#[tokio::test]
async fn a_broken_archive_with_the_pinned_digest_is_refused_and_leaves_nothing() {
    let whole = tar_gz(&[("bridge", &body())]);
    let mut noise = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    noise.write_all(b"no tar at all").unwrap();
    let cases: [(Vec<u8>, &str); 5] = [
        (whole[..whole.len() / 2].to_vec(), ""),
        (whole[..whole.len() - 4].to_vec(), ""),
        (noise.finish().unwrap(), ""),
        (tar_gz(&[("only/", b"")]), "no regular file"),
        (
            tar_gz(&[("a/bridge", b"1"), ("b/bridge", b"2")]),
            "two files named `bridge`",
        ),
    ];
    for (number, (archive, why)) in cases.into_iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let digest = sha(&archive);
        let server = Server::start(move |_, _| ok(&archive, archive.len())).await;
        let error = downloads(root.path())
            .fetch(&plugins(&server, digest))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "case {number}: {error}");
        let text = error.one_line();
        assert!(
            text.contains("has the right sha256 but is not a gzipped tar archive")
                && text.contains(why),
            "case {number}: {error}"
        );
        assert!(files(root.path()).is_empty(), "case {number}");
    }
}

#[tokio::test]
async fn a_cancelled_download_leaves_its_part_and_no_unpacked_file() {
    let root = tempfile::tempdir().unwrap();
    let archive = tar_gz(&[("bridge", &body()), ("noise", &noise(400_000))]);
    let digest = sha(&archive);
    let bytes = archive.clone();
    let server = Server::start(move |number, from| match (number, from) {
        (0, _) => ok(&bytes, bytes.len() - 100),
        (1, _) => answer("503 Service Unavailable", "content-length: 0", b""),
        (_, Some(from)) => partial(&bytes, from, bytes.len()),
        _ => panic!("asked for the whole file again"),
    })
    .await;
    let downloads = downloads(root.path());
    let download = plugins(&server, digest);
    let called_off = async {
        while server.asked() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = downloads.fetch(&download) => panic!("{done:?}"),
        () = called_off => {}
    }
    let left = [
        "opt/cni/bin/.cni-plugins.tgz.part",
        "opt/cni/bin/.cni-plugins.tgz.part.json",
    ];
    let end = Instant::now() + Duration::from_secs(10);
    while files(root.path()) != left && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(files(root.path()), left);
    downloads.fetch(&download).await.unwrap();
    let bridge = fs::read(root.path().join("opt/cni/bin/bridge")).unwrap();
    assert_eq!(bridge, body());
}
