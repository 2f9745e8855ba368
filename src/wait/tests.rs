#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use super::*;
use crate::testing::{FakeClock, StoppedClock};

const NOON: &str = "2026-11-23T12:00:00Z";

/// Waits with probes that follow a script, whose last line repeats; returns the outcome
/// and the number of probes.
async fn wait_for(
    clock: &StoppedClock,
    backoff: Backoff,
    script: impl Fn(usize) -> Result<Probe<u8>> + Send + Sync,
) -> (Result<u8>, usize, Option<String>) {
    let (notes, shown) = Notes::new();
    let looks = Mutex::new(0);
    let outcome = until(clock, &notes, backoff, "the API", || async {
        let mut looks = looks.lock().unwrap();
        *looks += 1;
        script(*looks)
    })
    .await;
    let shown = shown.borrow().clone();
    (outcome, looks.into_inner().unwrap(), shown)
}

fn not_yet() -> Probe<u8> {
    Probe::NotYet("not ready yet".to_owned())
}

#[tokio::test]
async fn what_is_there_already_is_returned_at_once() {
    let clock = StoppedClock::showing(NOON);
    let backoff = Backoff::local(Duration::ZERO);
    let (outcome, looks, shown) = wait_for(&clock, backoff, |_| Ok(Probe::Done(7))).await;
    assert_eq!((outcome.unwrap(), looks, shown), (7, 1, None));
    assert!(clock.waits().is_empty());
}

#[tokio::test]
async fn pauses_grow_by_half_up_to_the_longest_and_are_jittered() {
    for (backoff, first, longest) in [
        (Backoff::local(Duration::from_mins(1)), 100, 2000),
        (Backoff::remote(Duration::from_mins(1)), 500, 5000),
    ] {
        let clock = StoppedClock::showing(NOON);
        let (outcome, ..) = wait_for(&clock, backoff, |look| match look {
            1..=12 => Ok(not_yet()),
            _ => Ok(Probe::Done(0)),
        })
        .await;
        outcome.unwrap();
        let waits: Vec<f64> = clock.waits().iter().map(Duration::as_secs_f64).collect();
        // The clock's jitter is one half, so each pause is three quarters of the whole one.
        let mut whole = f64::from(first) / 1000.0;
        for (n, wait) in waits.iter().enumerate() {
            assert!((wait - whole * 0.75).abs() < 1e-6, "pause {n}: {wait} s");
            whole = (whole * 1.5).min(f64::from(longest) / 1000.0);
        }
        assert_eq!(waits.len(), 12);
        let capped = f64::from(longest) / 1000.0 * 0.75;
        assert!((waits[11] - capped).abs() < 1e-6, "{waits:?}");
    }
}

#[test]
fn every_schedule_grows_to_its_longest_pause() {
    use schedules::{
        ADDON, APPLY, AWS, DOUBTFUL_PHASE, DOWNLOAD, LOCAL, METADATA, PHASE, REFUSAL, REMOTE,
    };
    // In milliseconds, with the clock's jitter of one half.
    for (name, schedule, pauses) in [
        ("LOCAL", LOCAL, [75, 112, 168, 253, 379, 569, 854, 1281]),
        (
            "REMOTE",
            REMOTE,
            [375, 562, 843, 1265, 1898, 2847, 3750, 3750],
        ),
        (
            "PHASE",
            PHASE,
            [750, 1500, 3000, 6000, 12_000, 22_500, 22_500, 22_500],
        ),
        (
            "DOUBTFUL_PHASE",
            DOUBTFUL_PHASE,
            [3750, 7500, 15_000, 30_000, 45_000, 45_000, 45_000, 45_000],
        ),
        (
            "REFUSAL",
            REFUSAL,
            [
                30_000, 60_000, 120_000, 240_000, 300_000, 300_000, 300_000, 300_000,
            ],
        ),
        (
            "ADDON",
            ADDON,
            [
                30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000, 600_000,
            ],
        ),
        (
            "AWS",
            AWS,
            [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000],
        ),
        (
            "METADATA",
            METADATA,
            [75, 150, 300, 600, 1200, 2400, 3750, 3750],
        ),
        (
            "APPLY",
            APPLY,
            [200, 400, 800, 1600, 3200, 5000, 5000, 5000],
        ),
        (
            "DOWNLOAD",
            DOWNLOAD,
            [300, 600, 1200, 2400, 4800, 9600, 15_000, 15_000],
        ),
    ] {
        let clock = StoppedClock::showing(NOON);
        let mut run = schedule.pauses();
        let drawn = pauses.map(|_| run.next(&*clock).as_millis());
        assert_eq!(drawn, pauses, "{name}");
    }
}

#[test]
fn an_error_of_another_kind_does_not_make_the_next_pause_shorter() {
    use schedules::{DOUBTFUL_PHASE, PHASE};
    let clock = StoppedClock::showing(NOON);
    let mut pauses = PHASE.pauses();
    let mut next = |schedule| {
        pauses.follow(schedule);
        pauses.next(&*clock).as_millis()
    };
    assert_eq!((next(PHASE), next(DOUBTFUL_PHASE)), (750, 3750));
    let slower = [(); 4].map(|()| next(DOUBTFUL_PHASE));
    assert_eq!(slower, [7500, 15_000, 30_000, 45_000]);
    assert_eq!((next(PHASE), next(PHASE)), (45_000, 22_500));
}

