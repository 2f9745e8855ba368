//! Which certificates are due for renewal, and why. Pure.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    Inventory, Keeper,
    inventory::{Certificate, SOURCES},
};
use crate::error::{Error, Result};

/// How long before a CA's end the warning starts.
const WARNING: Duration = Duration::from_hours(365 * 24);

/// Why a certificate is due for renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A third of its lifetime or less is left.
    Third,
    /// It has expired.
    Over,
    /// It is not valid yet: it was made while the clock was ahead.
    Early,
    /// It is incomplete, or its key belongs to another certificate.
    Broken,
}

impl Why {
    /// Whether no peer accepts it in this state.
    pub fn is_useless(self) -> bool {
        self != Self::Third
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Third => "has a third of its lifetime left or less",
            Self::Over => "has expired",
            Self::Early => "is not valid yet",
            Self::Broken => "is incomplete",
        })
    }
}

/// What a control plane's agent has to renew now, in the order of [`SOURCES`].
///
/// `lifetime` is the lifetime of a new certificate. An error if a new one would be no better: the
/// clock is wrong, or the CA has expired.
pub fn due(
    inventory: &Inventory,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Vec<(&'static str, Why)>> {
    let mut due = Vec::new();
    for source in SOURCES.iter().filter(|s| s.keeper == Keeper::Agent) {
        let why = if inventory.broken.contains(&source.name) {
            Some(Why::Broken)
        } else {
            let certificate = inventory.get(source.name);
            certificate.and_then(|c| why(c, lifetime, now))
        };
        let Some(why) = why else { continue };
        let authority = source.issued_by.and_then(|name| inventory.get(name));
        let Some(authority) = authority else { continue };
        can_sign(authority, now)?;
        let ends_with_it = inventory
            .get(source.name)
            .is_some_and(|c| c.not_after >= authority.not_after);
        if why.is_useless() || !ends_with_it {
            due.push((source.name, why));
        }
    }
    Ok(due)
}

/// Why a certificate is due: not valid now, or at most a third of its lifetime is left.
pub fn why(certificate: &Certificate, lifetime: Duration, now: Timestamp) -> Option<Why> {
    if now < certificate.not_before {
        return Some(Why::Early);
    }
    if now >= certificate.not_after {
        return Some(Why::Over);
    }
    let lived = certificate.not_after.duration_since(certificate.not_before);
    let configured = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX);
    let left = certificate.not_after.duration_since(now);
    (left <= lived.min(configured) / 3).then_some(Why::Third)
}

/// Refuses to sign if the clock is wrong or the authority has expired.
pub fn can_sign(authority: &Certificate, now: Timestamp) -> Result<()> {
    let name = authority.name;
    if now < authority.not_before {
        return Err(Error::failed(format!(
            "certificates cannot be renewed: this machine's clock shows {now:.0}, before {name} was issued ({})",
            authority.not_before
        ))
        .hint("the clock is wrong: `timedatectl`, `chronyc tracking`"));
    }
    if now >= authority.not_after {
        return Err(Error::refused(format!(
            "certificates cannot be renewed: {name} expired at {}",
            authority.not_after
        ))
        .hint("renew the CA: docs/operations.md, \"Renewing the CA\""));
    }
    Ok(())
}

