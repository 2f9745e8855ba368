//! Brings the lab up: the VPC with its servers, then the machines, then waits until they are a
//! cluster.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::ec2::client::Aws;
use crate::ec2::moto;
use crate::layout::Layout;
use crate::lifecycle::{Image, Options, launch};
use crate::machine::{cgroups, enter, supervisor};
use crate::state::{CLUSTER_TAG, Machine, Phase, State};
use crate::{components, down, host, kubernetes, network, serve, status, userdata, zone};

/// The lab to bring up.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How many machines with the role `control-plane` to launch.
    pub control_planes: u32,
    /// How many machines with the role `worker` to launch.
    pub workers: u32,
    /// What to wait for on each machine.
    pub until: Until,
    /// Longest wait for the cluster.
    pub deadline: Duration,
    /// How the machines differ from the defaults.
    pub options: Options,
}

/// The bucket of the lab's account, for backups.
pub const BUCKET: &str = "k8s-bootstrap-backups";

/// What to wait for on each machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It is an instance; whether it boots is seen later.
    Launched,
    /// Its systemd runs.
    Booted,
    /// Its agent is ready and its node is Ready.
    Ready,
}

/// A line on the terminal for a running step, with its duration when it is done.
pub fn step(progress: &MultiProgress, words: &str) -> ProgressBar {
    let bar = progress.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(words.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Ends a step's line.
pub fn finish(bar: &ProgressBar, words: &str) {
    let seconds = bar.elapsed().as_secs_f64();
    let line = format!("{words} {seconds:.1} s");
    // Without a terminal indicatif shows nothing at all.
    if bar.is_hidden() {
        eprintln!("{line}");
        bar.finish();
    } else {
        bar.finish_with_message(line);
    }
}

/// Brings a lab up.
pub async fn run(layout: &Layout, wanted: &Wanted) -> Result<()> {
    host::check()?;
    check_clean(layout)?;
    let progress = MultiProgress::new();
    // moto's download runs while the components keep the processors busy.
    let moto = tokio::task::spawn_blocking({
        let layout = layout.clone();
        move || moto::install(&layout)
    });
    let bar = step(&progress, "components");
    let built = components::ensure(layout, &progress).await?;
    finish(&bar, "components");
    let bar = step(&progress, "AWS API's environment");
    moto.await
        .context("the installation of moto ended early")??;
    finish(&bar, "AWS API's environment");
    let binary = userdata::agent_binary(layout)?;

    let bar = step(&progress, "VPC and its servers");
    for folder in [layout.run().join("www"), layout.machines()] {
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let agent = userdata::publish_agent(layout, &binary)?;
    let image = Image {
        rootfs: built.rootfs,
        agent,
        pins: built.pins,
        kubectl: built.kubectl,
        vm: None,
    };
    image.store(layout)?;
    network::create_vpc()?;
    serve::start(layout, &built.www, &built.registry).await?;
    create_account(layout).await?;
    finish(&bar, "VPC and its servers");

    let roles = std::iter::repeat_n("control-plane", wanted.control_planes as usize)
        .chain(std::iter::repeat_n("worker", wanted.workers as usize))
        .collect::<Vec<_>>();
    let bar = step(&progress, "machines");
    let machines = launch(layout, &roles, &wanted.options).await?;
    if wanted.until == Until::Launched {
        return Ok(());
    }
    for machine in &machines {
        supervisor::wait_bus(layout, machine)?;
    }
    finish(&bar, &format!("{} machines booted", machines.len()));
    if wanted.until == Until::Ready {
        wait_ready(layout, &machines, wanted.deadline, &progress)?;
    }
    Ok(())
}

/// Refuses to start if an earlier lab is still there.
fn check_clean(layout: &Layout) -> Result<()> {
    if !down::servers(layout).is_empty() {
        bail!("a lab is already up: `lab status` shows it, `lab down` stops it");
    }
    serve::check_alone(layout)?;
    if layout.state().exists()
        || layout.run().exists()
        || cgroups::any()
        || !network::namespaces().is_empty()
    {
        bail!("an earlier lab was not stopped properly: `lab down` removes what is left");
    }
    Ok(())
}

async fn create_account(layout: &Layout) -> Result<()> {
    let aws = Aws::over_socket(layout)?;
    let (vpc, subnets) = aws.create_network().await?;
    aws.create_bucket(BUCKET).await?;
    let zone = zone::create(&aws).await?;
    for role in ["k8s-bootstrap-control-plane", "k8s-bootstrap-worker"] {
        aws.create_role(role).await?;
    }
    State::update(layout, |state| {
        state.cluster = "demo".into();
        (state.vpc, state.subnets, state.zone) = (vpc, subnets, zone);
        Ok(())
    })
}

/// Waits until every machine's agent and node are ready; shows what each one does meanwhile, and
/// all details if the deadline passes.
pub fn wait_ready(
    layout: &Layout,
    machines: &[Machine],
    deadline: Duration,
    progress: &MultiProgress,
) -> Result<()> {
    let start = Instant::now();
    let cluster = State::require(layout)?.cluster;
    let mut waiting: Vec<(&Machine, ProgressBar)> = machines
        .iter()
        .map(|m| (m, step(progress, &m.name)))
        .collect();
    while !waiting.is_empty() {
        if start.elapsed() > deadline {
            let names: Vec<_> = waiting.iter().map(|(m, _)| m.name.as_str()).collect();
            for (machine, bar) in &waiting {
                bar.finish_and_clear();
                eprintln!("{}", describe_failure(layout, &machine.name));
            }
            bail!(
                "{} not ready within {} s: the lines above are the end of each log; \
                 `lab exec NAME -- journalctl -u k8s-bootstrap` shows the rest",
                names.join(", "),
                deadline.as_secs()
            );
        }
        let nodes = kubernetes::ready_nodes(layout).unwrap_or_default();
        waiting.retain(|(machine, bar)| {
            bar.set_message(format!(
                "{} {}",
                machine.name,
                status::agent_word(layout, &machine.name)
            ));
            // The lab's kubectl asks the lab's own cluster; of others only the agents tell.
            let elsewhere = machine.tags.get(CLUSTER_TAG) != Some(&cluster);
            let ready = (elsewhere || nodes.contains(&machine.private_dns()))
                && status::agent_is_ready(layout, &machine.name);
            if ready {
                finish(bar, &format!("{} ready", machine.name));
            }
            !ready
        });
        // The agent sends no events; a second is short enough for a person who watches.
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// The last lines of a machine's agent and of its console.
pub fn describe_failure(layout: &Layout, name: &str) -> String {
    let mut text = format!("--- {name}\n");
    for words in [
        [
            "systemctl",
            "status",
            "--no-pager",
            "--lines=0",
            "k8s-bootstrap",
        ],
        [
            "journalctl",
            "--no-pager",
            "--output=short-monotonic",
            "--lines=40",
            "--unit=k8s-bootstrap",
        ],
    ] {
        match enter::output(layout, name, &words) {
            Ok(output) => text.push_str(&String::from_utf8_lossy(&output.stdout)),
            Err(error) => {
                let _ = writeln!(text, "{error:#}");
            }
        }
    }
    text
}

/// Running machines, for `up`'s last lines and for tests.
pub fn running(layout: &Layout) -> Result<Vec<Machine>> {
    let state = State::require(layout)?;
    Ok(state
        .present()
        .filter(|m| m.phase == Phase::Running)
        .cloned()
        .collect())
}
