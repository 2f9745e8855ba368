//! Runs futures one at a time, on a clock that jumps from timer to timer.
//!
//! The task that was woken first runs first, and timers due at the same time end in the order in
//! which they were set. Nothing else decides which task runs next, so a simulation can be repeated
//! exactly.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

/// Names a future that was handed to an [`Executor`].
pub type TaskId = usize;

/// When a timer ends, and its sequence number, which breaks ties.
type Key = (Duration, u64);

#[derive(Default)]
struct Timers {
    now: Duration,
    set: u64,
    waiting: BTreeMap<Key, (TaskId, Waker)>,
    /// The task that is being polled; it owns the timers that it sets.
    current: TaskId,
    counts: BTreeMap<TaskId, usize>,
}

/// The time since the simulation began.
#[derive(Clone, Default)]
pub struct Timeline(Arc<Mutex<Timers>>);

impl Timeline {
    fn lock(&self) -> MutexGuard<'_, Timers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago the simulation began.
    pub fn now(&self) -> Duration {
        self.lock().now
    }

    /// Waits; only within a task of an [`Executor`].
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep {
            timeline: self.clone(),
            until: self.now() + duration,
            key: None,
        }
    }
}

/// A wait until a point in time.
pub struct Sleep {
    timeline: Timeline,
    until: Duration,
    key: Option<Key>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut timers = this.timeline.lock();
        if timers.now >= this.until {
            return Poll::Ready(());
        }
        if let Some(timer) = this.key.and_then(|key| timers.waiting.get_mut(&key)) {
            timer.1.clone_from(context.waker());
            return Poll::Pending;
        }
        let task = timers.current;
        timers.set += 1;
        let key = (this.until, timers.set);
        let waker = context.waker().clone();
        timers.waiting.insert(key, (task, waker));
        *timers.counts.entry(task).or_default() += 1;
        this.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timeline.lock().end(key);
        }
    }
}

impl Timers {
    fn end(&mut self, key: Key) -> Option<Waker> {
        let (task, waker) = self.waiting.remove(&key)?;
        if let Some(count) = self.counts.get_mut(&task) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&task);
            }
        }
        Some(waker)
    }
}

type Ready = Arc<Mutex<VecDeque<TaskId>>>;

struct Alarm {
    task: TaskId,
    rung: AtomicBool,
    ready: Ready,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::Relaxed) {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.push_back(self.task);
        }
    }
}

struct Task<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    alarm: Arc<Alarm>,
}

/// The state of a task after it was polled.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled<T> {
    /// It ended.
    Ended(T),
    /// It waits for a timer.
    Waits,
    /// It waits, but not for a timer.
    WaitsForEver,
}

/// Tasks and the time that they share.
pub struct Executor<T> {
    timeline: Timeline,
    tasks: BTreeMap<TaskId, Task<T>>,
    ready: Ready,
    spawned: TaskId,
}

