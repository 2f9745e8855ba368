//! Streaming a snapshot from a member to a file.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;
use crate::testing::sealed;

/// A snapshot as the gateway streams it, in parts of 1000 bytes.
fn stream(snapshot: &[u8]) -> String {
    let mut remaining = snapshot.len();
    let mut lines = String::new();
    for part in snapshot.chunks(1000) {
        remaining -= part.len();
        let mut result = json!({"blob": BASE64_STANDARD.encode(part), "version": "3.6.0"});
        if remaining > 0 {
            result["remaining_bytes"] = remaining.to_string().into();
        }
        lines += &format!("{}\n", json!({"result": result}));
    }
    lines
}

#[tokio::test]
async fn a_snapshot_is_complete_and_readable_only_by_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let stand = Stand::of(1).await;
    let content = sealed(&[3; 4096]);
    stand.snapshot_is(&stream(&content));
    let (taken, left) = stand.take().await;
    assert_eq!(taken.unwrap().bytes, 4128);
    assert_eq!(left, ["one"]);
    let file = stand.folder.path().join("snapshots/one");
    assert_eq!(std::fs::read(&file).unwrap(), content);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_broken_snapshot_leaves_no_file() {
    let stand = Stand::of(1).await;
    let content = sealed(&[3; 4096]);
    let whole = stream(&content);
    let two_lines = whole.find("}}\n").unwrap() + 3;
    let trouble = r#"{"error":{"code":14,"message":"etcdserver: server stopped"}}"#;
    let mut changed = content.clone();
    changed[17] ^= 1;
    for (case, lines, said) in [
        ("cut", whole[..two_lines].to_owned(), "was interrupted"),
        ("empty", String::new(), "was interrupted"),
        (
            "an error in the stream",
            format!("{}{trouble}\n", &whole[..two_lines]),
            "server stopped",
        ),
        ("damaged", stream(&changed), "digest"),
        ("not JSON", "<html>".to_owned(), "cannot be read"),
        ("endless", "x".repeat(3 << 20), "not a snapshot stream"),
    ] {
        stand.snapshot_is(&lines);
        let (taken, left) = stand.take().await;
        let error = taken.unwrap_err();
        assert!(error.one_line().contains(said), "{case}: {error}");
        assert!(left.is_empty(), "{case}: {left:?}");
    }
    stand.on(0, "maintenance/snapshot", 503, NO_LEADER);
    let (taken, left) = stand.take().await;
    assert!(taken.unwrap_err().one_line().contains("no leader"));
    assert!(left.is_empty());
}
