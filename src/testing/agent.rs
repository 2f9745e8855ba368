//! An agent as it runs at boot and in the steady state.

use std::sync::Arc;

use tokio::sync::watch;

use super::{FakeWorld, installable, machine, settings};
use crate::{
    agent::Agent, decide::judge, identity::Identity, journal::Journal, ports::NoBalancer,
    report::Reporter, runner::Runner,
};

/// The agent of this instance, with its journal on the host and the shipped settings, except for
/// pins that the fake downloads serve.
pub async fn agent(fake: &FakeWorld, me: Identity) -> Agent {
    let world = fake.ports();
    let journal = Journal::open(world.host.as_ref(), &me.instance_id)
        .await
        .unwrap();
    Agent {
        settings: Arc::new(installable(settings())),
        me: Arc::new(me),
        machine: Arc::new(machine()),
        runner: Arc::new(Runner::new(world.clone(), journal)),
        reporter: Arc::new(Reporter::new(world.clock.now())),
        world,
        judge: Arc::new(judge),
        api_servers: watch::Sender::new(Vec::new()),
        api_health: Arc::new(NoBalancer),
    }
}