impl<T> Executor<T> {
    /// No tasks yet.
    pub fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            tasks: BTreeMap::new(),
            ready: Ready::default(),
            spawned: 0,
        }
    }

    /// Adds a future; it runs when its turn comes.
    pub fn spawn(&mut self, future: impl Future<Output = T> + 'static) -> TaskId {
        self.spawned += 1;
        let alarm = Arc::new(Alarm {
            task: self.spawned,
            rung: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        alarm.wake_by_ref();
        // tokio's channels count against a budget that only its own scheduler refills.
        let future = Box::pin(tokio::task::coop::unconstrained(future));
        self.tasks.insert(self.spawned, Task { future, alarm });
        self.spawned
    }

    /// Drops a task wherever it is.
    pub fn kill(&mut self, task: TaskId) {
        self.tasks.remove(&task);
    }

    /// Polls the next ready task; `None` if all wait.
    pub fn poll_next(&mut self) -> Option<(TaskId, Polled<T>)> {
        let (id, task) = loop {
            let id = {
                let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
                ready.pop_front()?
            };
            // It may have been killed since.
            if let Some(task) = self.tasks.get_mut(&id) {
                break (id, task);
            }
        };
        task.alarm.rung.store(false, Ordering::Relaxed);
        self.timeline.lock().current = id;
        let waker = Waker::from(task.alarm.clone());
        let polled = match task.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => {
                self.tasks.remove(&id);
                Polled::Ended(value)
            }
            Poll::Pending => {
                let woken = task.alarm.rung.load(Ordering::Relaxed);
                if woken || self.timeline.lock().counts.contains_key(&id) {
                    Polled::Waits
                } else {
                    Polled::WaitsForEver
                }
            }
        };
        Some((id, polled))
    }

    /// When the next timer ends.
    pub fn next_timer(&self) -> Option<Duration> {
        let timers = self.timeline.lock();
        timers.waiting.first_key_value().map(|(key, _)| key.0)
    }

    /// Moves the clock, and wakes the tasks whose timers have ended.
    pub fn advance_to(&mut self, moment: Duration) {
        let mut due = Vec::new();
        {
            let mut timers = self.timeline.lock();
            timers.now = timers.now.max(moment);
            while let Some(key) = timers.waiting.first_key_value().map(|(key, _)| *key)
                && key.0 <= timers.now
            {
                due.extend(timers.end(key));
            }
        }
        for waker in due {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Runs all tasks; returns which ended, and when.
    fn run(executor: &mut Executor<&'static str>) -> Vec<(u64, &'static str)> {
        let mut ended = Vec::new();
        loop {
            while let Some((_, polled)) = executor.poll_next() {
                if let Polled::Ended(name) = polled {
                    ended.push((executor.timeline.now().as_secs(), name));
                }
            }
            let Some(next) = executor.next_timer() else {
                return ended;
            };
            executor.advance_to(next);
        }
    }

    #[test]
    fn tasks_run_in_the_order_of_their_timers_and_the_clock_jumps() {
        let timeline = Timeline::default();
        let mut executor = Executor::new(timeline.clone());
        for (name, waits) in [("c", [50, 50]), ("a", [1, 2]), ("b", [2, 1])] {
            let timeline = timeline.clone();
            executor.spawn(async move {
                for wait in waits {
                    timeline.sleep(seconds(wait)).await;
                }
                name
            });
        }
        assert_eq!(run(&mut executor), [(3, "a"), (3, "b"), (100, "c")]);
    }

    #[test]
    fn a_killed_task_and_its_timers_are_gone() {
        let timeline = Timeline::default();
        let mut executor = Executor::new(timeline.clone());
        let sleep = timeline.sleep(seconds(5));
        let task = executor.spawn(async move {
            sleep.await;
            "killed"
        });
        assert_eq!(executor.poll_next(), Some((task, Polled::Waits)));
        assert_eq!(executor.next_timer(), Some(seconds(5)));
        executor.kill(task);
        assert_eq!(executor.next_timer(), None);
        assert_eq!(run(&mut executor), []);
    }

    #[test]
    fn a_wait_that_no_timer_ends_is_reported() {
        let timeline = Timeline::default();
        let mut executor = Executor::new(timeline.clone());
        let task = executor.spawn(async move {
            timeline.sleep(seconds(1)).await;
            std::future::pending::<&str>().await
        });
        assert_eq!(executor.poll_next(), Some((task, Polled::Waits)));
        executor.advance_to(seconds(1));
        assert_eq!(executor.poll_next(), Some((task, Polled::WaitsForEver)));
    }

    #[test]
    fn a_sleep_that_was_dropped_wakes_nobody() {
        let timeline = Timeline::default();
        let mut executor = Executor::new(timeline.clone());
        executor.spawn(async move {
            let long = timeline.sleep(seconds(9));
            let short = timeline.sleep(seconds(1));
            futures::pin_mut!(long, short);
            futures::future::select(long, short).await;
            "short"
        });
        assert_eq!(run(&mut executor), [(1, "short")]);
    }
}
