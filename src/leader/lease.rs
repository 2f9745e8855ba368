//! Who leads: a Lease of the Kubernetes API, measured by the clocks of the instances.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    error::Result,
    ports::{ObjectRef, World},
};

/// How long the leader leads without renewing, in seconds.
pub const LEASE: i32 = 60;

/// How often a lost race for the Lease is looked at again.
const LOOKS: usize = 4;

/// What to do about the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Nobody leads: try to.
    Acquire,
    /// We lead: say that we still do.
    Renew,
    /// Someone else leads.
    Follow(String),
}

/// The part of a Lease that the turn depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    holder: String,
    until: Timestamp,
}

/// Who leads, as far as we are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// This instance, for the next [`LEASE`] seconds.
    Me,
    /// The one of this name, or one that was faster just now.
    Other(String),
}

/// Whose turn it is. Clocks of a cluster's instances agree to a second or two on EC2; a lease
/// is measured by them.
pub fn turn(lease: Option<&Value>, now: Timestamp, me: &str) -> Turn {
    match lease.and_then(held) {
        Some(held) if held.holder == me => Turn::Renew,
        Some(held) if now < held.until => Turn::Follow(held.holder),
        _ => Turn::Acquire,
    }
}

/// None for a Lease that nobody holds or that cannot be read: such a one is free.
fn held(lease: &Value) -> Option<Held> {
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().filter(|h| !h.is_empty())?;
    let renewed: Timestamp = spec["renewTime"].as_str()?.parse().ok()?;
    let seconds = spec["leaseDurationSeconds"].as_i64()?;
    Some(Held {
        holder: holder.to_owned(),
        until: renewed
            .checked_add(std::time::Duration::from_secs(u64::try_from(seconds).ok()?))
            .ok()?,
    })
}

/// Takes the turn; the API server lets one writer through.
///
/// The duties of one instance renew the same Lease at the same time: who loses such a race
/// looks again, and sees that it leads all the same.
pub async fn lead(world: &World, me: &str) -> Result<Leader> {
    for _ in 0..LOOKS {
        let lease = world.cluster.get(&reference()).await?;
        let now = world.clock.now();
        let acquired = match turn(lease.as_ref(), now, me) {
            Turn::Follow(leader) => return Ok(Leader::Other(leader)),
            Turn::Acquire => true,
            Turn::Renew => false,
        };
        let wanted = written(lease.as_ref(), now, me, acquired);
        if world.cluster.compare_and_set(&wanted).await? {
            return Ok(Leader::Me);
        }
    }
    Ok(Leader::Other("another control plane".to_owned()))
}

fn reference() -> ObjectRef {
    ObjectRef {
        api_version: "coordination.k8s.io/v1".to_owned(),
        kind: "Lease".to_owned(),
        namespace: Some("kube-system".to_owned()),
        name: "k8s-bootstrap-leader".to_owned(),
    }
}

fn written(lease: Option<&Value>, now: Timestamp, me: &str, acquired: bool) -> Value {
    let time = json!(format!("{now:.6}"));
    let before = lease.map(|lease| &lease["spec"]);
    let transitions = before.and_then(|spec| spec["leaseTransitions"].as_i64());
    let mut wanted = reference().skeleton();
    if let Some(lease) = lease {
        wanted["metadata"]["resourceVersion"] = lease["metadata"]["resourceVersion"].clone();
    }
    wanted["spec"] = json!({
        "holderIdentity": me,
        "leaseDurationSeconds": LEASE,
        "renewTime": time,
        "acquireTime": before.map(|spec| &spec["acquireTime"]).filter(|_| !acquired).unwrap_or(&time),
        "leaseTransitions": match transitions {
            Some(count) => count + i64::from(acquired),
            None => 0,
        },
    });
    wanted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::FakeWorld;

    fn lease(holder: &str, renewed: &str) -> Value {
        json!({"metadata": {"resourceVersion": "7"}, "spec": {
            "holderIdentity": holder, "renewTime": renewed, "acquireTime": "2026-11-23T11:00:00.000000Z",
            "leaseDurationSeconds": 60, "leaseTransitions": 3,
        }})
    }

    #[test]
    fn the_table_of_turns() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let other = || Turn::Follow("i-2".to_owned());
        let released = lease("", "2026-11-23T11:59:59.000000Z");
        let mut endless = lease("i-2", "2026-11-23T11:59:59.000000Z");
        endless["spec"]["leaseDurationSeconds"] = json!(-1);
        for (case, lease, expected) in [
            ("nobody ever led", None, Turn::Acquire),
            (
                "ours",
                Some(lease("i-1", "2026-11-23T11:59:30.000000Z")),
                Turn::Renew,
            ),
            (
                "ours, and run out",
                Some(lease("i-1", "2026-11-23T10:00:00.000000Z")),
                Turn::Renew,
            ),
            (
                "just renewed",
                Some(lease("i-2", "2026-11-23T12:00:00.000000Z")),
                other(),
            ),
            (
                "its last second",
                Some(lease("i-2", "2026-11-23T11:59:00.000001Z")),
                other(),
            ),
            (
                "run out",
                Some(lease("i-2", "2026-11-23T11:59:00.000000Z")),
                Turn::Acquire,
            ),
            (
                "its clock is ahead",
                Some(lease("i-2", "2026-11-23T12:00:20.000000Z")),
                other(),
            ),
            ("given back", Some(released), Turn::Acquire),
            ("no time in it", Some(lease("i-2", "soon")), Turn::Acquire),
            ("a nonsensical duration", Some(endless), Turn::Acquire),
        ] {
            assert_eq!(turn(lease.as_ref(), now, "i-1"), expected, "{case}");
        }
    }

    #[test]
    fn a_change_of_leaders_is_counted_and_a_renewal_is_not() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let old = lease("i-2", "2026-11-23T11:00:00.000000Z");
        let taken = written(Some(&old), now, "i-1", true);
        assert_eq!(taken["metadata"]["resourceVersion"], "7");
        assert_eq!(taken["spec"]["holderIdentity"], "i-1");
        assert_eq!(taken["spec"]["leaseTransitions"], 4);
        assert_eq!(taken["spec"]["acquireTime"], "2026-11-23T12:00:00.000000Z");
        let renewed = written(
            Some(&taken),
            now + std::time::Duration::from_secs(30),
            "i-1",
            false,
        );
        assert_eq!(renewed["spec"]["leaseTransitions"], 4);
        assert_eq!(
            renewed["spec"]["acquireTime"],
            "2026-11-23T12:00:00.000000Z"
        );
        assert_eq!(renewed["spec"]["renewTime"], "2026-11-23T12:00:30.000000Z");
        let first = written(None, now, "i-1", true);
        assert_eq!(first["spec"]["leaseTransitions"], 0);
        assert!(first["metadata"].get("resourceVersion").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_loses_a_race_looks_again_and_sees_who_leads() {
        let fake = FakeWorld::new();
        let now = fake.ports().clock.now();
        let renewed = |holder: &str| lease(holder, &format!("{now:.6}"));
        let race = async |rival: &str| {
            let mut lease = renewed(rival);
            for (key, value) in [
                ("name", "k8s-bootstrap-leader"),
                ("namespace", "kube-system"),
            ] {
                lease["metadata"][key] = value.into();
            }
            lease["metadata"]["resourceVersion"] = 7.into();
            lease["kind"] = "Lease".into();
            fake.cluster.meanwhile(lease);
            lead(&fake.ports(), "i-1").await.unwrap()
        };
        assert_eq!(race("i-1").await, Leader::Me);
        assert_eq!(race("i-2").await, Leader::Other("i-2".to_owned()));
    }
}
