//! `run`: started by the unit. The agent's life is [`Agent::live`]; this module connects it to the
//! sockets, the signals and systemd of a real machine.

mod api_balancer;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use tracing::{Instrument, info, info_span, warn};

use self::api_balancer::ApiBalancer;
use super::{require_root, who_am_i};
use crate::{
    adapters::{bundle, join as joins, report, signals::ShutdownSignals, systemd, wiring::Wiring},
    agent::{self, Agent, api_servers},
    config::{self, Settings},
    decide::judge,
    error::{Kind, Result},
    identity::Identity,
    join::{JoinService, approver},
    journal::Journal,
    ports::{Host, MachineFacts, Role},
    report::{Reporter, Stage},
    runner::Runner,
    steps::host::Bundle,
    wait::{Backoff, Notes, Probe, relay, schedules::REFUSAL, until},
};

/// How long to wait for EC2 to identify this instance before the agent starts over.
const LEARNING: Duration = Duration::from_mins(30);

/// `run`: the whole life of the agent.
pub async fn run() -> Result<()> {
    let mut signals = ShutdownSignals::catch()?;
    let wiring = Wiring::new()?;
    let reporter = Arc::new(Reporter::new(wiring.clock.now()));
    require_root(&wiring, "to bring up a node").await?;
    let balancer = ApiBalancer::of_this_node(wiring.host.as_ref()).await;
    let outcome = tokio::select! {
        outcome = live_on(&wiring, &balancer, &reporter, &mut signals) => outcome,
        outcome = balancer.serve() => outcome,
        () = systemd::follow(reporter.subscribe()) => Ok(()),
    };
    match &outcome {
        Ok(()) => {
            info!("stopped by a signal; the next start resumes from here");
            systemd::stopping("stopped; the next start resumes from here");
        }
        Err(failure) => {
            reporter.stage(Stage::Failed, failure.one_line(), wiring.clock.now());
            systemd::stopping(&reporter.subscribe().borrow().line());
        }
    }
    outcome
}

/// Runs the agent. After an error that a person must fix, it stays and checks again, since the fix
/// may be made elsewhere: a tag, a mirror, a policy.
async fn live_on(
    wiring: &Wiring,
    balancer: &ApiBalancer,
    reporter: &Arc<Reporter>,
    signals: &mut ShutdownSignals,
) -> Result<()> {
    let (host, clock) = (wiring.host.as_ref(), wiring.clock.as_ref());
    let mut said = None;
    let mut pauses = REFUSAL.pauses();
    loop {
        let refusal = match live(wiring, balancer, reporter.clone(), signals).await {
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
                info!("the node is in use: its API balancer keeps running until that is fixed");
            }
        }
        reporter.stage(Stage::Failed, line.clone(), clock.now());
        said = Some(line);
        systemd::ready();
        tokio::select! {
            never = report_meanwhile(wiring, reporter) => match never {},
            () = signals.wait() => return Ok(()),
            () = clock.sleep(pauses.next(clock)) => {}
        }
        if in_use {
            pauses = REFUSAL.pauses();
        }
    }
}

/// Reports errors over HTTP even if the settings that name the address may be the error.
async fn report_meanwhile(wiring: &Wiring, reporter: &Reporter) -> Infallible {
    let host = wiring.host.as_ref();
    let reported = async {
        let address = match report::remembered(host).await? {
            Some(address) => address,
            None => config::load(&[])?.report.listen,
        };
        let server = listen_for_reports(host, address).await?;
        server.serve(served(wiring, reporter)).await
    };
    if let Err(error) = reported.await {
        warn!(HINT = error.remedy(), "{}", error.one_line());
    }
    std::future::pending().await
}

fn served(wiring: &Wiring, reporter: &Reporter) -> report::Served {
    report::Served {
        status: reporter.subscribe(),
        work: wiring.work.clone(),
    }
}

/// Listens, and stores the address for `status`.
async fn listen_for_reports(host: &dyn Host, address: SocketAddr) -> Result<report::Server> {
    let server = report::Server::listen(address).await?;
    report::remember(host, address).await?;
    Ok(server)
}

/// Waits for EC2 to identify this instance: it may be late, or a permission may be missing.
async fn learn(wiring: &Wiring, reporter: &Reporter) -> Result<(Settings, Identity, MachineFacts)> {
    let (notes, news) = Notes::new();
    let relayed = relay(news, |note| {
        reporter.message(note.unwrap_or_default());
        // This may take longer than systemd's start timeout.
        systemd::ready();
    });
    let known = until(
        wiring.clock.as_ref(),
        &notes,
        Backoff::remote(LEARNING),
        "the identity of this instance from EC2",
        async || Ok(Probe::Done(who_am_i(wiring).await?)),
    );
    let known = tokio::select! {
        known = known => known?,
        never = relayed => match never {},
    };
    reporter.message("");
    Ok(known)
}

async fn live(
    wiring: &Wiring,
    balancer: &ApiBalancer,
    reporter: Arc<Reporter>,
    signals: &mut ShutdownSignals,
) -> Result<()> {
    let (settings, me, machine) = tokio::select! {
        known = learn(wiring, &reporter) => known?,
        never = report_meanwhile(wiring, &reporter) => match never {},
        () = signals.wait() => return Ok(()),
    };
    agent::remember_name(wiring.host.as_ref(), &me).await?;
    reporter.identity(&me, &settings.kubernetes.version);
    let span = info_span!("agent", NODE = me.node_name, CLUSTER = me.cluster);
    async {
        info!(
            "this is {} {} of cluster {}",
            me.role, me.node_name, me.cluster
        );
        let world = wiring.world(&settings, &me)?;
        let server = listen_for_reports(world.host.as_ref(), settings.report.listen).await?;
        let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
        journal.refuse_while_restoring()?;
        let known = api_servers::known(&me, world.host.as_ref()).await?;
        balancer.servers.send_replace(known);
        if settings.cluster.endpoint == "local" {
            balancer.wanted.send_replace(true);
        }
        let agent = Agent {
            runner: Arc::new(Runner::new(world.clone(), journal)),
            settings: Arc::new(settings),
            api_servers: balancer.servers.clone(),
            api_health: balancer.health.clone(),
            me: Arc::new(me),
            machine: Arc::new(machine),
            world,
            judge: Arc::new(judge),
            reporter: reporter.clone(),
        };
        systemd::ready();
        tokio::select! {
            outcome = live_or_leave(&agent, signals) => outcome,
            outcome = server.serve(served(wiring, &reporter)) => outcome,
            outcome = serve_bundle(&agent) => outcome,
            outcome = let_in(&agent), if agent.me.role == Role::ControlPlane => outcome,
            () = relay_progress(&agent) => Ok(()),
        }
    }
    .instrument(span)
    .await
}

/// Leaving needs the API balancer and the reports, so it happens while all of them run.
async fn live_or_leave(agent: &Agent, signals: &mut ShutdownSignals) -> Result<()> {
    tokio::select! {
        // On the heap: it holds all phases and all tasks of a node.
        outcome = Box::pin(agent.live()) => return outcome,
        () = signals.wait() => {}
    }
    agent.leave_at_shutdown().await;
    Ok(())
}

/// Serves the bundle to this node, if the settings name one.
async fn serve_bundle(agent: &Agent) -> Result<()> {
    match Bundle::wanted(&agent.settings, &agent.me.arch)? {
        Some(bundle) => bundle::serve(&bundle.file()).await,
        None => std::future::pending().await,
    }
}

/// What a control plane serves to other nodes: the join service and the certificate approver.
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
