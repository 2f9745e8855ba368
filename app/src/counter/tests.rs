#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! The counter against a ledger in memory, in virtual time.

use std::sync::{Mutex, MutexGuard};

use tokio::time::Instant;

use super::*;

const LIMIT: Duration = Duration::from_millis(500);

/// How the ledger treats the next calls.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Fine,
    Refuses,
    /// Accepts the call and never answers.
    Hangs,
    /// Adds the batch, but the answer is lost.
    AddsAndHangs,
}

struct Book {
    mood: Mood,
    total: u64,
    settled: u64,
    batches: Vec<Batch>,
}

#[derive(Clone)]
struct Memory(Arc<Mutex<Book>>);

impl Memory {
    fn new(mood: Mood) -> Self {
        Self(Arc::new(Mutex::new(Book {
            mood,
            total: 0,
            settled: 0,
            batches: Vec::new(),
        })))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    fn becomes(&self, mood: Mood) {
        self.book().mood = mood;
    }

    async fn answer(&self) -> Result<u64, String> {
        let mood = self.book().mood;
        match mood {
            Mood::Fine => {
                // One round trip.
                sleep(Duration::from_millis(1)).await;
                Ok(self.book().total)
            }
            Mood::Refuses => Err("refused".to_owned()),
            Mood::Hangs | Mood::AddsAndHangs => std::future::pending().await,
        }
    }
}

impl Ledger for Memory {
    type Session = Self;

    async fn open(&self) -> Result<Self, String> {
        self.answer().await?;
        Ok(self.clone())
    }
}

impl Session for Memory {
    async fn settle(&mut self, batch: Batch) -> Result<u64, String> {
        {
            let mut book = self.book();
            let arrives = matches!(book.mood, Mood::Fine | Mood::AddsAndHangs);
            if arrives && batch.number > book.settled {
                book.settled = batch.number;
                book.total += batch.visits;
                book.batches.push(batch);
            }
        }
        self.answer().await
    }

    async fn total(&mut self) -> Result<u64, String> {
        self.answer().await
    }
}

async fn reaches(counter: &Counter, wanted: impl Fn(&State) -> bool) {
    let mut state = counter.state();
    timeout(
        Duration::from_mins(1),
        state.wait_for(|state| wanted(state)),
    )
    .await
    .expect("the counter reaches that state")
    .unwrap();
}

async fn start(ledger: &Memory) -> (Counter, JoinHandle<()>) {
    let started = Counter::start(ledger.clone(), LIMIT, Arc::default());
    if ledger.book().mood == Mood::Fine {
        reaches(&started.0, |state| state.link == Link::Up).await;
    }
    started
}

#[tokio::test(start_paused = true)]
async fn a_thousand_visitors_at_once_get_a_thousand_numbers_in_a_few_round_trips() {
    let ledger = Memory::new(Mood::Fine);
    let (counter, _task) = start(&ledger).await;
    let visitors: Vec<_> = (0..1000)
        .map(|_| {
            let counter = counter.clone();
            tokio::spawn(async move { counter.visit().await })
        })
        .collect();
    let mut numbers = Vec::new();
    for visitor in visitors {
        match visitor.await.unwrap() {
            Visit::Counted(number) => numbers.push(number),
            Visit::Kept(_) => panic!("the ledger answers"),
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
    let round_trips = ledger.book().batches.len();
    assert!(round_trips <= 3, "{round_trips} round trips");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_visitors_shares_round_trips() {
    let ledger = Memory::new(Mood::Fine);
    let (counter, _task) = start(&ledger).await;
    let mut visitors = Vec::new();
    for _ in 0..100 {
        let counter = counter.clone();
        visitors.push(tokio::spawn(async move { counter.visit().await }));
        sleep(Duration::from_millis(1)).await;
    }
    for (index, visitor) in visitors.into_iter().enumerate() {
        assert_eq!(visitor.await.unwrap(), Visit::Counted(index as u64 + 1));
    }
    let round_trips = ledger.book().batches.len();
    assert!(round_trips <= 22, "{round_trips} round trips");
}

#[tokio::test(start_paused = true)]
async fn a_visitor_in_a_quiet_time_waits_for_one_round_trip() {
    let ledger = Memory::new(Mood::Fine);
    let (counter, _task) = start(&ledger).await;
    for number in 1..=3 {
        let before = Instant::now();
        assert_eq!(counter.visit().await, Visit::Counted(number));
        assert_eq!(before.elapsed(), Duration::from_millis(1));
        sleep(PACE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_hangs_delays_the_first_visitor_by_the_limit_and_nobody_after() {
    let ledger = Memory::new(Mood::Fine);
    let (counter, _task) = start(&ledger).await;
    ledger.becomes(Mood::Hangs);

    let before = Instant::now();
    assert_eq!(counter.visit().await, Visit::Kept(1));
    assert!(before.elapsed() <= LIMIT * 2, "{:?}", before.elapsed());

    let before = Instant::now();
    assert_eq!(counter.visit().await, Visit::Kept(2));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_hangs_from_the_start_delays_nobody() {
    let (counter, _task) = start(&Memory::new(Mood::Hangs)).await;
    let before = Instant::now();
    assert_eq!(counter.visit().await, Visit::Kept(1));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn visits_without_a_ledger_are_counted_once_it_answers() {
    let ledger = Memory::new(Mood::Refuses);
    let (counter, _task) = start(&ledger).await;
    for kept in 1..=5 {
        assert_eq!(counter.visit().await, Visit::Kept(kept));
    }
    ledger.becomes(Mood::Fine);
    reaches(&counter, |state| state.link == Link::Up && state.kept == 0).await;
    assert_eq!(ledger.book().total, 5);
    assert_eq!(counter.visit().await, Visit::Counted(6));
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_answer_got_lost_is_counted_once() {
    let ledger = Memory::new(Mood::Fine);
    let (counter, _task) = start(&ledger).await;
    ledger.becomes(Mood::AddsAndHangs);
    assert_eq!(counter.visit().await, Visit::Kept(1));
    assert_eq!(ledger.book().total, 1);
    assert_eq!(counter.visit().await, Visit::Kept(2));
    ledger.becomes(Mood::Fine);
    reaches(&counter, |state| state.link == Link::Up && state.kept == 0).await;
    assert_eq!(ledger.book().total, 2);
    assert_eq!(counter.visit().await, Visit::Counted(3));
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_fails_while_nobody_visits_is_noticed() {
    let ledger = Memory::new(Mood::Fine);
    let (counter, _task) = start(&ledger).await;
    ledger.becomes(Mood::Hangs);
    let before = Instant::now();
    reaches(&counter, |state| matches!(state.link, Link::Down(_))).await;
    assert!(
        before.elapsed() <= HEARTBEAT + LIMIT,
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_once_all_is_counted_and_not_before() {
    let ledger = Memory::new(Mood::Refuses);
    let (counter, mut task) = start(&ledger).await;
    counter.visit().await;
    drop(counter);
    timeout(Duration::from_secs(30), &mut task)
        .await
        .expect_err("a visit is not counted yet");
    ledger.becomes(Mood::Fine);
    timeout(Duration::from_secs(30), task)
        .await
        .expect("the visit can be counted")
        .unwrap();
    assert_eq!(ledger.book().total, 1);
}
