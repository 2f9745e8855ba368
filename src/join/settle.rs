//! A cluster of three control planes outlives its founder: before the third is admitted, the store
//! records the cluster as settled.

use std::net::Ipv4Addr;

use crate::{
    error::{Error, Result},
    kubernetes::ca::own_ca_cert_hash,
    observe::{Settled, record},
    ports::{Instance, Member, World},
};

/// Whether etcd can keep a majority without any one of its members after an instance has joined at
/// this address.
pub fn will_outlive_its_founder(members: &[Member], joiner: Option<Ipv4Addr>) -> bool {
    let others = members.iter().filter(|m| Some(m.address) != joiner);
    others.count() >= 2
}

/// Records that in the store if it will be so after this join. `me` is this control plane.
pub async fn before_the_third(world: &World, me: &str, joiner: &Instance) -> Result<()> {
    if !will_outlive_its_founder(&world.etcd.members().await?, joiner.private_ip) {
        return Ok(());
    }
    let own_ca = own_ca_cert_hash(world.host.as_ref()).await?;
    let record = record::read(world.store.as_ref()).await?;
    let cluster = record.cluster().filter(|there| there.ca_hash == own_ca);
    let cluster =
        cluster.ok_or_else(|| Error::failed("the store records no cluster with this CA"))?;
    let settled = Settled {
        cluster_uid: cluster.cluster_uid.clone(),
        instance: me.to_owned(),
        time: world.clock.now(),
    };
    record::settle(world.store.as_ref(), &settled).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        error::Kind,
        testing::{FakeWorld, control_plane, running},
    };

    async fn is_settled(fake: &FakeWorld) -> bool {
        let record = record::read(fake.store.as_ref()).await.unwrap();
        record.settled.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_is_settled_before_its_third_control_plane_is_admitted() {
        let fake = FakeWorld::founded().recorded("uid", "i-0").await;
        let joiner = running(&control_plane("i-2"), 12);
        let ask = async || before_the_third(&fake.ports(), "i-1", &joiner).await;
        fake.etcd.voter("n0", 10);
        ask().await.unwrap();
        // Its own learner, left by an interrupted join, is not a third.
        let own = fake.etcd.learner("", 12);
        ask().await.unwrap();
        assert!(!is_settled(&fake).await);
        fake.ports().etcd.remove(own.id).await.unwrap();
        fake.etcd.voter("n1", 11);
        ask().await.unwrap();
        assert!(is_settled(&fake).await);
        ask().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_cluster_admits_no_third_control_plane() {
        let fake = FakeWorld::founded().recorded("uid", "i-0").await;
        fake.etcd.voter("n0", 10);
        fake.etcd.voter("n1", 11);
        fake.claimed(2, "uid-2", "i-3").await;
        let joiner = running(&control_plane("i-2"), 12);
        let error = before_the_third(&fake.ports(), "i-1", &joiner)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(!is_settled(&fake).await);
    }
}
