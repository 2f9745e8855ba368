//! Session tokens of the metadata service, version 2.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Longest life of a token, six hours, as in EC2.
pub const MAX_TTL: u64 = 21_600;

/// The issued tokens, each valid for one instance until it expires.
#[derive(Debug, Default)]
pub struct Tokens {
    issued: HashMap<String, (String, Instant)>,
    count: u64,
}

impl Tokens {
    /// Issues a token for an instance, valid for `ttl` seconds after `now`.
    pub fn issue(&mut self, instance: &str, ttl: u64, now: Instant) -> String {
        self.issued.retain(|_, (_, expires)| *expires > now);
        self.count += 1;
        // The token protects nothing here; it only has to be unique and opaque.
        let seed = format!("{instance} {} {now:?} {}", self.count, std::process::id());
        let token: String = Sha256::digest(seed)
            .iter()
            .fold(String::new(), |mut text, byte| {
                use std::fmt::Write;
                let _ = write!(text, "{byte:02x}");
                text
            });
        self.issued.insert(
            token.clone(),
            (instance.to_owned(), now + Duration::from_secs(ttl)),
        );
        token
    }

    /// Whether the token was issued to this instance and has not expired.
    pub fn is_valid(&self, token: &str, instance: &str, now: Instant) -> bool {
        self.issued
            .get(token)
            .is_some_and(|(owner, expires)| owner == instance && *expires > now)
    }
}

/// Parses the header `X-aws-ec2-metadata-token-ttl-seconds`: 1 to [`MAX_TTL`].
pub fn parse_ttl(header: Option<&str>) -> Option<u64> {
    header?
        .trim()
        .parse()
        .ok()
        .filter(|ttl| (1..=MAX_TTL).contains(ttl))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_expires_and_is_good_for_its_instance_only() {
        let mut tokens = Tokens::default();
        let start = Instant::now();
        let token = tokens.issue("i-1", 60, start);
        assert!(tokens.is_valid(&token, "i-1", start + Duration::from_secs(59)));
        assert!(!tokens.is_valid(&token, "i-1", start + Duration::from_mins(1)));
        assert!(!tokens.is_valid(&token, "i-2", start));
        assert!(!tokens.is_valid("made-up", "i-1", start));
        assert_ne!(token, tokens.issue("i-1", 60, start));
    }

    #[test]
    fn a_ttl_is_a_number_of_seconds_up_to_six_hours() {
        assert_eq!(parse_ttl(Some("21600")), Some(21_600));
        for bad in [
            None,
            Some("0"),
            Some("21601"),
            Some("-1"),
            Some("an hour"),
            Some(""),
        ] {
            assert_eq!(parse_ttl(bad), None, "{bad:?}");
        }
    }
}
