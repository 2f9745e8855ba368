#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    leader::healing::Healing,
    testing::{FakeWorld, control_plane},
};

const MIB: u64 = 1 << 20;
const QUOTA: u64 = 8 << 30;

/// A member at 10.42.0.`id` with a database of these sizes in MiB; member 1 leads.
fn member(id: u64, bytes: u64, in_use: u64) -> Asked {
    let answer = MemberStatus {
        leader: Some(1),
        in_step: true,
        database: Database {
            bytes: bytes * MIB,
            in_use: in_use * MIB,
            quota: QUOTA,
        },
        ..MemberStatus::default()
    };
    Asked {
        member: Member {
            id,
            name: format!("n{id}"),
            address: [10, 42, 0, u8::try_from(id).unwrap()].into(),
            learner: false,
        },
        answer: Some(answer),
    }
}

fn with(mut asked: Asked, change: impl FnOnce(&mut MemberStatus)) -> Asked {
    if let Some(answer) = &mut asked.answer {
        change(answer);
    }
    asked
}

fn silent(asked: Asked) -> Asked {
    Asked {
        answer: None,
        ..asked
    }
}

fn alarmed(asked: Asked, member: u64, alarm: Alarm) -> Asked {
    with(asked, |answer| {
        answer.alarms.insert(RaisedAlarm { member, alarm });
    })
}

#[test]
fn a_database_is_defragmented_if_half_of_it_is_empty_or_it_nears_its_quota() {
    let with_quota = |quota, bytes, in_use| Database {
        bytes: bytes * MIB,
        in_use: in_use * MIB,
        quota: quota * MIB,
    };
    for (case, database, gains) in [
        ("small", with_quota(8192, 99, 1), false),
        ("half empty", with_quota(8192, 100, 50), true),
        ("more than half full", with_quota(8192, 100, 51), false),
        ("half of a small quota", with_quota(64, 32, 16), true),
        ("less than that", with_quota(64, 31, 1), false),
        (
            "near the quota, with garbage",
            with_quota(1000, 901, 899),
            true,
        ),
        (
            "near the quota, with data",
            with_quota(1000, 950, 901),
            false,
        ),
        ("no quota known, half empty", with_quota(0, 100, 50), true),
        ("no quota known, full", with_quota(0, 9000, 8000), false),
    ] {
        assert_eq!(would_gain(database), gains, "{case}");
    }
}