/// What a person must know about the authorities, a year ahead.
pub fn ending_authorities(inventory: &Inventory, now: Timestamp) -> Vec<String> {
    let authorities = inventory.certificates.iter().filter(|c| c.authority);
    authorities
        .filter_map(|authority| {
            let lived = authority.not_after.duration_since(authority.not_before);
            let ahead = SignedDuration::try_from(WARNING)
                .unwrap_or(SignedDuration::MAX)
                .min(lived / 3);
            let left = authority.not_after.duration_since(now);
            (left <= ahead).then(|| {
                let (name, end) = (authority.name, authority.not_after);
                if left.is_negative() {
                    format!("the certificate authority {name} expired at {end}: nothing that it signed is accepted")
                } else {
                    format!(
                        "the certificate authority {name} expires at {end}, in {} days: renew it before then",
                        left.as_hours() / 24
                    )
                }
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{certificates::Source, error::Kind, testing::Pki};

    const YEAR: Duration = Duration::from_hours(365 * 24);

    fn inventory() -> Inventory {
        let pki = Pki::between("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        Inventory::of(&pki.on_disk())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn one(inventory: &Inventory, lifetime: Duration, now: &str) -> Option<Why> {
        why(inventory.get("apiserver").unwrap(), lifetime, at(now))
    }

    #[test]
    fn the_table_of_times() {
        let inventory = inventory();
        let short = Duration::from_mins(10);
        for (case, lifetime, now, expected) in [
            ("new", YEAR, "2026-01-01T00:00:00Z", None),
            (
                "two thirds minus a second",
                YEAR,
                "2026-09-01T07:59:59Z",
                None,
            ),
            ("two thirds", YEAR, "2026-09-01T08:00:00Z", Some(Why::Third)),
            (
                "the last second",
                YEAR,
                "2026-12-31T23:59:59Z",
                Some(Why::Third),
            ),
            ("the end", YEAR, "2027-01-01T00:00:00Z", Some(Why::Over)),
            (
                "a clock that was ahead",
                YEAR,
                "2025-12-31T23:59:59Z",
                Some(Why::Early),
            ),
            // A certificate made before the setting was lowered stays until its own end is near.
            ("longer than wanted", short, "2026-12-31T23:00:00Z", None),
            (
                "longer than wanted, near its end",
                short,
                "2026-12-31T23:57:00Z",
                Some(Why::Third),
            ),
            (
                "shorter than wanted",
                YEAR * 5,
                "2026-09-01T07:59:59Z",
                None,
            ),
        ] {
            assert_eq!(one(&inventory, lifetime, now), expected, "{case}");
        }
    }

    #[test]
    fn kubeadms_certificates_are_due_but_no_authority_and_no_kubelets() {
        let due = due(&inventory(), YEAR, at("2026-12-01T00:00:00Z")).unwrap();
        let names: Vec<&str> = due.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), 10);
        let agents = |name: &&str| Source::of(name).unwrap().keeper == Keeper::Agent;
        assert!(names.iter().all(agents), "{names:?}");
        assert!(due.iter().all(|(_, why)| *why == Why::Third));
    }

    #[test]
    fn a_broken_certificate_is_due_at_any_time() {
        let mut inventory = inventory();
        inventory
            .certificates
            .retain(|c| c.name != "scheduler.conf");
        inventory.broken.push("scheduler.conf");
        let due = due(&inventory, YEAR, at("2026-01-02T00:00:00Z")).unwrap();
        assert_eq!(due, [("scheduler.conf", Why::Broken)]);
    }

    #[test]
    fn nothing_is_renewed_with_a_wrong_clock_or_an_expired_authority() {
        let before = due(&inventory(), YEAR, at("1970-01-01T00:00:10Z")).unwrap_err();
        assert_eq!(before.kind(), Kind::Failed);
        assert!(
            before.one_line().contains("before etcd-ca was issued"),
            "{before}"
        );
        let after = due(&inventory(), YEAR, at("2050-01-01T00:00:00Z")).unwrap_err();
        assert_eq!(after.kind(), Kind::Refused);
        assert!(after.one_line().contains("etcd-ca expired"), "{after}");
    }

    #[test]
    fn a_leaf_that_expires_with_its_authority_is_not_renewed() {
        let mut inventory = inventory();
        let end = inventory.get("apiserver").unwrap().not_after;
        for certificate in &mut inventory.certificates {
            if certificate.authority {
                certificate.not_after = end;
            }
        }
        let due = due(&inventory, YEAR, at("2026-12-01T00:00:00Z")).unwrap();
        assert!(due.is_empty(), "{due:?}");
    }

    #[test]
    fn the_expiry_of_an_authority_is_announced_a_year_ahead() {
        let inventory = inventory();
        // The tests' authorities end in 2036.
        assert!(ending_authorities(&inventory, at("2034-12-30T00:00:00Z")).is_empty());
        let said = ending_authorities(&inventory, at("2035-01-02T00:00:00Z"));
        assert_eq!(said.len(), 3);
        assert_eq!(
            said[0],
            "the certificate authority ca expires at 2036-01-01T00:00:00Z, in 364 days: renew it before then"
        );
        let said = ending_authorities(&inventory, at("2036-01-02T00:00:00Z"));
        assert!(said[0].contains("expired at"), "{}", said[0]);
    }
}
