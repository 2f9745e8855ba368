//! Scenarios of plans, with steps that follow a script.
#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use futures::future;

use super::*;
use crate::{observe::Origin, testing::FakeWorld};

/// A step that holds once a file exists, and fails as often as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Scripted {
    name: String,
    failures: usize,
    kind: &'static str,
}

static ATTEMPTS: Mutex<Option<HashMap<String, usize>>> = Mutex::new(None);

#[async_trait]
impl Step for Scripted {
    async fn check(&self, world: &World) -> Result<State> {
        let path = format!("/made/{}", self.name);
        Ok(if world.host.exists(path.as_ref()).await? {
            State::AsWanted
        } else {
            State::Differs(format!("{path} is missing"))
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        let attempt = {
            let mut attempts = ATTEMPTS.lock().unwrap();
            let count = attempts
                .get_or_insert_default()
                .entry(self.name.clone())
                .or_default();
            *count += 1;
            *count
        };
        if attempt <= self.failures {
            return Err(match self.kind {
                "refused" => Error::refused("wrong setting"),
                "denied" => Error::doubtful("403 Forbidden").hint("check the mirror"),
                "denied and broken" if attempt % 4 == 0 => Error::failed("connection refused"),
                "denied and broken" => Error::doubtful("403 Forbidden"),
                _ => Error::failed("connection refused"),
            });
        }
        match self.kind {
            "hangs" => {
                notes.waiting_for("the mirror");
                future::pending::<()>().await;
            }
            "lies" => return Ok(()),
            _ => {}
        }
        let path = format!("/made/{}", self.name);
        world.host.write(path.as_ref(), b"", 0o600).await
    }
}

fn phase(name: &str, after: &[&str]) -> Phase<Scripted> {
    Phase {
        name: name.to_owned(),
        why: String::new(),
        after: after.iter().map(ToString::to_string).collect(),
        deadline_seconds: 100,
        step: Scripted {
            name: name.to_owned(),
            failures: 0,
            kind: "",
        },
    }
}

fn scripted(name: &str, failures: usize, kind: &'static str) -> Phase<Scripted> {
    let mut phase = phase(name, &[]);
    phase.step.failures = failures;
    phase.step.kind = kind;
    phase
}

async fn runner(fake: &FakeWorld) -> Runner {
    let world = fake.ports();
    let journal = Journal::open(world.host.as_ref(), "i-1").await.unwrap();
    Runner::new(world, journal)
}

fn journal_text(fake: &FakeWorld) -> String {
    fake.files.get(crate::journal::FILE).unwrap()
}

#[tokio::test(start_paused = true)]
async fn phases_run_after_their_dependencies_in_any_order() {
    let fake = FakeWorld::new();
    let plan = [
        phase("order-c", &["order-b"]),
        phase("order-b", &["order-a"]),
        phase("order-a", &[]),
    ];
    let summary = runner(&fake).await.run(&plan).await.unwrap();
    assert_eq!(summary, Summary { done: 3, held: 0 });
    let journal: serde_json::Value = serde_json::from_str(&journal_text(&fake)).unwrap();
    let begun = |name: &str| {
        journal["phases"][name]["begun"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(begun("order-a") <= begun("order-b") && begun("order-b") <= begun("order-c"));
}

#[tokio::test(start_paused = true)]
async fn a_second_run_does_nothing_and_writes_nothing() {
    let fake = FakeWorld::new();
    let plan = [phase("twice", &[])];
    runner(&fake).await.run(&plan).await.unwrap();
    let before = journal_text(&fake);
    let summary = runner(&fake).await.run(&plan).await.unwrap();
    assert_eq!(summary, Summary { done: 0, held: 1 });
    assert_eq!(journal_text(&fake), before);
}

#[tokio::test(start_paused = true)]
async fn a_temporary_failure_is_retried() {
    let fake = FakeWorld::new();
    let summary = runner(&fake)
        .await
        .run(&[scripted("flaky", 3, "failed")])
        .await
        .unwrap();
    assert_eq!(summary.done, 1);
}

#[tokio::test(start_paused = true)]
async fn what_only_a_person_can_fix_is_not_retried() {
    let fake = FakeWorld::new();
    let error = runner(&fake)
        .await
        .run(&[scripted("wrong", 1, "refused")])
        .await
        .unwrap_err();
    assert_eq!(error.one_line(), "phase wrong: wrong setting");
    assert_eq!(error.kind(), Kind::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_retried_slowly_and_refused_once_attempts_agree() {
    let fake = FakeWorld::new();
    let passes = scripted("denied-once", 3, "denied");
    let summary = runner(&fake).await.run(&[passes]).await.unwrap();
    assert_eq!(summary.done, 1);

    let fake = FakeWorld::new();
    let mut stays = scripted("denied-always", 1000, "denied");
    stays.deadline_seconds = 900;
    let error = runner(&fake).await.run(&[stays]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let text = error.one_line();
    assert!(
        text.starts_with("phase denied-always: every attempt for 3"),
        "{text}"
    );
    assert!(text.ends_with(" s failed: 403 Forbidden"), "{text}");
    assert_eq!(error.remedy(), Some("check the mirror"));
    let attempts = ATTEMPTS.lock().unwrap().as_ref().unwrap()["denied-always"];
    assert!((6..20).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn differing_failures_are_never_refused() {
    let fake = FakeWorld::new();
    let mut phase = scripted("denied-and-broken", 1000, "denied and broken");
    phase.deadline_seconds = 900;
    let error = runner(&fake).await.run(&[phase]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.one_line().contains("gave up after 900 s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_hangs_ends_at_its_deadline_and_reports_what_it_waited_for() {
    let fake = FakeWorld::new();
    let error = runner(&fake)
        .await
        .run(&[scripted("stuck", 0, "hangs")])
        .await
        .unwrap_err();
    assert_eq!(
        error.one_line(),
        "phase stuck: gave up after 100 s, waiting for the mirror"
    );
}

#[tokio::test(start_paused = true)]
async fn a_phase_whose_result_is_missing_has_failed() {
    let fake = FakeWorld::new();
    let error = runner(&fake)
        .await
        .run(&[scripted("liar", 0, "lies")])
        .await
        .unwrap_err();
    assert!(
        error
            .one_line()
            .contains("its check still finds: /made/liar is missing"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_phase_is_carried_out_by_the_next_run() {
    let fake = FakeWorld::new();
    let first = runner(&fake).await;
    let plan = [scripted("killed", 1, "failed")];
    // The first attempt fails; the process dies during the pause before the second.
    let outcome = tokio::time::timeout(Duration::from_millis(500), first.run(&plan)).await;
    assert!(outcome.is_err());
    assert!(journal_text(&fake).contains("\"held\": null"));
    let summary = runner(&fake).await.run(&plan).await.unwrap();
    assert_eq!(summary, Summary { done: 1, held: 0 });
}

#[tokio::test(start_paused = true)]
async fn membership_outlives_a_restart() {
    let fake = FakeWorld::new();
    let membership = Membership {
        cluster_uid: "u".to_owned(),
        origin: Origin::Joined,
    };
    runner(&fake)
        .await
        .commit_to(membership.clone())
        .await
        .unwrap();
    assert_eq!(runner(&fake).await.membership().await, Some(membership));
}