#[test]
fn one_member_is_due_at_a_time_the_leader_last_and_only_while_all_are_healthy() {
    let (fat, lean) = ((400, 100), (400, 300));
    let of = |id, (bytes, in_use)| member(id, bytes, in_use);
    let resting = |id| BTreeSet::from([id]);
    let none = BTreeSet::new();
    let behind = |asked| with(asked, |answer| answer.in_step = false);
    for (case, members, resting, expected) in [
        (
            "nobody gains",
            vec![of(1, lean), of(2, lean)],
            none.clone(),
            None,
        ),
        (
            "the leader alone gains",
            vec![of(1, fat), of(2, lean)],
            none.clone(),
            Some(1),
        ),
        (
            "the leader is last",
            vec![of(1, fat), of(2, lean), of(3, fat)],
            none.clone(),
            Some(3),
        ),
        (
            "one was just done",
            vec![of(1, fat), of(2, fat)],
            resting(2),
            Some(1),
        ),
        (
            "all were just done",
            vec![of(1, lean), of(2, fat)],
            resting(2),
            None,
        ),
        (
            "one is silent",
            vec![of(1, lean), of(2, fat), silent(of(3, lean))],
            none.clone(),
            None,
        ),
        (
            "one is behind",
            vec![of(1, lean), of(2, fat), behind(of(3, lean))],
            none.clone(),
            None,
        ),
        (
            "one has an alarm",
            vec![of(1, lean), alarmed(of(2, fat), 1, Alarm::Corrupt)],
            none.clone(),
            None,
        ),
        ("there is only one", vec![of(1, fat)], none.clone(), Some(1)),
    ] {
        let found = due(&members, &resting).map(|member| member.id);
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn full_members_are_defragmented_the_leader_last_if_their_data_leave_room() {
    let quota = QUOTA / MIB;
    let members = [
        member(1, quota, 10),
        member(2, quota, quota - 1),
        member(3, quota, 10),
        member(4, 20, 10),
        silent(member(5, quota, 10)),
    ];
    let ids: Vec<u64> = full(&members).iter().map(|member| member.id).collect();
    assert_eq!(ids, [3, 1]);
    assert_eq!(still_full(&members).unwrap().0.id, 1);
    assert_eq!(still_full(&members[3..]), None);
}

#[test]
fn alarms_are_reported_as_alarms_and_not_as_silence() {
    let quota = QUOTA / MIB;
    let fine = || member(2, 20, 10);
    assert_eq!(troubles(&[fine(), silent(member(3, 20, 10))]), [""; 0]);
    for (case, members, said) in [
        (
            "garbage",
            vec![alarmed(member(1, quota, 10), 1, Alarm::NoSpace), fine()],
            "(alarm NOSPACE of n1) and accepts only deletions: the agent next to",
        ),
        (
            "data",
            vec![
                alarmed(member(1, quota, quota - 1), 1, Alarm::NoSpace),
                fine(),
            ],
            "on n1, 8191 MiB of 8192 MiB are in use. Delete objects",
        ),
        (
            "corrupt",
            vec![alarmed(member(1, 20, 10), 2, Alarm::Corrupt), fine()],
            "etcd's data on n2 differ from the others' (alarm CORRUPT)",
        ),
    ] {
        let reported = troubles(&members);
        assert_eq!(reported.len(), 1, "{case}: {reported:?}");
        assert!(reported[0].contains(said), "{case}: {reported:?}");
        assert!(
            !reported[0].contains("do not answer"),
            "{case}: {reported:?}"
        );
    }
}

/// Three members; this control plane is on the node of the first one, which leads.
struct Stage {
    fake: FakeWorld,
    me: Identity,
    maintenance: Maintenance,
}

impl Stage {
    fn new() -> Self {
        let fake = FakeWorld::new();
        for last in 10..=12 {
            fake.etcd.voter(&format!("n{last}"), last);
        }
        Self {
            fake,
            me: control_plane("i-1"),
            maintenance: Maintenance::default(),
        }
    }

    async fn cycle(&mut self) -> EtcdReport {
        let world = self.fake.ports();
        self.maintenance.cycle(&world, &self.me).await.unwrap()
    }

    /// Every member's file is at its quota; after compaction, `live` MiB of it are in use.
    fn fill(&self, live: u64) {
        for id in 1..=3 {
            self.fake.etcd.database(id, QUOTA, QUOTA, live * MIB);
        }
        self.fake.etcd.alarm(2, Alarm::NoSpace);
        // The Lease could not be written.
        self.fake.cluster.down(true);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_database_accepts_writes_again_without_a_person() {
    let mut stage = Stage::new();
    stage.fill(100);
    let report = stage.cycle().await;
    assert_eq!(
        stage.fake.etcd.maintained(),
        [
            "compact 700",
            "defragment 2",
            "defragment 3",
            "defragment 1",
            "disarm 2 NOSPACE"
        ]
    );
    assert!(stage.fake.etcd.alarms().is_empty());
    assert_eq!((report.alarms_ended, report.defragmentations), (1, 3));
    assert_eq!(report.troubles, [""; 0]);
    assert_eq!(
        report.members[0].line(),
        "healthy, leads, 100 of 8192 MiB, 100 in use"
    );
    stage.cycle().await;
    assert_eq!(stage.fake.etcd.maintained(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn only_the_agent_next_to_etcds_leader_frees_space() {
    let mut stage = Stage::new();
    stage
        .fake
        .ports()
        .etcd
        .transfer_leadership(2)
        .await
        .unwrap();
    stage.fill(100);
    let report = stage.cycle().await;
    assert_eq!(stage.fake.etcd.maintained(), [""; 0]);
    assert!(report.troubles[0].contains("NOSPACE of n11"), "{report:?}");
    assert_eq!(report.members[1].alarms, [Alarm::NoSpace]);
}

#[tokio::test(start_paused = true)]
async fn a_database_full_of_data_keeps_its_alarm_until_something_is_deleted() {
    let mut stage = Stage::new();
    stage.fill(QUOTA / MIB - 1);
    let report = stage.cycle().await;
    assert_eq!(stage.fake.etcd.maintained(), ["compact 700"]);
    assert!(report.troubles[0].contains("Delete objects"), "{report:?}");
    for id in 1..=3 {
        stage.fake.etcd.database(id, QUOTA, QUOTA, 100 * MIB);
    }
    assert_eq!(stage.cycle().await.troubles, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_does_not_block_the_alarms_end() {
    let mut stage = Stage::new();
    stage.fill(100);
    stage.fake.etcd.stop(3);
    assert_eq!(stage.cycle().await.troubles, [""; 0]);
    assert!(stage.fake.etcd.alarms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_leader_defragments_one_member_in_a_cycle_and_each_once_an_hour() {
    let mut stage = Stage::new();
    for id in 1..=3 {
        stage
            .fake
            .etcd
            .database(id, 400 * MIB, 100 * MIB, 100 * MIB);
    }
    for expected in ["defragment 2", "defragment 3", "defragment 1"] {
        stage.cycle().await;
        assert_eq!(stage.fake.etcd.maintained(), [expected]);
    }
    stage.fake.etcd.database(1, 400 * MIB, 100 * MIB, 100 * MIB);
    stage.cycle().await;
    assert_eq!(stage.fake.etcd.maintained(), [""; 0]);
    stage.fake.ports().clock.sleep(AFTER_DEFRAGMENTATION).await;
    stage.cycle().await;
    assert_eq!(stage.fake.etcd.maintained(), ["defragment 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_follower_defragments_nothing() {
    let mut stage = Stage::new();
    lead(&stage.fake.ports(), "i-2").await.unwrap();
    stage.fake.etcd.database(2, 400 * MIB, 100 * MIB, 100 * MIB);
    stage.cycle().await;
    assert_eq!(stage.fake.etcd.maintained(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_alarm_of_a_removed_member_is_cleared() {
    let mut stage = Stage::new();
    stage.fake.etcd.alarm(3, Alarm::Corrupt);
    stage.cycle().await;
    assert_eq!(
        stage.fake.etcd.maintained(),
        [""; 0],
        "it is still a member"
    );
    stage.fake.ports().etcd.remove(3).await.unwrap();
    stage.cycle().await;
    assert_eq!(stage.fake.etcd.maintained(), ["disarm 3 CORRUPT"]);
}

#[tokio::test(start_paused = true)]
async fn an_alarm_of_one_member_is_no_lost_majority() {
    for alarm in [Alarm::NoSpace, Alarm::Corrupt] {
        let stage = Stage::new();
        stage.fake.etcd.alarm(2, alarm);
        let said = Healing::default()
            .cycle(&stage.fake.ports(), &stage.me)
            .await;
        assert_eq!(said.unwrap(), [""; 0], "{alarm:?}");
    }
}
