//! How many connections are allowed, in number and rate: for each address, and in total.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::Refusal;

/// Open connections in total.
pub const OPEN: usize = 256;
/// Open connections from one address.
pub const OPEN_PER_SOURCE: usize = 8;
/// Connections per second: the sustained rate and the burst.
const OVERALL: (f64, f64) = (200.0, 400.0);
/// The same for one address; a join needs two connections.
const PER_SOURCE: (f64, f64) = (1.0, 20.0);
/// Addresses to remember: as many as a VPC of four /20 subnets has.
const SOURCES: usize = 16_384;

/// A token bucket.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    since: Duration,
}

impl Bucket {
    fn take(&mut self, (rate, burst): (f64, f64), now: Duration) -> bool {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(burst);
        self.since = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    fn is_full(&self, (rate, burst): (f64, f64), now: Duration) -> bool {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        self.tokens + passed * rate >= burst
    }
}

#[derive(Debug)]
struct Source {
    bucket: Bucket,
    open: usize,
}

/// The open connections, and what rate each address has left.
#[derive(Debug, Default)]
pub struct Limits {
    sources: BTreeMap<IpAddr, Source>,
    overall: Option<Bucket>,
    open: usize,
}

impl Limits {
    /// Counts a new connection, or refuses it; each one that is counted must be ended with `end`.
    /// `now` comes from the monotonic clock.
    pub fn begin(&mut self, source: IpAddr, now: Duration) -> Result<(), Refusal> {
        if self.open >= OPEN {
            return Err(Refusal::busy("too many connections are open"));
        }
        if self.sources.len() >= SOURCES {
            self.sources
                .retain(|_, s| s.open > 0 || !s.bucket.is_full(PER_SOURCE, now));
            if self.sources.len() >= SOURCES {
                return Err(Refusal::busy("too many addresses make requests"));
            }
        }
        let known = self.sources.entry(source).or_insert_with(|| Source {
            bucket: Bucket {
                tokens: PER_SOURCE.1,
                since: now,
            },
            open: 0,
        });
        if known.open >= OPEN_PER_SOURCE {
            return Err(Refusal::busy("too many connections from this address"));
        }
        if !known.bucket.take(PER_SOURCE, now) {
            return Err(Refusal::busy("this address makes too many requests"));
        }
        let overall = self.overall.get_or_insert(Bucket {
            tokens: OVERALL.1,
            since: now,
        });
        if !overall.take(OVERALL, now) {
            return Err(Refusal::busy(
                "all addresses together make too many requests",
            ));
        }
        known.open += 1;
        self.open += 1;
        Ok(())
    }

    /// Records the end of a connection that was counted.
    pub fn end(&mut self, source: IpAddr) {
        self.open = self.open.saturating_sub(1);
        if let Some(known) = self.sources.get_mut(&source) {
            known.open = known.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000_000 + seconds)
    }

    fn address(n: usize) -> IpAddr {
        [
            10,
            1,
            u8::try_from(n / 256).unwrap(),
            u8::try_from(n % 256).unwrap(),
        ]
        .into()
    }

    #[test]
    fn one_address_may_send_a_burst_and_then_one_request_a_second() {
        let mut limits = Limits::default();
        let mut once = |when| {
            let begun = limits.begin(address(1), at(when));
            if begun.is_ok() {
                limits.end(address(1));
            }
            begun.map_err(|refusal| refusal.reason)
        };
        for _ in 0..20 {
            assert_eq!(once(0), Ok(()));
        }
        let often = Err("this address makes too many requests".to_owned());
        assert_eq!(once(0), often);
        assert_eq!(once(1), Ok(()));
        assert_eq!(once(1), often);
    }

    #[test]
    fn one_address_may_hold_few_connections_and_all_together_more() {
        let mut limits = Limits::default();
        for _ in 0..OPEN_PER_SOURCE {
            limits.begin(address(1), at(0)).unwrap();
        }
        let reason = |refused: Result<(), Refusal>| refused.unwrap_err().reason;
        assert_eq!(
            reason(limits.begin(address(1), at(0))),
            "too many connections from this address"
        );
        for n in OPEN_PER_SOURCE..OPEN {
            limits.begin(address(n), at(0)).unwrap();
        }
        assert_eq!(
            reason(limits.begin(address(999), at(0))),
            "too many connections are open"
        );
        limits.end(address(1));
        limits.begin(address(999), at(0)).unwrap();
    }

    #[test]
    fn all_addresses_together_may_send_a_larger_burst() {
        let mut limits = Limits::default();
        let mut served = 0;
        for n in 0..500 {
            if limits.begin(address(n), at(0)).is_ok() {
                limits.end(address(n));
                served += 1;
            }
        }
        assert_eq!(served, 400);
        limits.begin(address(0), at(1)).unwrap();
    }
}
