//! The program against a real Redis, from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use support::{App, Connection, Redis, eventually};

/// Sets the flag when dropped.
struct Raises<'a>(&'a AtomicBool);

impl Drop for Raises<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_count_rises_across_processes() {
    let Some(redis) = Redis::start() else { return };
    let apps = [App::start(&redis.url()), App::start(&redis.url())];
    for app in &apps {
        app.becomes_ready();
    }
    for number in 1..=10 {
        let page = apps[usize::from(number % 2 == 0)].get("/");
        assert_eq!(page.status, 200);
        assert_eq!(page.number("visits"), Some(number), "{}", page.body);
    }
    let page = apps[0].get("/");
    assert!(page.body.contains(">pod-under-test<"), "{}", page.body);
    assert!(page.body.contains(">node-under-test<"), "{}", page.body);
}

#[test]
fn visitors_of_one_moment_get_numbers_of_their_own() {
    let Some(redis) = Redis::start() else { return };
    let app = App::start(&redis.url());
    app.becomes_ready();
    let numbers: Vec<u64> = thread::scope(|scope| {
        let visitors: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(app.address);
                    let mut visit = || connection.get("/").unwrap().number("visits").unwrap();
                    (0..25).map(|_| visit()).collect::<Vec<_>>()
                })
            })
            .collect();
        visitors
            .into_iter()
            .flat_map(|visitor| visitor.join().unwrap())
            .collect()
    });
    assert_eq!(numbers.len(), 800);
    let distinct: BTreeSet<u64> = numbers.into_iter().collect();
    assert_eq!(distinct, (1..=800).collect());
}

#[test]
fn visits_while_redis_is_away_are_counted_when_it_is_back() {
    let Some(mut redis) = Redis::start() else {
        return;
    };
    let app = App::start(&redis.url());
    app.becomes_ready();
    assert_eq!(app.get("/").number("visits"), Some(1));

    redis.kill();
    let answers: Vec<_> = (0..5).map(|_| app.get("/")).collect();
    for (kept, page) in (1..).zip(&answers) {
        assert_eq!(page.status, 200);
        assert_eq!(page.number("kept"), Some(kept), "{}", page.body);
        assert!(page.body.contains("Redis is away"));
    }
    let ready = app.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.starts_with("Redis: "), "{}", ready.body);
    assert_eq!(app.get("/healthz").status, 200);
    assert_eq!(app.get("/readyz/serving").status, 200);
    let metrics = app.get("/metrics").body;
    assert!(metrics.contains("\nvisits_redis_up 0\n"), "{metrics}");
    assert!(metrics.contains("\nvisits_kept 5\n"), "{metrics}");

    redis.run_again();
    app.becomes_ready();
    eventually("the kept visits are counted", || {
        app.get("/metrics").body.contains("\nvisits_kept 0\n")
    });
    // The first visit went with the server's memory or came back from its file.
    let page = app.get("/");
    let number = page.number("visits").unwrap();
    assert!((6..=7).contains(&number), "{number}");
    assert!(
        app.get("/metrics")
            .body
            .contains("\nvisits_counted_total 7\n")
    );
}

#[test]
fn a_redis_that_accepts_and_says_nothing_does_not_hold_a_visitor() {
    // The kernel accepts; nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let app = App::start(&url);
    let page = app.get("/");
    assert_eq!(page.number("kept"), Some(1), "{}", page.body);
    eventually("the silence is noticed", || {
        app.get("/readyz").body.contains("no answer within")
    });
}

#[test]
fn sigterm_under_load_loses_no_request_and_no_visit() {
    let Some(redis) = Redis::start() else { return };
    let leaves = App::start(&redis.url());
    let stays = App::start(&redis.url());
    leaves.becomes_ready();
    stays.becomes_ready();
    let done = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    thread::scope(|scope| {
        // Also when an assertion below fails, or the load would never end.
        let _end_of_load = Raises(&done);
        for _ in 0..16 {
            scope.spawn(|| {
                // As a proxy does: one connection kept open, and whoever closes it
                // after an answer is not asked again.
                let mut connection = Connection::open(leaves.address);
                while !done.load(Ordering::Relaxed) {
                    let page = connection.get("/").expect("each request has its answer");
                    assert_eq!(page.status, 200);
                    assert!(page.number("visits").is_some(), "{}", page.body);
                    answered.fetch_add(1, Ordering::Relaxed);
                    if page.closes {
                        connection = Connection::open(stays.address);
                    }
                }
            });
        }
        eventually("load", || answered.load(Ordering::Relaxed) > 200);
        leaves.terminate();
        eventually("readiness goes off", || leaves.get("/readyz").status == 503);
        assert_eq!(leaves.get("/readyz/serving").status, 503);
        // Who has not heard of it yet is still answered, and sent elsewhere.
        let page = leaves.get("/");
        assert_eq!((page.status, page.closes), (200, true));
        answered.fetch_add(1, Ordering::Relaxed);
        let status = leaves.ends();
        let so_far = answered.load(Ordering::Relaxed);
        eventually("the load goes on", || {
            answered.load(Ordering::Relaxed) > so_far + 50
        });
        assert!(status.success(), "{status}");
    });
    let next = stays.get("/").number("visits").unwrap();
    assert_eq!(next, answered.load(Ordering::Relaxed) + 1);
}

#[test]
fn visits_that_cannot_be_counted_before_the_end_make_it_a_failure() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let app = App::start(&format!("redis://{}", silent.local_addr().unwrap()));
    assert_eq!(app.get("/").number("kept"), Some(1));
    app.terminate();
    assert_eq!(app.ends().code(), Some(1));
}

#[test]
fn wrong_settings_end_it_with_a_line_for_each() {
    let (status, said) = App::refuses(&[("LISTEN", "here"), ("REDIS_URL", "there")]);
    assert_eq!(status.code(), Some(2));
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("LISTEN=\"here\" is not an address"), "{said}");
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, said) = App::refuses(&[("LISTEN", &address)]);
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );
}
