//! `run`: what the unit starts.

mod way;

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::{interval, sleep},
};
use tracing::{Instrument, info, info_span, warn};

use self::way::Way;
use super::{ADDRESS_FILE, require_root, who_am_i};
use crate::{
    adapters::{join as joins, wiring::Wiring},
    boot::{self, Agent, api_servers},
    config::{self, Settings},
    decide::judge,
    error::{Context, Kind, Result},
    identity::Identity,
    join::{JoinService, approver},
    journal::Journal,
    ports::{Host, MachineFacts, Role},
    report::{Reporter, Stage, http, systemd},
    runner::Runner,
    steady::End,
    steps::leaving::Removal,
    wait::{Notes, Patience, Probe, until},
};

/// How often a node that is in use looks whether what was refused has been fixed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The longest pause of one that is not: its first is the same, and each is twice the one before.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// How long to wait for EC2 to say who this instance is, before the agent starts over.
const LEARNING: Duration = Duration::from_mins(30);

/// `run`: the whole life of the agent.
pub async fn run() -> Result<()> {
    let reporter = Arc::new(Reporter::new(Timestamp::now()));
    let mut told = Told::new()?;
    let wiring = Wiring::new()?;
    require_root(&wiring, "to bring up a node").await?;
    let way = Way::of_this_node(wiring.host.as_ref()).await;
    let outcome = tokio::select! {
        outcome = live_on(&wiring, &way, &reporter, &mut told) => outcome,
        outcome = way.serve() => outcome,
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

/// Lives; and where a person must fix what is wrong, stays and looks again, since that may be done
/// from elsewhere: by a tag, at a mirror, in a policy.
async fn live_on(
    wiring: &Wiring,
    way: &Way,
    reporter: &Arc<Reporter>,
    told: &mut Told,
) -> Result<()> {
    let host = wiring.host.as_ref();
    let mut said = None;
    let mut pause = LOOK_AGAIN;
    loop {
        let refusal = match live(wiring, way, reporter.clone(), told).await {
            Err(error) if error.kind() == Kind::Refused => error,
            outcome => return outcome,
        };
        let instance = reporter.subscribe().borrow().instance_id.clone();
        let in_use = api_servers::in_use(host, instance.as_deref()).await;
        let in_use = in_use.unwrap_or_default().is_some();
        let line = refusal.one_line();
        if said.as_ref() != Some(&line) {
            eprintln!("{refusal}");
            if in_use {
                info!("the node is in use and keeps its way to the API until that is fixed");
            }
        }
        reporter.stage(Stage::Failed, line.clone(), Timestamp::now());
        said = Some(line);
        systemd::ready();
        tokio::select! {
            never = report_meanwhile(host, reporter) => match never {},
            () = told.wait() => return Ok(()),
            () = sleep(pause) => {}
        }
        pause = if in_use {
            LOOK_AGAIN
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
    }
}

/// Says what is wrong over HTTP, where the settings that name the address may be what is wrong.
async fn report_meanwhile(host: &dyn Host, reporter: &Reporter) -> Infallible {
    let reported = async {
        let last = host.read(Path::new(ADDRESS_FILE)).await?;
        let last = last.and_then(|text| String::from_utf8_lossy(&text).parse().ok());
        let address = match last {
            Some(address) => address,
            None => config::load(&[])?.report.listen,
        };
        let listener = listen_for_reports(host, address).await?;
        http::serve(listener, reporter.subscribe()).await
    };
    if let Err(error) = reported.await {
        warn!(HINT = error.remedy(), "{}", error.one_line());
    }
    std::future::pending().await
}

/// Listens, and leaves the address to `status`.
async fn listen_for_reports(host: &dyn Host, address: SocketAddr) -> Result<TcpListener> {
    let listener = http::listen(address).await?;
    let text = address.to_string();
    host.write(Path::new(ADDRESS_FILE), text.as_bytes(), 0o644)
        .await?;
    Ok(listener)
}

/// Waits for what EC2 says of this instance: it may be late, or a permission may be missing.
async fn learn(wiring: &Wiring, reporter: &Reporter) -> Result<(Settings, Identity, MachineFacts)> {
    let (notes, mut news) = Notes::new();
    let relay = async {
        while news.changed().await.is_ok() {
            let text = news.borrow_and_update().clone().unwrap_or_default();
            reporter.message(text);
            // This may take longer than systemd waits for a start.
            systemd::ready();
        }
        std::future::pending::<Infallible>().await
    };
    let known = until(
        wiring.clock.as_ref(),
        &notes,
        Patience::remote(LEARNING),
        "EC2 to say who this instance is",
        async || Ok(Probe::Done(who_am_i(wiring).await?)),
    );
    let known = tokio::select! {
        known = known => known?,
        never = relay => match never {},
    };
    reporter.message("");
    Ok(known)
}

async fn live(wiring: &Wiring, way: &Way, reporter: Arc<Reporter>, told: &mut Told) -> Result<()> {
    let (settings, me, machine) = tokio::select! {
        known = learn(wiring, &reporter) => known?,
        never = report_meanwhile(wiring.host.as_ref(), &reporter) => match never {},
        () = told.wait() => return Ok(()),
    };
    boot::remember_name(wiring.host.as_ref(), &me).await?;
    reporter.identity(&me, &settings.kubernetes.version);
    let span = info_span!("agent", NODE = me.node_name, CLUSTER = me.cluster);
    async {
        info!(
            "this is {} {} of cluster {}",
            me.role, me.node_name, me.cluster
        );
        let world = wiring.world(&settings, &me)?;
        let listener = listen_for_reports(world.host.as_ref(), settings.report.listen).await?;
        let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
        journal.refuse_while_restoring()?;
        let known = api_servers::known(&me, world.host.as_ref()).await?;
        way.servers.send_replace(known);
        if settings.cluster.endpoint == "local" {
            way.wanted.send_replace(true);
        }
        let agent = Agent {
            runner: Arc::new(Runner::new(world.clone(), journal)),
            settings: Arc::new(settings),
            api_servers: way.servers.clone(),
            api_health: way.health.clone(),
            me: Arc::new(me),
            machine: Arc::new(machine),
            world,
            judge: Arc::new(judge),
            reporter: reporter.clone(),
        };
        systemd::ready();
        tokio::select! {
            outcome = stay(&agent, told) => outcome,
            outcome = http::serve(listener, reporter.subscribe()) => outcome,
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
        // On the heap: it holds all phases and all duties of a node.
        outcome = Box::pin(boot_and_keep(agent)) => return outcome,
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
