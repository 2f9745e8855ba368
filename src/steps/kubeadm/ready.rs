//! Waits for the API server.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::config;
use crate::{
    config::Settings,
    error::Result,
    ports::World,
    steps::{State, Step},
    wait::{self, Backoff, Notes, Probe},
};

/// The API answers `/readyz` at the cluster's endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiReady {
    /// `host:port`, only for messages: the adapter has its own.
    pub endpoint: String,
    /// How long to wait, in seconds.
    pub deadline: u64,
}

impl ApiReady {
    /// From the settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            endpoint: config::endpoint(settings).to_owned(),
            deadline: settings.deadlines.api,
        }
    }
}

#[async_trait]
impl Step for ApiReady {
    async fn check(&self, world: &World) -> Result<State> {
        Ok(match world.cluster.ready().await {
            Ok(true) => State::AsWanted,
            Ok(false) => State::Differs(format!("{} is not ready", self.endpoint)),
            Err(error) => State::Differs(error.one_line()),
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        let what = format!("the API server at {}", self.endpoint);
        let deadline = Duration::from_secs(self.deadline);
        wait::until(
            world.clock.as_ref(),
            notes,
            Backoff::local(deadline),
            &what,
            || async {
                if world.cluster.ready().await? {
                    Ok(Probe::Done(()))
                } else {
                    Ok(Probe::NotYet("/readyz does not return ok".to_owned()))
                }
            },
        )
        .await
        .map_err(|error| {
            error.hint(
                "look at `journalctl -u kubelet` and at /var/log/pods for etcd and kube-apiserver",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::testing::{self, FakeWorld};

    #[tokio::test(start_paused = true)]
    async fn the_api_comes_up_after_a_while() {
        let fake = FakeWorld::new();
        fake.cluster.ready_after(3);
        let (notes, shown) = Notes::new();
        let step = ApiReady::new(&testing::settings());
        assert!(matches!(
            step.check(&fake.ports()).await.unwrap(),
            State::Differs(_)
        ));
        step.apply(&fake.ports(), &notes).await.unwrap();
        let shown = shown.borrow().clone().unwrap();
        assert_eq!(
            shown,
            "the API server at 127.0.0.1:7443: /readyz does not return ok"
        );
        assert_eq!(step.check(&fake.ports()).await.unwrap(), State::AsWanted);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_never_becomes_ready_is_an_error_with_a_reason() {
        let fake = FakeWorld::new();
        fake.cluster.ready_after(usize::MAX);
        let step = ApiReady::new(&testing::settings());
        let error = step
            .apply(&fake.ports(), &Notes::unread())
            .await
            .unwrap_err();
        assert!(
            error
                .one_line()
                .starts_with("gave up after 300 s waiting for the API server"),
            "{error}"
        );
        assert!(error.remedy().is_some());
    }
}
