//! Listing, removing and promoting members.

use super::*;
use crate::error::Kind;

#[tokio::test]
async fn members_are_read_with_their_ids_names_and_addresses() {
    let stand = Stand::of(1).await;
    stand.on(0, "cluster/member/list", 200, MEMBERS);
    let members = stand.etcd.members().await.unwrap();
    let seen: Vec<_> = members
        .iter()
        .map(|m| (m.id, m.name.as_str(), m.address.octets()[3], m.learner))
        .collect();
    assert_eq!(
        seen,
        [
            (9, "", 3, true),
            (7, "a", 1, false),
            (13_148_557_906_461_751_675, "b", 2, false)
        ]
    );
    assert_eq!(
        stand.asked(0),
        [r#"cluster/member/list {"linearizable":true}"#]
    );
}

#[tokio::test]
async fn without_a_majority_the_last_known_members_are_listed() {
    let stand = Stand::of(1).await;
    stand.when(0, "cluster/member/list", |body| {
        if body["linearizable"] == true {
            (503, NO_LEADER.to_owned())
        } else {
            (200, MEMBERS.to_owned())
        }
    });
    assert_eq!(stand.etcd.members().await.unwrap().len(), 3);
}

#[tokio::test]
async fn members_can_be_listed_by_another_member() {
    let stand = Stand::of(2).await;
    stand.on(1, "cluster/member/list", 200, MEMBERS);
    let other = Ipv4Addr::from([127, 0, 0, 2]);
    assert_eq!(stand.etcd.members_by(other).await.unwrap().len(), 3);
    assert!(stand.asked(0).is_empty());
}

#[tokio::test]
async fn removing_an_absent_member_succeeds() {
    let stand = Stand::of(1).await;
    let gone = r#"{"code":5,"message":"etcdserver: member not found"}"#;
    stand.on(0, "cluster/member/remove", 404, gone);
    stand.etcd.remove(u64::MAX).await.unwrap();
    assert_eq!(
        stand.asked(0),
        [r#"cluster/member/remove {"ID":"18446744073709551615"}"#]
    );
}

#[tokio::test]
async fn a_refused_removal_reports_etcds_message_and_what_to_do() {
    let stand = Stand::of(1).await;
    for (status, body) in [
        (
            503,
            r#"{"code":14,"message":"etcdserver: unhealthy cluster"}"#,
        ),
        (
            400,
            r#"{"code":9,"message":"etcdserver: re-configuration failed due to not enough started members"}"#,
        ),
    ] {
        stand.on(0, "cluster/member/remove", status, body);
        let error = stand.etcd.remove(7).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.one_line().contains("etcdserver: "), "{error}");
        assert!(error.one_line().contains("/v3/cluster/member/remove"));
        assert!(error.remedy().unwrap().contains("down first"), "{error}");
    }
}

#[tokio::test]
async fn a_call_that_waits_for_a_majority_times_out_with_a_hint() {
    let stand = Stand::of(1).await;
    // A listener that never answers: connections wait in its queue.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut etcd = EtcdGateway::at(stand.folder.path(), Ipv4Addr::LOCALHOST, port);
    etcd.answers_within = Duration::from_millis(100);
    let error = etcd.remove(7).await.unwrap_err();
    assert!(error.one_line().contains("no answer within"), "{error}");
    assert!(error.remedy().unwrap().contains("etcd members"), "{error}");
}

#[tokio::test]
async fn a_learner_is_promoted_and_a_voter_is_left_alone() {
    let stand = Stand::of(1).await;
    let call = "cluster/member/promote";
    stand.on(0, call, 200, r#"{"header":{}}"#);
    stand.etcd.promote(9).await.unwrap();
    let voting = r#"{"code":9,"message":"etcdserver: can only promote a learner member"}"#;
    stand.on(0, call, 400, voting);
    stand.etcd.promote(9).await.unwrap();
    let behind = r#"{"code":9,"message":"etcdserver: can only promote a learner member which is in sync with leader"}"#;
    stand.on(0, call, 400, behind);
    let error = stand.etcd.promote(9).await.unwrap_err();
    assert!(error.one_line().contains("in sync"), "{error}");
}
