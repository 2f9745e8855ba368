//! What each command of the command line does.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::interval,
};
use tracing::{Instrument, info, info_span};

use crate::{
    adapters::{
        balancer::{self, ReadyzProbe},
        http::Clients,
        wiring::Wiring,
    },
    boot::{self, Agent},
    config::{self, Fragment},
    decide::{Decision, decide},
    error::{Context, Error, Result},
    identity::Identity,
    journal::{Course, Journal, Membership},
    observe,
    phases::{Action, State, Step, kubeadm::paths},
    plan as plans,
    ports::{Command as Program, Role},
    report::{Reporter, Stage, Status, http, systemd},
    runner::{Phase, Runner},
};

/// Where `run` leaves the address of its HTTP interface for `status`.
const ADDRESS_FILE: &str = "/run/k8s-bootstrap/http";

/// The unit that `install` writes.
const UNIT: &str = include_str!("../systemd/k8s-bootstrap.service");
const UNIT_FILE: &str = "/etc/systemd/system/k8s-bootstrap.service";

/// `run`: the whole life of the agent.
pub async fn run() -> Result<()> {
    let reporter = Arc::new(Reporter::new(Timestamp::now()));
    let mut terminate =
        signal(SignalKind::terminate()).attempting(|| "cannot listen for SIGTERM".to_owned())?;
    let mut interrupt =
        signal(SignalKind::interrupt()).attempting(|| "cannot listen for SIGINT".to_owned())?;
    let outcome = tokio::select! {
        outcome = live(reporter.clone()) => outcome,
        () = tell_systemd(&reporter) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
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

async fn live(reporter: Arc<Reporter>) -> Result<()> {
    let wiring = Wiring::new()?;
    require_root(&wiring, "to bring up a node").await?;
    let (settings, me, machine) =
        boot::who_am_i(wiring.imds.as_ref(), wiring.host.as_ref()).await?;
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
            reporter: reporter.clone(),
        };
        let balancer = serve_balancer(&agent);
        systemd::ready();
        tokio::select! {
            outcome = boot_and_keep(&agent) => outcome,
            outcome = http::serve(listener, reporter.subscribe()) => outcome,
            outcome = balancer => outcome,
            () = relay_progress(&agent) => Ok(()),
        }
    }
    .instrument(span)
    .await
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
    agent.keep().await;
    Ok(())
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

async fn relay_progress(agent: &Agent) {
    let mut progress = agent.runner.progress();
    while progress.changed().await.is_ok() {
        agent.reporter.progress(&progress.borrow_and_update());
    }
}

/// `install`: the unit, enabled and started.
pub async fn install() -> Result<()> {
    let wiring = Wiring::new()?;
    require_root(&wiring, "to install the service").await?;
    let unit = Path::new(UNIT_FILE);
    wiring.host.write(unit, UNIT.as_bytes(), 0o644).await?;
    // --no-block: user-data runs within the boot that the unit is ordered after.
    for args in [
        &["daemon-reload"][..],
        &["enable", "k8s-bootstrap.service"],
        &["start", "--no-block", "k8s-bootstrap.service"],
    ] {
        let command = Program::new("systemctl", args.iter().copied());
        wiring
            .commands
            .run(command.clone())
            .await?
            .success(&command)?;
    }
    println!("k8s-bootstrap.service is starting: watch it with `k8s-bootstrap status --watch`");
    Ok(())
}

async fn require_root(wiring: &Wiring, what_for: &str) -> Result<()> {
    if wiring.host.machine().await?.root {
        return Ok(());
    }
    Err(Error::refused(format!("root is needed {what_for}")).hint("run it with sudo"))
}

/// One line of `plan`.
#[derive(Debug, serde::Serialize)]
struct Planned {
    #[serde(flatten)]
    phase: Phase<Action>,
    /// What would be done; none where the phase holds already.
    differs: Option<String>,
}

/// `plan`: what `run` would do here, and why.
pub async fn plan(as_json: bool) -> Result<()> {
    let wiring = Wiring::new()?;
    let (settings, me, machine) =
        boot::who_am_i(wiring.imds.as_ref(), wiring.host.as_ref()).await?;
    let world = wiring.world(&settings, &me)?;
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let seen = observe::observe(&world, &me, journal.membership).await?;
    let decision = decide(&me, &seen);
    let mut phases = plans::host(&settings, &me)?;
    if let Some(membership) = expected_membership(&decision) {
        phases.extend(plans::cluster(&settings, &me, &machine, &membership)?);
    }
    let mut planned = Vec::new();
    for phase in phases {
        let differs = match phase.step.check(&world).await {
            Ok(State::AsWanted) => None,
            Ok(State::Differs(what)) => Some(what),
            // Before the API answers, a phase that asks it cannot know: it would be carried out.
            Err(error) => Some(error.one_line()),
        };
        planned.push(Planned { phase, differs });
    }
    let text = if as_json {
        let value = serde_json::json!({ "identity": me, "decision": decision, "phases": planned });
        serde_json::to_string_pretty(&value).attempting(|| "cannot form the plan".to_owned())?
    } else {
        plan_text(&me, &decision, &planned)
    };
    print(&text)
}

/// The membership that the decision leads to, as far as it can be told before acting on it.
fn expected_membership(decision: &Decision) -> Option<Membership> {
    let (course, cluster_uid) = match decision {
        Decision::Claim { .. } => (Course::Found, String::from("(made by the claim)")),
        Decision::Found { cluster_uid } => (Course::Found, cluster_uid.clone()),
        Decision::Join { cluster_uid, .. } => (Course::Join, cluster_uid.clone()),
        Decision::Wait { .. } | Decision::Refuse { .. } => return None,
    };
    Some(Membership {
        cluster_uid,
        course,
    })
}

fn plan_text(me: &Identity, decision: &Decision, planned: &[Planned]) -> String {
    let decision = match decision {
        Decision::Claim { number, why } => format!("claim {number} to found the cluster: {why}"),
        Decision::Found { cluster_uid } => format!("found cluster {cluster_uid}"),
        Decision::Join { cluster_uid, .. } => format!("join cluster {cluster_uid}"),
        Decision::Wait { why } => format!("wait: {why}"),
        Decision::Refuse { why, remedy } => format!("refuse: {why} ({remedy})"),
    };
    let mut text = format!(
        "{} {} ({}) of cluster {}\ndecision: {decision}\n\n",
        me.role, me.node_name, me.instance_id, me.cluster
    );
    for (index, Planned { phase, differs }) in planned.iter().enumerate() {
        let state = differs
            .as_ref()
            .map_or("holds".to_owned(), |what| format!("to do: {what}"));
        let _ = writeln!(
            text,
            "{:3}. {:<26} {state}\n     {}",
            index + 1,
            phase.name,
            phase.why
        );
        if !phase.after.is_empty() {
            let _ = writeln!(text, "     after {}", phase.after.join(", "));
        }
    }
    let todo = planned.iter().filter(|p| p.differs.is_some()).count();
    let _ = writeln!(text, "\n{todo} of {} phases to do", planned.len());
    text
}

/// `status`: asks the running agent.
pub async fn status(as_json: bool, watch: bool) -> Result<()> {
    let client = Clients::new()?.metadata()?;
    let mut shown = None;
    // Without --watch the first answer ends it.
    let mut looks = interval(Duration::from_secs(1));
    loop {
        looks.tick().await;
        let status = ask(&client).await?;
        if shown.as_ref() != Some(&status) {
            let text = if as_json {
                serde_json::to_string_pretty(&status)
                    .attempting(|| "cannot form the status".to_owned())?
            } else {
                status.text()
            };
            print(&text)?;
        }
        if !watch {
            return Ok(());
        }
        shown = Some(status);
    }
}

async fn ask(client: &reqwest::Client) -> Result<Status> {
    let not_running =
        "is it running? `systemctl status k8s-bootstrap`, `journalctl -u k8s-bootstrap`";
    let address = std::fs::read_to_string(ADDRESS_FILE)
        .attempting(|| format!("the agent has left no address in {ADDRESS_FILE}"))
        .map_err(|error| error.hint(not_running))?;
    let url = format!("http://{}/status", address.trim());
    let attempt = || format!("cannot ask the agent at {url}");
    let answer = client.get(&url).send().await.attempting(attempt);
    let answer = answer.map_err(|error| error.hint(not_running))?;
    answer.json().await.attempting(attempt)
}

/// `check-config`: the file as the agent would read it.
pub fn check_config(file: Option<&Path>, defaults: bool) -> Result<()> {
    let Some(file) = file.filter(|_| !defaults) else {
        return print(config::DEFAULTS);
    };
    let text = read_text(file)?;
    config::load(&[Fragment::parse(file.display().to_string(), &text)?])?;
    print(&format!("{}: valid", file.display()))
}

/// `user-data`: for launch templates.
pub fn user_data(url: &str, role: Option<Role>, config: Option<&Path>) -> Result<()> {
    let settings = config.map(read_text).transpose()?;
    if let (Some(path), Some(text)) = (config, &settings) {
        config::load(&[Fragment::parse(path.display().to_string(), text)?])?;
    }
    let myself = PathBuf::from("/proc/self/exe");
    let binary = std::fs::read(&myself).attempting(|| "cannot read this very binary".to_owned())?;
    let sha256 = hex::encode(Sha256::digest(binary));
    print(&crate::user_data::form(
        url,
        &sha256,
        role,
        settings.as_deref(),
    )?)
}

fn read_text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .attempting(|| "cannot read standard input".to_owned())?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
        .map_err(|cause| Error::usage(format!("cannot read {}", path.display())).because(&cause))
}

/// To stdout, with a newline at its end. A reader that has gone, such as `head`, is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.attempting(|| "cannot write to standard output".to_owned()),
    }
}
