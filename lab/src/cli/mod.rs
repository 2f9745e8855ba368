//! Dispatches the commands.

mod arguments;
mod benches;
mod stacks;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::MultiProgress;
use lab::ec2::client::Aws;
use lab::ec2::groups::HEARTBEAT;
use lab::layout::Layout;
use lab::lifecycle::{self, Options};
use lab::machine::{enter, supervisor};
use lab::state::{Notice, State, now};
use lab::up::{self, Until};
use lab::{components, down, host, kubernetes, network, serve, status};

pub use arguments::Cli;
use arguments::{Cloud, Command, Inside, Lifecycle, Waiting};

/// Builds the application and its image.
fn image(output: &Path) -> Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let binary = components::application(Layout::find()?.repository(), log.path())?;
    components::application_archive(&binary, output)?;
    println!("{}", output.display());
    Ok(())
}

/// Runs a command.
pub async fn run(cli: Cli) -> Result<()> {
    if benches::show_earlier(&cli.command)? {
        return Ok(());
    }
    match cli.command {
        Command::Serve { dir, www, images } => serve::run(&Layout::at(dir), www, &images).await,
        Command::Supervise { dir, name, rootfs } => {
            supervisor::run(&Layout::at(dir), &name, &rootfs).await
        }
        Command::Visitors {
            name,
            rate,
            seconds,
        } => {
            let report = lab::visitors::run(&name, rate, seconds).await?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            Ok(())
        }
        Command::Check => host::check(),
        Command::Image { output } => image(&output),
        Command::Up {
            control_planes,
            workers,
            stack,
            waiting,
            options,
        } => {
            let of_stack = stack.is_some();
            let wanted = up::Wanted {
                control_planes: if of_stack { 0 } else { control_planes },
                workers: if of_stack { 0 } else { workers },
                until: waiting.until(),
                deadline: Duration::from_secs(waiting.deadline),
                options: options.read()?,
            };
            let layout = as_root()?;
            bring_up(&layout, &wanted).await?;
            match stack {
                Some(file) => stacks::create_from(&layout, &file, &waiting).await,
                None => Ok(()),
            }
        }
        Command::Down => take_down(&as_root()?),
        Command::Status { json } => show_status(&as_root()?, json),
        Command::Launch {
            role,
            count,
            waiting,
            options,
        } => launch(&as_root()?, &role, count, &waiting, &options.read()?).await,
        Command::Lifecycle(command) => change_machine(&as_root()?, command).await,
        Command::Inside(command) => run_inside(&as_root()?, command),
        Command::Stack(command) => stacks::run(&as_root()?, command).await,
        Command::BenchApp(options) => benches::app(&as_root()?, &options).await,
        Command::BenchNodes(options) => benches::nodes(&as_root()?, &options).await,
        Command::Cloud(command) => ask_cloud(&as_root()?, command).await,
    }
}

/// The lab's folder, for a command that only root can run.
fn as_root() -> Result<Layout> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs root: it creates namespaces, mounts and control groups");
    }
    Layout::find()
}

async fn bring_up(layout: &Layout, wanted: &up::Wanted) -> Result<()> {
    let start = Instant::now();
    up::run(layout, wanted).await?;
    print!("{}", status::read(layout)?.table());
    println!("up in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn take_down(layout: &Layout) -> Result<()> {
    let start = Instant::now();
    let removed = down::run(layout)?;
    println!(
        "down in {:.1} s: {} processes, {} namespaces",
        start.elapsed().as_secs_f64(),
        removed.processes,
        removed.namespaces
    );
    Ok(())
}

fn show_status(layout: &Layout, json: bool) -> Result<()> {
    let status = status::read(layout)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status.table());
    }
    Ok(())
}

