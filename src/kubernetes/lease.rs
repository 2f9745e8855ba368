//! One instance at a time: a Lease of the Kubernetes API.
//!
//! As in client-go, clocks of different machines are not compared: a Lease has expired when this
//! process has seen it unchanged for its whole duration. A process that first sees another holder's
//! Lease therefore waits for that whole duration, however old the Lease is.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    ports::{LeaseState, ObjectRef, World},
};

/// How often taking or releasing a Lease is tried when other writers interfere.
const LOOKS: usize = 4;

/// A lock for what one instance at a time may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The Lease's name in kube-system.
    pub name: &'static str,
    /// How long it is valid without renewal.
    pub seconds: i32,
}

/// Held by the control plane that runs the leader tasks.
pub const LEADER: Lease = Lease {
    name: "k8s-bootstrap-leader",
    seconds: 60,
};

/// Held by the control plane that joins. Longer than a join may take, but short enough that a join
/// that stopped halfway does not block the others for long.
pub const JOIN_LOCK: Lease = Lease {
    name: "k8s-bootstrap-join",
    seconds: 600,
};

/// Held by the control plane that renews its certificates; longer than a renewal may take.
pub const RENEWAL_LOCK: Lease = Lease {
    name: "k8s-bootstrap-certificates",
    seconds: 600,
};

/// Who holds a Lease, as this instance sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// This instance, for the Lease's duration from now.
    Me,
    /// The instance of this name, or one that was just faster.
    Other(String),
}

/// What to do about a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    /// Nobody holds it: try to take it.
    Acquire,
    /// We hold it: renew it.
    Renew,
    /// Someone else holds it.
    Follow(String),
}

impl Lease {
    /// Takes or renews it; of concurrent writers the API server accepts one.
    ///
    /// Several tasks of one instance renew the same Lease at the same time: one that loses such a
    /// race reads it again, and sees that the instance holds it anyway.
    pub async fn take(&self, world: &World, me: &str) -> Result<Holder> {
        for _ in 0..LOOKS {
            let lease = world.cluster.get(&self.reference()).await?;
            let held = lease.as_ref().and_then(held);
            let acquired = match next_act(held.as_ref(), self.unchanged(world, held.as_ref()), me) {
                Act::Follow(holder) => return Ok(Holder::Other(holder)),
                Act::Acquire => true,
                Act::Renew => false,
            };
            let wanted = self.written(lease.as_ref(), world.clock.now(), me, acquired);
            if world.cluster.compare_and_set(&wanted).await? {
                // Other callers in this process count from now, not from their own first read.
                self.unchanged(world, self::held(&wanted).as_ref());
                return Ok(Holder::Me);
            }
        }
        Ok(Holder::Other("another control plane".to_owned()))
    }

