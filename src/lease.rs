//! One instance at a time: a Lease of the Kubernetes API, measured by the clocks of the instances.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    ports::{ObjectRef, World},
};

/// How often a lost race for a Lease is looked at again.
const LOOKS: usize = 4;

/// What one instance at a time may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The Lease's name in kube-system.
    pub name: &'static str,
    /// How long it holds without being renewed.
    pub seconds: i32,
}

/// Who holds a Lease, as far as we are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// This instance, for the Lease's time from now.
    Me,
    /// The one of this name, or one that was faster just now.
    Other(String),
}

/// What to do about a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Turn {
    /// Nobody holds it: try to.
    Acquire,
    /// We hold it: say that we still do.
    Renew,
    /// Someone else holds it.
    Follow(String),
}

/// The part of a Lease that the turn depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    holder: String,
    until: Timestamp,
}

impl Lease {
    /// Takes it or renews it; the API server lets one writer through.
    ///
    /// The duties of one instance renew the same Lease at the same time: who loses such a race
    /// looks again, and sees that it holds it all the same.
    pub async fn take(&self, world: &World, me: &str) -> Result<Holder> {
        for _ in 0..LOOKS {
            let lease = world.cluster.get(&self.reference()).await?;
            let now = world.clock.now();
            let acquired = match turn(lease.as_ref(), now, me) {
                Turn::Follow(holder) => return Ok(Holder::Other(holder)),
                Turn::Acquire => true,
                Turn::Renew => false,
            };
            let wanted = self.written(lease.as_ref(), now, me, acquired);
            if world.cluster.compare_and_set(&wanted).await? {
                return Ok(Holder::Me);
            }
        }
        Ok(Holder::Other("another control plane".to_owned()))
    }

    /// Gives it back if this one holds it, so that the next need not wait until it runs out.
    pub async fn release(&self, world: &World, me: &str) -> Result<()> {
        for _ in 0..LOOKS {
            let Some(lease) = world.cluster.get(&self.reference()).await? else {
                return Ok(());
            };
            if held(&lease).is_none_or(|held| held.holder != me) {
                return Ok(());
            }
            let wanted = self.written(Some(&lease), world.clock.now(), "", false);
            if world.cluster.compare_and_set(&wanted).await? {
                return Ok(());
            }
        }
        Err(Error::failed(format!(
            "the Lease {} changes too fast to be given back",
            self.name
        )))
    }

    fn reference(&self) -> ObjectRef {
        ObjectRef {
            api_version: "coordination.k8s.io/v1".to_owned(),
            kind: "Lease".to_owned(),
            namespace: Some("kube-system".to_owned()),
            name: self.name.to_owned(),
        }
    }

    fn written(
        &self,
        lease: Option<&Value>,
        now: Timestamp,
        holder: &str,
        acquired: bool,
    ) -> Value {
        let time = json!(format!("{now:.6}"));
        let before = lease.map(|lease| &lease["spec"]);
        let transitions = before.and_then(|spec| spec["leaseTransitions"].as_i64());
        let mut wanted = self.reference().skeleton();
        if let Some(lease) = lease {
            wanted["metadata"]["resourceVersion"] = lease["metadata"]["resourceVersion"].clone();
        }
        wanted["spec"] = json!({
            "holderIdentity": holder,
            "leaseDurationSeconds": self.seconds,
            "renewTime": time,
            "acquireTime": before.map(|spec| &spec["acquireTime"]).filter(|_| !acquired).unwrap_or(&time),
            "leaseTransitions": match transitions {
                Some(count) => count + i64::from(acquired),
                None => 0,
            },
        });
        wanted
    }
}

/// Whose turn it is. Clocks of a cluster's instances agree to a second or two on EC2; a Lease
/// is measured by them.
fn turn(lease: Option<&Value>, now: Timestamp, me: &str) -> Turn {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::FakeWorld;

    const LEASE: Lease = Lease {
        name: "test",
        seconds: 60,
    };

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
        let taken = LEASE.written(Some(&old), now, "i-1", true);
        assert_eq!(taken["metadata"]["resourceVersion"], "7");
        assert_eq!(taken["spec"]["holderIdentity"], "i-1");
        assert_eq!(taken["spec"]["leaseTransitions"], 4);
        assert_eq!(taken["spec"]["acquireTime"], "2026-11-23T12:00:00.000000Z");
        let renewed = LEASE.written(
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
        let first = LEASE.written(None, now, "i-1", true);
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
            for (key, value) in [("name", "test"), ("namespace", "kube-system")] {
                lease["metadata"][key] = value.into();
            }
            lease["metadata"]["resourceVersion"] = 7.into();
            lease["kind"] = "Lease".into();
            fake.cluster.meanwhile(lease);
            LEASE.take(&fake.ports(), "i-1").await.unwrap()
        };
        assert_eq!(race("i-1").await, Holder::Me);
        assert_eq!(race("i-2").await, Holder::Other("i-2".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_is_free_at_once_and_only_its_holder_gives_it_back() {
        let fake = FakeWorld::new();
        let world = fake.ports();
        LEASE.release(&world, "i-1").await.unwrap();
        assert_eq!(LEASE.take(&world, "i-1").await.unwrap(), Holder::Me);
        LEASE.release(&world, "i-2").await.unwrap();
        let other = Holder::Other("i-1".to_owned());
        assert_eq!(LEASE.take(&world, "i-2").await.unwrap(), other);
        LEASE.release(&world, "i-1").await.unwrap();
        assert_eq!(LEASE.take(&world, "i-2").await.unwrap(), Holder::Me);
    }
}
