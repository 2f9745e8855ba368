//! The state of members: leadership, status, alarms, the size of the database.

use super::*;
use crate::ports::{Alarm, Database};

#[tokio::test]
async fn the_leader_itself_transfers_the_leadership() {
    let stand = Stand::of(2).await;
    stand.on(0, "cluster/member/list", 200, MEMBERS);
    stand.on(
        0,
        "maintenance/status",
        200,
        status("13148557906461751675", 9, 9),
    );
    stand.on(1, "maintenance/transfer-leadership", 200, "{}");
    stand.etcd.transfer_leadership(7).await.unwrap();
    assert_eq!(
        stand.asked(1),
        [r#"maintenance/transfer-leadership {"targetID":"7"}"#]
    );
    stand.on(0, "maintenance/status", 200, status("7", 9, 9));
    stand.etcd.transfer_leadership(7).await.unwrap();
    assert!(stand.asked(1).is_empty(), "it is the leader already");
}

#[tokio::test]
async fn there_may_be_no_leader() {
    let stand = Stand::of(1).await;
    let lost = r#"{"header":{"member_id":"7"},"errors":["etcdserver: no leader"]}"#;
    stand.on(0, "maintenance/status", 200, lost);
    assert_eq!(stand.etcd.leader().await.unwrap(), None);
    let status = stand.etcd.status(&member(7, 1)).await.unwrap();
    assert_eq!((status.leader, status.in_step), (None, false));
    let error = stand.etcd.transfer_leadership(7).await.unwrap_err();
    assert!(!error.one_line().is_empty());
}

#[tokio::test]
async fn a_member_is_in_step_if_it_follows_the_same_leader_and_keeps_up() {
    let stand = Stand::of(2).await;
    stand.on(0, "maintenance/status", 200, status("7", 9_000, 9_000));
    let alarm = r#"{"leader":"7","raftIndex":"9000","raftAppliedIndex":"9000","errors":["memberID:8 alarm:NOSPACE "]}"#;
    for (case, theirs, in_step) in [
        ("in step", status("7", 9_000, 8_990), true),
        ("far behind", status("7", 9_000, 17), false),
        ("another leader", status("8", 9_000, 9_000), false),
        ("with an alarm", alarm.to_owned(), true),
    ] {
        stand.on(1, "maintenance/status", 200, theirs);
        let status = stand.etcd.status(&member(8, 2)).await.unwrap();
        assert_eq!(status.in_step, in_step, "{case}");
    }
    let silent = stand.etcd.status(&member(9, 3)).await.unwrap_err();
    assert!(silent.one_line().contains("127.0.0.3"), "{silent}");
}

#[tokio::test]
async fn a_member_reports_its_alarms_and_the_size_of_its_database() {
    let stand = Stand::of(1).await;
    // etcd uses both spellings of protobuf's text, depending on its version.
    let said = r#"{"header":{"cluster_id":"17","member_id":"7","revision":"700"},"leader":"7",
        "dbSize":"67108864","dbSizeInUse":"1048576","dbSizeQuota":"8589934592",
        "errors":["memberID:7 alarm:NOSPACE ","memberID:9  alarm:CORRUPT","etcdserver: no leader"]}"#;
    stand.on(0, "maintenance/status", 200, said);
    let status = stand.etcd.status(&member(7, 1)).await.unwrap();
    assert_eq!((status.cluster, status.revision), (17, 700));
    let raised: Vec<_> = status.alarms.iter().map(|a| (a.member, a.alarm)).collect();
    assert_eq!(raised, [(7, Alarm::NoSpace), (9, Alarm::Corrupt)]);
    let database = Database {
        bytes: 64 << 20,
        in_use: 1 << 20,
        quota: 8 << 30,
    };
    assert_eq!(status.database, database);
}

#[tokio::test]
async fn space_is_freed_by_compaction_and_defragmentation() {
    let stand = Stand::of(2).await;
    stand.on(0, "kv/compaction", 200, r#"{"header":{}}"#);
    stand.etcd.compact(700).await.unwrap();
    let again = r#"{"code":11,"message":"etcdserver: mvcc: required revision has been compacted"}"#;
    stand.on(0, "kv/compaction", 400, again);
    stand.etcd.compact(700).await.unwrap();
    stand.on(1, "maintenance/defragment", 200, "{}");
    stand.etcd.defragment(&member(8, 2)).await.unwrap();
    stand.on(0, "maintenance/alarm", 200, r#"{"header":{}}"#);
    let alarm = RaisedAlarm {
        member: 8,
        alarm: Alarm::NoSpace,
    };
    stand.etcd.disarm(alarm).await.unwrap();
    assert_eq!(stand.asked(1), ["maintenance/defragment {}"]);
    let compaction = r#"kv/compaction {"physical":true,"revision":"700"}"#;
    assert_eq!(
        stand.asked(0),
        [
            compaction,
            compaction,
            r#"maintenance/alarm {"action":"DEACTIVATE","alarm":"NOSPACE","memberID":"8"}"#
        ]
    );
}