    /// Releases it if `me` holds it, so that the next holder need not wait until it expires.
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
            "the Lease {} changes too often to be released",
            self.name
        )))
    }

    /// For how long this process has seen the Lease unchanged.
    fn unchanged(&self, world: &World, held: Option<&LeaseState>) -> Duration {
        held.map_or(Duration::ZERO, |held| {
            let now = world.clock.elapsed();
            world.leases.unchanged_for(self.name, held, now)
        })
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

/// What to do, given who holds the Lease and for how long it has not changed.
fn next_act(held: Option<&LeaseState>, unchanged: Duration, me: &str) -> Act {
    match held {
        Some(held) if held.holder == me => Act::Renew,
        Some(held) if unchanged < held.duration => Act::Follow(held.holder.clone()),
        _ => Act::Acquire,
    }
}

/// `None` for a Lease without a holder or a duration: it is free.
fn held(lease: &Value) -> Option<LeaseState> {
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().filter(|h| !h.is_empty())?;
    let seconds = spec["leaseDurationSeconds"].as_i64()?;
    Some(LeaseState {
        holder: holder.to_owned(),
        renewed: spec["renewTime"].as_str().unwrap_or_default().to_owned(),
        duration: Duration::from_secs(u64::try_from(seconds).ok()?),
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

    const RENEWED: &str = "2026-11-23T12:00:00.000000Z";

    fn lease(holder: &str, renewed: &str) -> Value {
        json!({"metadata": {"resourceVersion": "7"}, "spec": {
            "holderIdentity": holder, "renewTime": renewed, "acquireTime": "2026-11-23T11:00:00.000000Z",
            "leaseDurationSeconds": 60, "leaseTransitions": 3,
        }})
    }

    #[test]
    fn the_lease_is_taken_renewed_or_followed() {
        let other = || Act::Follow("i-2".to_owned());
        let with = |duration: Value| {
            let mut lease = lease("i-2", RENEWED);
            lease["spec"]["leaseDurationSeconds"] = duration;
            Some(lease)
        };
        for (case, lease, unchanged, expected) in [
            ("never held", None, 0, Act::Acquire),
            ("ours", Some(lease("i-1", RENEWED)), 30, Act::Renew),
            (
                "ours, and expired",
                Some(lease("i-1", RENEWED)),
                6000,
                Act::Renew,
            ),
            ("the first look", Some(lease("i-2", RENEWED)), 0, other()),
            ("its last second", Some(lease("i-2", RENEWED)), 59, other()),
            ("expired", Some(lease("i-2", RENEWED)), 60, Act::Acquire),
            ("released", Some(lease("", RENEWED)), 0, Act::Acquire),
            ("no time in it", Some(lease("i-2", "soon")), 0, other()),
            ("no duration", with(Value::Null), 0, Act::Acquire),
            ("a nonsensical duration", with(json!(-1)), 0, Act::Acquire),
        ] {
            let held = lease.as_ref().and_then(held);
            let unchanged = Duration::from_secs(unchanged);
            assert_eq!(
                next_act(held.as_ref(), unchanged, "i-1"),
                expected,
                "{case}"
            );
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
        let renewed = LEASE.written(Some(&taken), now + Duration::from_secs(30), "i-1", false);
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
    async fn the_loser_of_a_race_reads_the_lease_again_and_sees_who_leads() {
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
    async fn a_released_lease_is_free_at_once_and_only_its_holder_releases_it() {
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

    /// `i-2` holds it; returns after how many seconds `i-1` gets it, asking every ten seconds.
    async fn taken_after(fake: &FakeWorld, mut each: impl FnMut(u64)) -> u64 {
        let world = fake.ports();
        loop {
            let passed = world.clock.elapsed().as_secs();
            each(passed);
            if LEASE.take(&world, "i-1").await.unwrap() == Holder::Me {
                return passed;
            }
            world.clock.sleep(Duration::from_secs(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_expires_by_observation_and_not_by_its_timestamps() {
        // The holder's clock is a day ahead or behind: that does not matter.
        for renewed in ["2026-11-22T12:00:00.000000Z", "2026-11-24T12:00:00.000000Z"] {
            let fake = FakeWorld::new();
            let mut foreign = lease("i-2", renewed);
            foreign["kind"] = "Lease".into();
            foreign["metadata"] =
                json!({"name": "test", "namespace": "kube-system", "resourceVersion": 7});
            fake.cluster.put(foreign);
            assert_eq!(taken_after(&fake, |_| {}).await, 60, "{renewed}");
        }
        // Nor does it matter if somebody sets our clock.
        for hours in [-9, 9] {
            let fake = FakeWorld::new();
            LEASE.take(&fake.ports(), "i-2").await.unwrap();
            let set = |passed| {
                if passed == 20 {
                    fake.clock.step(jiff::SignedDuration::from_hours(hours));
                }
            };
            assert_eq!(taken_after(&fake, set).await, 60, "{hours} h");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_is_never_taken() {
        let fake = FakeWorld::new();
        let world = fake.ports();
        for _ in 0..9 {
            LEASE.take(&world, "i-2").await.unwrap();
            world.clock.sleep(Duration::from_secs(50)).await;
            let other = Holder::Other("i-2".to_owned());
            assert_eq!(LEASE.take(&world, "i-1").await.unwrap(), other);
        }
    }
}
