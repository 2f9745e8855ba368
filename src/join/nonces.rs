//! Nonces: each valid once, for a minute, for the address that requested it.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::Refusal;

/// How long a nonce is valid: a joiner signs and answers within a second.
pub const TTL: Duration = Duration::from_mins(1);

/// The most nonces at a time.
pub const CAPACITY: usize = 4096;

/// The most at a time for one address, so that no address fills the table.
pub const PER_SOURCE: usize = 8;

/// The outstanding nonces.
#[derive(Debug, Default)]
pub struct Nonces(BTreeMap<String, Nonce>);

#[derive(Debug)]
struct Nonce {
    source: IpAddr,
    expires: Duration,
}

impl Nonces {
    /// Issues a nonce, which the caller has drawn at random, to an address. `now` comes from the
    /// monotonic clock.
    pub fn issue(&mut self, nonce: String, source: IpAddr, now: Duration) -> Result<(), Refusal> {
        let held = |table: &Self| table.0.values().filter(|n| n.source == source).count();
        if self.0.len() >= CAPACITY || held(self) >= PER_SOURCE {
            self.0.retain(|_, nonce| now < nonce.expires);
        }
        if held(self) >= PER_SOURCE {
            return Err(Refusal::busy("too many unused nonces for this address"));
        }
        if self.0.len() >= CAPACITY {
            return Err(Refusal::busy("too many unused nonces"));
        }
        let expires = now + TTL;
        self.0.insert(nonce, Nonce { source, expires });
        Ok(())
    }

    /// Redeems a nonce. It is removed even if it has expired, but not if another address has it.
    pub fn redeem(&mut self, nonce: &str, source: IpAddr, now: Duration) -> Result<(), Refusal> {
        let Some(there) = self.0.get(nonce) else {
            return Err(Refusal::denied(
                "the nonce is unknown here or was used before",
            ));
        };
        if there.source != source {
            return Err(Refusal::denied("the nonce was issued to another address"));
        }
        let expires = there.expires;
        self.0.remove(nonce);
        if expires <= now {
            return Err(Refusal::denied("the nonce has expired"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000_000 + seconds)
    }

    fn source(last: u8) -> IpAddr {
        [10, 42, 0, last].into()
    }

    #[test]
    fn a_nonce_is_valid_once_for_its_source_and_for_a_minute() {
        let mut nonces = Nonces::default();
        for (nonce, issued) in [("a", 0), ("b", 0), ("c", 1)] {
            nonces.issue(nonce.into(), source(1), at(issued)).unwrap();
        }
        let reason = |nonces: &mut Nonces, nonce: &str, from: u8, when: u64| {
            let redeemed = nonces.redeem(nonce, source(from), at(when));
            redeemed.map_err(|refusal| refusal.reason)
        };
        let other = reason(&mut nonces, "a", 2, 1).unwrap_err();
        assert!(other.contains("another address"), "{other}");
        assert_eq!(reason(&mut nonces, "a", 1, 59), Ok(()));
        let again = reason(&mut nonces, "a", 1, 59).unwrap_err();
        assert!(again.contains("used before"), "{again}");
        let late = reason(&mut nonces, "b", 1, 60).unwrap_err();
        assert!(late.contains("expired"), "{late}");
        assert_eq!(reason(&mut nonces, "c", 1, 60), Ok(()));
        let never = reason(&mut nonces, "d", 1, 60).unwrap_err();
        assert!(never.contains("unknown"), "{never}");
    }

    #[test]
    fn neither_one_source_nor_all_together_exceed_the_limit_of_nonces() {
        let mut nonces = Nonces::default();
        for n in 0..PER_SOURCE {
            nonces.issue(format!("one-{n}"), source(1), at(0)).unwrap();
        }
        assert_eq!(
            nonces
                .issue("more".into(), source(1), at(59))
                .unwrap_err()
                .status,
            429
        );
        nonces.issue("other".into(), source(2), at(59)).unwrap();
        // A minute later the first ones are gone.
        nonces.issue("later".into(), source(1), at(60)).unwrap();

        for n in 0..CAPACITY {
            let from = IpAddr::from([
                10,
                43,
                u8::try_from(n / 256).unwrap(),
                u8::try_from(n % 256).unwrap(),
            ]);
            let _ = nonces.issue(format!("all-{n}"), from, at(61));
        }
        assert_eq!(nonces.0.len(), CAPACITY);
        let full = nonces.issue("x".into(), source(9), at(62)).unwrap_err();
        assert_eq!(full.reason, "too many unused nonces");
        nonces.issue("x".into(), source(9), at(130)).unwrap();
    }
}
