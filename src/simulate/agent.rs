//! The agent as a simulated instance runs it.

use std::{
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{Code, acts, host::facts, place::Place};
use crate::{
    agent::Agent,
    agent::renewal,
    config::Settings,
    decide::Decision,
    error::{Error, Kind, Result},
    journal::Journal,
    kubernetes::paths,
    leader::{healing::Healing, left_nodes},
    ports::NoBalancer,
    ports::{self, Role, World},
    report::Reporter,
    runner::{Runner, Summary},
    snapshots::{
        Subject,
        restore::{Request, carry_out, prepare},
        take,
    },
    steps::{
        State, Step,
        decommission::{LeaveEtcd, MarkLeft},
    },
    wait::Notes,
};

/// How often a control plane observes the others: a third as often as a real one, which makes the
/// simulation faster.
const CYCLE: Duration = Duration::from_secs(30);

/// How long each part of leaving may take.
const BRIEF: Duration = Duration::from_secs(20);

/// One start of an instance's agent; it ends with an error, or with the instance.
pub async fn live(place: Place, code: Code, settings: Arc<Settings>) -> Result<Summary> {
    let me = place.me();
    let world = (code.ports)(place.world());
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    journal.refuse_while_restoring()?;
    let listener = place.clone();
    let said = Mutex::new(None::<Decision>);
    let agent = Agent {
        settings,
        machine: Arc::new(facts()),
        runner: Arc::new(Runner::new(world.clone(), journal)),
        reporter: Arc::new(Reporter::new(world.clock.now())),
        api_servers: watch::Sender::new(Vec::new()),
        api_health: Arc::new(NoBalancer),
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
            acts::cluster(&agent.settings, &me, memory)
        })
        .await?;
    let abandoned = async {
        if let Some(why) = agent.until_abandoned().await {
            return why;
        }
        place.is_up(&summary);
        std::future::pending().await
    };
    let why = tokio::select! {
        biased;
        why = abandoned => why,
        never = duties(&agent, &place, code) => match never {},
        never = renewals(&agent, &place, code) => match never {},
    };
    Err(agent.start_over(&why, &removal).await)
}

/// What a control plane does for the others while its agent runs.
async fn duties(agent: &Agent, place: &Place, code: Code) -> Infallible {
    if agent.me.role == Role::Worker {
        return std::future::pending().await;
    }
    let world = (code.duties)(place.world());
    let mut healing = Healing::default();
    loop {
        // The cycle goes on if an observation fails, and if there is nothing to do.
        if let Ok(seen) = agent.observe().await {
            let outcome = agent.repair_record(&seen).await;
            let refusal = outcome.err().filter(|error| error.kind() == Kind::Refused);
            place.reports(
                refusal.as_ref(),
                agent.reporter.subscribe().borrow().conflict.clone(),
            );
        }
        let _ = left_nodes::cycle(&world, &agent.me.instance_id).await;
        let _ = healing.cycle(&world, &agent.me).await;
        place.sleep(CYCLE.mul_f64(0.5 + world.clock.jitter())).await;
        place.survive().await;
    }
}

/// Renews this control plane's certificates, if it has any that expire.
async fn renewals(agent: &Agent, place: &Place, code: Code) -> Infallible {
    if agent.me.role == Role::Worker {
        return std::future::pending().await;
    }
    let world = (code.duties)(place.world());
    let useless = [acts::renewal(&agent.settings, &agent.me, &[])];
    loop {
        place.sleep(CYCLE.mul_f64(0.5 + world.clock.jitter())).await;
        place.survive().await;
        let has_some = world.host.exists(Path::new(paths::API_SERVER)).await;
        if has_some.unwrap_or_default() {
            let _ = agent.runner.run(&useless).await;
            let (settings, me) = (&agent.settings, &agent.me);
            let _ = renewal::renew(&world, &agent.runner, settings, me).await;
        }
    }
}

/// What an instance that is being terminated does before it ends.
pub async fn leave(place: Place, code: Code) -> Result<Summary> {
    let me = place.me();
    let world = (code.ports)(place.world());
    let etcd = LeaveEtcd {
        cluster: me.cluster.clone(),
        instance: me.instance_id.clone(),
        node: me.node_name.clone(),
    };
    let left = MarkLeft {
        node: me.node_name.clone(),
        instance: me.instance_id.clone(),
    };
    if me.role == Role::ControlPlane {
        briefly(&place, &world, &etcd).await;
    }
    briefly(&place, &world, &left).await;
    Ok(Summary::default())
}

/// Where the backups are kept.
fn backups() -> ports::Place {
    ports::Place::Folder("/backups".into())
}

/// A person takes a backup on a control plane.
pub async fn take_backup(place: Place) -> Result<Summary> {
    let me = place.me();
    let uid = place.scene().cluster_of(place.index).to_owned();
    let subject = Subject {
        cluster: &me.cluster,
        cluster_uid: &uid,
        instance: &me.instance_id,
        kubernetes: "simulated",
    };
    take(&place.world(), &backups(), 3, subject).await?;
    Ok(Summary::default())
}

/// A person restores the cluster from its latest backup, with `force` if there are other control
/// planes without data.
pub async fn restore(
    place: Place,
    code: Code,
    settings: Arc<Settings>,
    force: bool,
) -> Result<Summary> {
    let me = place.me();
    let world = (code.ports)(place.world());
    let request = Request {
        place: backups(),
        name: None,
        force,
        rebuild_record: false,
    };
    let prepared = prepare(&world, &me, request).await?;
    carry_out(&world, &settings, &me, &acts::host(), &prepared, |_| ()).await?;
    Ok(Summary::default())
}

/// Applies a step within a short time, or gives up.
async fn briefly(place: &Place, world: &World, step: &impl Step) {
    let (notes, _) = Notes::new();
    let done = async {
        if step.check(world).await? != State::AsWanted {
            step.apply(world, &notes).await?;
        }
        Ok::<(), Error>(())
    };
    let (done, late) = (Box::pin(done), Box::pin(place.sleep(BRIEF)));
    // As on a real instance, the machine ends whatever the outcome.
    futures::future::select(done, late).await;
}

/// Notes a decision that differs from the last one.
fn hear(place: &Place, said: &Mutex<Option<Decision>>, decision: &Decision) {
    let mut scene = place.scene();
    scene.machines[place.index].waits = match decision {
        Decision::Wait { why } => Some(why.clone()),
        _ => None,
    };
    if scene.trace.is_none() {
        return;
    }
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    if said.as_ref() != Some(decision) {
        scene.note_of(place.index, || format!("decides: {decision:?}"));
        *said = Some(decision.clone());
    }
}
