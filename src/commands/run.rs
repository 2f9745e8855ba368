//! `run`: what the unit starts.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::interval,
};
use tracing::{Instrument, info, info_span};

use super::{ADDRESS_FILE, require_root};
use crate::{
    adapters::{
        balancer::{self, ReadyzProbe},
        join as joins,
        wiring::Wiring,
    },
    boot::{self, Agent},
    decide::judge,
    error::{Context, Result},
    join::{JoinService, approver},
    journal::Journal,
    phases::{kubeadm::paths, leaving::Removal},
    ports::Role,
    report::{Reporter, Stage, http, systemd},
    runner::Runner,
    steady::End,
};

/// `run`: the whole life of the agent.
pub async fn run() -> Result<()> {
    let reporter = Arc::new(Reporter::new(Timestamp::now()));
    let mut told = Told::new()?;
    let outcome = tokio::select! {
        outcome = live(reporter.clone(), &mut told) => outcome,
        () = tell_systemd(&reporter) => Ok(()),
    };
    match &outcome {
        Ok(()) => {
            info!("stopped by a signal; the next start goes on from here");
            systemd::stopping("stopped; the next start goes on from here");
        }
        Err(failure) => {
            reporter.stage(Stage::Failed, failure.one_line(), Timestamp::now());
            systemd::stopping(&reporter.subscribe().borrow().line());
        }
    }
    outcome
}

/// Where the agent is told to end.
struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    fn new() -> Result<Self> {
        let listen =
            |kind, name: &str| signal(kind).attempting(|| format!("cannot listen for {name}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Keeps STATUS= true and the watchdog fed. Both are driven by the same task as
/// the agent's own work: if that ever blocks, the watchdog hears nothing.
async fn tell_systemd(reporter: &Reporter) {
    let mut status = reporter.subscribe();
    let mut alive = systemd::watchdog_interval().map(interval);
    loop {
        let line = status.borrow_and_update().line();
        systemd::status(&line);
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = async {
                match &mut alive {
                    Some(alive) => { alive.tick().await; }
                    None => std::future::pending().await,
                }
            } => systemd::alive(),
        }
    }
}

async fn live(reporter: Arc<Reporter>, told: &mut Told) -> Result<()> {
    let wiring = Wiring::new()?;
    require_root(&wiring, "to bring up a node").await?;
    let (settings, me, machine) = tokio::select! {
        known = boot::who_am_i(wiring.imds.as_ref(), wiring.host.as_ref()) => known?,
        () = told.wait() => return Ok(()),
    };
    reporter.identity(&me, &settings.kubernetes.version);
    let span = info_span!("agent", NODE = me.node_name, CLUSTER = me.cluster);
    async {
        info!(
            "this is {} {} of cluster {}",
            me.role, me.node_name, me.cluster
        );
        let listener = http::listen(settings.report.listen).await?;
        let world = wiring.world(&settings, &me)?;
        let address = settings.report.listen.to_string();
        world
            .host
            .write(Path::new(ADDRESS_FILE), address.as_bytes(), 0o644)
            .await?;
        let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
        let known = boot::known_api_servers(&me, world.host.as_ref()).await?;
        let agent = Agent {
            runner: Arc::new(Runner::new(world.clone(), journal)),
            settings: Arc::new(settings),
            api_servers: watch::Sender::new(known),
            api_health: Arc::default(),
            me: Arc::new(me),
            machine: Arc::new(machine),
            world,
            judge: Arc::new(judge),
            reporter: reporter.clone(),
        };
        let balancer = serve_balancer(&agent);
        systemd::ready();
        tokio::select! {
            outcome = stay(&agent, told) => outcome,
            outcome = http::serve(listener, reporter.subscribe()) => outcome,
            outcome = balancer => outcome,
            outcome = let_in(&agent), if agent.me.role == Role::ControlPlane => outcome,
            () = relay_progress(&agent) => Ok(()),
        }
    }
    .instrument(span)
    .await
}

/// Boots, keeps the node and says goodbye: all that goes by way of the API balancer beside it.
async fn stay(agent: &Agent, told: &mut Told) -> Result<()> {
    tokio::select! {
        outcome = boot_and_keep(agent) => return outcome,
        () = told.wait() => {}
    }
    agent.end().await;
    Ok(())
}

async fn boot_and_keep(agent: &Agent) -> Result<()> {
    let begun = agent.world.clock.now();
    let summary = agent.boot().await?;
    if summary.done == 0 {
        info!("nothing to do: all {} phases hold", summary.held);
    } else {
        let took = agent.world.clock.now().duration_since(begun);
        info!(
            DURATION_MS = u64::try_from(took.as_millis()).unwrap_or(0),
            "the node is Ready: {} phases carried out, {} held already, in {} s",
            summary.done,
            summary.held,
            took.as_secs()
        );
    }
    match agent.keep().await {
        End::Notice(notice) => agent.say_goodbye(&notice).await,
        End::GivenUp(why) => return Err(agent.start_over(&why, &Removal::to_start_over()).await),
    }
    // Nothing is kept any more: what comes is the end of the machine.
    std::future::pending().await
}

async fn serve_balancer(agent: &Agent) -> Result<()> {
    if agent.settings.cluster.endpoint != "local" {
        return std::future::pending().await;
    }
    let listener = balancer::listen().await?;
    let health = agent.api_health.clone();
    let probe = ReadyzProbe::new(paths::CA);
    tokio::select! {
        outcome = balancer::serve(listener, agent.api_servers.subscribe(), health.clone()) => outcome,
        () = health.watch_over(agent.api_servers.subscribe(), &probe) => Ok(()),
    }
}

/// A control plane's part for the others: the join service and the approver of certificates.
async fn let_in(agent: &Agent) -> Result<()> {
    let listener = joins::listen(agent.me.private_ip, agent.settings.join.port).await?;
    let certificate = joins::Certificate::new(agent.world.host.clone());
    let service = JoinService::new(agent.world.clone(), &agent.settings, &agent.me);
    tokio::join!(
        joins::serve(listener, certificate, service, joins::Times::default()),
        approver::keep(&agent.world, &agent.me.cluster),
    );
    Ok(())
}

async fn relay_progress(agent: &Agent) {
    let mut progress = agent.runner.progress();
    while progress.changed().await.is_ok() {
        agent.reporter.progress(&progress.borrow_and_update());
    }
}
