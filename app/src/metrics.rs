//! The metrics of `/metrics`, in Prometheus' text format.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::ledger::{Link, State};

/// The process's metrics.
pub struct Metrics {
    registry: Registry,
    answered: Counter,
    uncounted: Counter,
    counted: Counter,
    batches: Histogram,
    failures: Counter,
    kept: Gauge,
    up: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            answered: Counter::default(),
            uncounted: Counter::default(),
            counted: Counter::default(),
            batches: Histogram::new([1.0, 2.0, 4.0, 16.0, 64.0, 256.0, 1024.0]),
            failures: Counter::default(),
            kept: Gauge::default(),
            up: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "visits_pages",
            "Index pages answered",
            metrics.answered.clone(),
        );
        registry.register(
            "visits_pages_uncounted",
            "Index pages answered without a number, because Redis did not answer",
            metrics.uncounted.clone(),
        );
        registry.register(
            "visits_counted",
            "Visits of this process that Redis has counted",
            metrics.counted.clone(),
        );
        registry.register(
            "visits_batch_size",
            "Visits added to Redis by one round trip",
            metrics.batches.clone(),
        );
        registry.register(
            "visits_redis_failures",
            "Calls and connections to Redis that failed",
            metrics.failures.clone(),
        );
        registry.register(
            "visits_kept",
            "Visits in memory that wait for Redis",
            metrics.kept.clone(),
        );
        registry.register(
            "visits_redis_up",
            "1 while Redis answers",
            metrics.up.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// An index page was served, with or without a number.
    pub fn answered(&self, with_number: bool) {
        self.answered.inc();
        if !with_number {
            self.uncounted.inc();
        }
    }

    /// Redis has added a batch with this many visits.
    #[allow(
        clippy::cast_precision_loss,
        reason = "a batch has far fewer than 2^52 visits"
    )]
    pub fn counted(&self, visits: u64) {
        self.counted.inc_by(visits);
        self.batches.observe(visits as f64);
    }

    /// A call to Redis failed.
    pub fn lost(&self) {
        self.failures.inc();
    }

    /// The metrics as text.
    ///
    /// # Errors Only if writing to a `String` fails, which never happens.
    pub fn text(&self, state: &State) -> Result<String, fmt::Error> {
        self.kept.set(i64::try_from(state.kept).unwrap_or(i64::MAX));
        self.up.set(i64::from(state.link == Link::Up));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
