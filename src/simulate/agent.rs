//! The agent as an instance runs it, in its place of a scene.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Code, acts, host::facts, place::Place};
use crate::{
    boot::Agent,
    config::Settings,
    decide::Decision,
    error::Result,
    journal::Journal,
    ports::World,
    report::Reporter,
    runner::{Runner, Summary},
};

/// One start of an instance's agent, up to a node that is up in a settled cluster.
pub async fn live(place: Place, code: Code, settings: Arc<Settings>) -> Result<Summary> {
    let me = place.scene().machines[place.index].me.clone();
    let world = (code.ports)(ports(&place));
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let listener = place;
    let said = Mutex::new(None::<Decision>);
    let agent = Agent {
        settings,
        machine: Arc::new(facts()),
        runner: Arc::new(Runner::new(world.clone(), journal)),
        reporter: Arc::new(Reporter::new(world.clock.now())),
        api_servers: watch::Sender::new(Vec::new()),
        api_health: Arc::default(),
        judge: Arc::new(move |me, seen, agreement| {
            let decision = (code.judge)(me, seen, agreement);
            hear(&listener, &said, &decision);
            decision
        }),
        me: me.clone(),
        world,
    };
    let removal = acts::removal();
    let summary = agent
        .boot_by(&acts::host(), &removal, |memory| {
            Ok(acts::cluster(&me, memory))
        })
        .await?;
    match agent.until_given_up().await {
        Some(why) => Err(agent.start_over(&why, &removal).await),
        None => Ok(summary),
    }
}

/// Notes a decision that differs from the last one.
fn hear(place: &Place, said: &Mutex<Option<Decision>>, decision: &Decision) {
    let mut scene = place.scene();
    if scene.trace.is_none() {
        return;
    }
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    if said.as_ref() != Some(decision) {
        scene.note_of(place.index, || format!("decides: {decision:?}"));
        *said = Some(decision.clone());
    }
}

fn ports(place: &Place) -> World {
    let place = Arc::new(place.clone());
    World {
        metadata: place.clone(),
        ec2: place.clone(),
        store: place.clone(),
        host: place.clone(),
        commands: place.clone(),
        downloads: place.clone(),
        cluster: place.clone(),
        archive: place.clone(),
        etcd: place.clone(),
        dns: place.clone(),
        scaling: place.clone(),
        certificates: place.clone(),
        sts: place.clone(),
        join: place.clone(),
        peers: place.clone(),
        clock: place,
        leases: Arc::default(),
    }
}