#[tokio::test]
async fn a_schedule_with_few_attempts_ends_a_wait_before_its_deadline() {
    let clock = StoppedClock::showing(NOON);
    let backoff = schedules::AWS.within(Duration::from_hours(1));
    let (outcome, looks, _) = wait_for(&clock, backoff, |_| Ok(not_yet())).await;
    outcome.unwrap_err();
    assert_eq!((looks, clock.waits().len()), (8, 7));
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline_with_the_last_reason() {
    let clock = StoppedClock::showing(NOON);
    let backoff = Backoff::remote(Duration::from_mins(1));
    let (outcome, looks, shown) = wait_for(&clock, backoff, |_| Ok(not_yet())).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert_eq!(
        error.one_line(),
        "gave up after 60 s waiting for the API: not ready yet"
    );
    assert_eq!(shown.as_deref(), Some("the API: not ready yet"));
    let waits = clock.waits();
    assert_eq!(looks, waits.len() + 1);
    let total: Duration = waits.iter().sum();
    assert!(total >= backoff.deadline, "gave up early: {total:?}");
    assert!(
        total < backoff.deadline + backoff.schedule.longest,
        "{total:?}"
    );
}

#[tokio::test]
async fn a_refusal_ends_the_wait_at_once() {
    let clock = StoppedClock::showing(NOON);
    let backoff = Backoff::local(Duration::from_hours(1));
    let (outcome, looks, _) = wait_for(&clock, backoff, |look| match look {
        1 => Ok(not_yet()),
        _ => Err(Error::refused("wrong address").hint("correct it")),
    })
    .await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(error.one_line(), "wrong address");
    assert_eq!((looks, clock.waits().len()), (2, 1));
}

#[tokio::test]
async fn a_temporary_error_is_retried_and_reported_with_its_hint() {
    let clock = StoppedClock::showing(NOON);
    let backoff = Backoff::local(Duration::from_secs(30));
    let away = || Err(Error::failed("connection refused").hint("check the route"));
    let (outcome, _, shown) = wait_for(&clock, backoff, |look| match look {
        1..=3 => away(),
        _ => Ok(Probe::Done(1)),
    })
    .await;
    assert_eq!(outcome.unwrap(), 1);
    assert_eq!(shown.as_deref(), Some("the API: connection refused"));

    let (outcome, ..) = wait_for(&clock, backoff, |_| away()).await;
    let error = outcome.unwrap_err();
    assert_eq!(
        error.one_line(),
        "gave up after 30 s waiting for the API: connection refused"
    );
    assert_eq!(error.remedy(), Some("check the route"));
}

#[tokio::test]
async fn a_step_of_the_wall_clock_neither_ends_nor_prolongs_a_wait() {
    for hours in [-3, 3] {
        let clock = StoppedClock::showing(NOON);
        let backoff = Backoff::remote(Duration::from_mins(1));
        let (outcome, ..) = wait_for(&clock, backoff, |look| {
            if look == 2 {
                clock.step(jiff::SignedDuration::from_hours(hours));
            }
            Ok(not_yet())
        })
        .await;
        outcome.unwrap_err();
        let total: Duration = clock.waits().iter().sum();
        assert!(total >= backoff.deadline, "{hours} h: {total:?}");
        assert!(
            total < backoff.deadline + backoff.schedule.longest,
            "{total:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_its_limit_is_cancelled() {
    let clock = FakeClock::at_noon();
    let limit = Duration::from_secs(10);
    let takes = |seconds| clock.sleep(Duration::from_secs(seconds));
    assert_eq!(within(&clock, limit, takes(9)).await, Some(()));
    assert_eq!(within(&clock, limit, takes(10)).await, Some(()));
    assert_eq!(within(&clock, limit, takes(11)).await, None);
}

#[tokio::test(start_paused = true)]
async fn ticks_come_once_a_period_and_missed_ones_are_skipped() {
    let clock = FakeClock::at_noon();
    let mut ticks = Every::new(&clock, Duration::from_secs(30));
    let mut at = Vec::new();
    // How long the work after each tick takes.
    for takes in [0, 10, 70, 0, 0] {
        ticks.tick().await;
        at.push(clock.since_noon().as_secs());
        clock.sleep(Duration::from_secs(takes)).await;
    }
    assert_eq!(at, [0, 30, 60, 130, 160]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_tick_comes_when_it_was_due() {
    let clock = FakeClock::at_noon();
    let mut ticks = Every::new(&clock, Duration::from_secs(30));
    ticks.tick().await;
    let dropped = within(&clock, Duration::from_secs(20), ticks.tick()).await;
    assert_eq!(dropped, None);
    ticks.tick().await;
    assert_eq!(clock.since_noon().as_secs(), 30);
}
