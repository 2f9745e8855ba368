//! etcd never starts here without its earlier data.

use std::path::Path;

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    journal::Journal,
    kubernetes::paths,
    ports::World,
    steps::{State, Step},
    wait::Notes,
};

/// etcd's data exists, unless etcd never ran on this instance. Without it etcd would start an empty
/// cluster with the same keys, or vote without the log that its earlier votes refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EtcdData {
    /// This instance; its journal says whether etcd ever ran.
    pub instance: String,
}

#[async_trait]
impl Step for EtcdData {
    async fn check(&self, world: &World) -> Result<State> {
        let host = world.host.as_ref();
        let journal = Journal::open(host, &self.instance).await?;
        let Some(cluster) = journal.etcd_cluster else {
            return Ok(State::AsWanted);
        };
        if host.exists(Path::new(paths::ETCD_MEMBER)).await? {
            return Ok(State::AsWanted);
        }
        Err(Error::refused(format!(
            "etcd's data is missing: this instance was a member of etcd cluster {cluster}, but {} does not exist",
            paths::ETCD_MEMBER
        ))
        .hint(
            "if it is on a disk that is not mounted, mount it and restart the kubelet; if other control planes \
             work, terminate this instance and launch another; otherwise run k8s-bootstrap etcd restore --from latest",
        ))
    }

    async fn apply(&self, _world: &World, _notes: &Notes) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{error::Kind, testing::FakeWorld};

    #[tokio::test]
    async fn etcd_never_starts_again_without_its_data() {
        let fake = FakeWorld::new();
        let step = EtcdData {
            instance: "i-1".to_owned(),
        };
        fake.holds(&step).await;
        let mut journal = Journal::new("i-1");
        journal.save(fake.host.as_ref()).await.unwrap();
        fake.holds(&step).await;
        journal.etcd_cluster = Some("c1".to_owned());
        journal.save(fake.host.as_ref()).await.unwrap();
        let error = fake.check(&step).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.one_line().contains("cluster c1"), "{error}");
        assert!(error.remedy().unwrap().contains("etcd restore"), "{error}");
        fake.files.put("/var/lib/etcd/member/snap/db", "");
        fake.holds(&step).await;
    }
}