async fn launch(
    layout: &Layout,
    role: &str,
    count: u32,
    waiting: &Waiting,
    options: &Options,
) -> Result<()> {
    let progress = MultiProgress::new();
    let bar = up::step(&progress, "launching");
    let roles = vec![role; count as usize];
    let machines = lifecycle::launch(layout, &roles, options).await?;
    for machine in &machines {
        println!("{}", machine.name);
    }
    if waiting.until() == Until::Launched {
        return Ok(());
    }
    for machine in &machines {
        supervisor::wait_bus(layout, machine)?;
        up::finish(&bar, &format!("{} {} booted", machine.name, machine.id));
    }
    if waiting.until() == Until::Ready {
        up::wait_ready(
            layout,
            &machines,
            Duration::from_secs(waiting.deadline),
            &progress,
        )?;
    }
    Ok(())
}

async fn change_machine(layout: &Layout, command: Lifecycle) -> Result<()> {
    let (machine, what) = match command {
        Lifecycle::Terminate {
            machine,
            by_group: true,
        } => {
            let (machine, completed) =
                lifecycle::terminate_by_group(layout, &machine.instance, HEARTBEAT).await?;
            let how = if completed {
                "terminated after its hook was completed"
            } else {
                "terminated after its hook timed out"
            };
            (machine, how)
        }
        Lifecycle::Terminate { machine, .. } => (
            lifecycle::terminate(layout, &machine.instance, machine.hard).await?,
            "terminated",
        ),
        Lifecycle::Stop { machine } => (
            lifecycle::stop(layout, &machine.instance, machine.hard).await?,
            "stopped",
        ),
        Lifecycle::Start { instance } => (lifecycle::start(layout, &instance).await?, "running"),
        Lifecycle::Notice { instance, group } => {
            let notice = if group {
                Notice::Group { proceeds: false }
            } else {
                Notice::Spot(now() + 120)
            };
            let machine = lifecycle::notify(layout, &instance, notice).await?;
            (machine, "notified")
        }
        Lifecycle::Modify { instance, metadata } => (
            lifecycle::modify_metadata(layout, &instance, metadata.options())?,
            "modified",
        ),
    };
    println!("{} {} {what}", machine.name, machine.id);
    Ok(())
}

fn run_inside(layout: &Layout, command: Inside) -> Result<()> {
    let find = |wanted: &str| anyhow::Ok(State::require(layout)?.find(wanted)?.name.clone());
    match command {
        Inside::Exec { instance, command } => {
            enter::become_command(layout, &find(&instance)?, &command)?;
        }
        Inside::Kubectl { arguments } => kubernetes::become_kubectl(layout, &arguments)?,
        Inside::Visit {
            name,
            rate,
            seconds,
        } => network::become_visitors(&name, rate, seconds)?,
        Inside::Curl { arguments } => network::become_curl(&arguments)?,
        Inside::Logs { instance, console } => {
            let name = find(&instance)?;
            if console {
                let path = layout.machine(&name).join("console.log");
                print!("{}", String::from_utf8_lossy(&std::fs::read(path)?));
            } else {
                let words = ["journalctl", "--no-pager", "--unit=k8s-bootstrap"].map(str::to_owned);
                enter::become_command(layout, &name, &words)?;
            }
        }
    }
    Ok(())
}

async fn ask_cloud(layout: &Layout, command: Cloud) -> Result<()> {
    let aws = Aws::over_socket(layout)?;
    match command {
        Cloud::Faults(wanted) => aws.set_faults(&wanted).await?,
        Cloud::Policy { role, without } => {
            let role = format!("k8s-bootstrap-{role}");
            aws.put_policy(&role, &without).await?;
        }
        Cloud::Role {
            name,
            trust,
            policy,
        } => {
            let read = |path: &Path| {
                std::fs::read_to_string(path).with_context(|| path.display().to_string())
            };
            aws.create_role_for_pods(&name, &read(&trust)?, &read(&policy)?)
                .await?;
        }
        Cloud::Bucket { prefix } => {
            for key in aws.objects(up::BUCKET, &prefix).await? {
                println!("{key}");
            }
        }
        Cloud::Record { forget } => {
            let cluster = State::require(layout)?.cluster;
            if !forget.is_empty() {
                aws.forget(&cluster, &forget).await?;
            }
            for key in aws.record(&cluster).await? {
                println!("{key}");
            }
        }
        Cloud::MotoRestart => aws.restart_moto().await?,
    }
    Ok(())
}
