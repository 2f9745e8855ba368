//! Dispatches the commands.

mod arguments;
mod benches;
mod stacks;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::MultiProgress;
use lab::ec2::client::Aws;
use lab::layout::Layout;
use lab::lifecycle::{self, Options};
use lab::machine::{enter, supervisor};
use lab::state::{Notice, State, now};
use lab::up::{self, Until};
use lab::{components, down, host, kubernetes, serve, status};

pub use arguments::Cli;
use arguments::{Command, Waiting};

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
    match cli.command {
        Command::Serve { dir, www, images } => {
            return serve::run(&Layout::at(dir), www, &images).await;
        }
        Command::Supervise { dir, name, rootfs } => {
            return supervisor::run(&Layout::at(dir), &name, &rootfs).await;
        }
        Command::Visitors {
            name,
            rate,
            seconds,
        } => {
            let report = lab::visitors::run(&name, rate, seconds).await?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(());
        }
        _ => {}
    }
    if matches!(cli.command, Command::Check) {
        return host::check();
    }
    if benches::show_earlier(&cli.command)? {
        return Ok(());
    }
    if let Command::Image { output } = &cli.command {
        return image(output);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs root: it creates namespaces, mounts and control groups");
    }
    let layout = Layout::find()?;
    match cli.command {
        Command::Up {
            control_planes,
            workers,
            waiting,
            options,
        } => {
            let wanted = up::Wanted {
                control_planes,
                workers,
                until: waiting.until(),
                deadline: Duration::from_secs(waiting.deadline),
                options: options.read()?,
            };
            let start = Instant::now();
            up::run(&layout, &wanted).await?;
            print!("{}", status::read(&layout)?.table());
            println!("up in {:.1} s", start.elapsed().as_secs_f64());
            Ok(())
        }
        Command::Down => {
            let start = Instant::now();
            let removed = down::run(&layout)?;
            println!(
                "down in {:.1} s: {} processes, {} namespaces",
                start.elapsed().as_secs_f64(),
                removed.processes,
                removed.namespaces
            );
            Ok(())
        }
        Command::Status { json } => {
            let status = status::read(&layout)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                print!("{}", status.table());
            }
            Ok(())
        }
        Command::Launch {
            role,
            count,
            waiting,
            options,
        } => launch(&layout, &role, count, &waiting, &options.read()?).await,
        Command::Stack(command) => stacks::run(&layout, command).await,
        Command::BenchApp(options) => benches::app(&layout, &options).await,
        Command::BenchNodes(options) => benches::nodes(&layout, &options).await,
        other => run_on_one(&layout, other).await,
    }
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

async fn run_on_one(layout: &Layout, command: Command) -> Result<()> {
    let said = |machine: lab::state::Machine, what: &str| {
        println!("{} {} {what}", machine.name, machine.id);
    };
    let find = |wanted: &str| anyhow::Ok(State::require(layout)?.find(wanted)?.name.clone());
    match command {
        Command::Terminate {
            machine,
            by_group: true,
        } => {
            let (machine, completed) =
                lifecycle::terminate_by_group(layout, &machine.instance).await?;
            let how = if completed {
                "terminated after its hook was completed"
            } else {
                "terminated after its hook timed out"
            };
            said(machine, how);
        }
        Command::Terminate { machine, .. } => {
            said(
                lifecycle::terminate(layout, &machine.instance, machine.hard).await?,
                "terminated",
            );
        }
        Command::Stop { machine } => {
            said(
                lifecycle::stop(layout, &machine.instance, machine.hard).await?,
                "stopped",
            );
        }
        Command::Start { instance } => said(lifecycle::start(layout, &instance).await?, "running"),
        Command::Exec { instance, command } => {
            enter::become_command(layout, &find(&instance)?, &command)?;
        }
        Command::Kubectl { arguments } => kubernetes::become_kubectl(layout, &arguments)?,
        Command::Visit {
            name,
            rate,
            seconds,
        } => lab::network::become_visitors(&name, rate, seconds)?,
        Command::Curl { arguments } => lab::network::become_curl(&arguments)?,
        Command::Logs { instance, console } => {
            let name = find(&instance)?;
            if console {
                let path = layout.machine(&name).join("console.log");
                print!("{}", String::from_utf8_lossy(&std::fs::read(path)?));
            } else {
                let words = ["journalctl", "--no-pager", "--unit=k8s-bootstrap"].map(str::to_owned);
                enter::become_command(layout, &name, &words)?;
            }
        }
        Command::Faults(options) => {
            Aws::over_socket(layout)?
                .set_faults(&options.wanted())
                .await?;
        }
        Command::Modify { instance, metadata } => {
            said(
                lifecycle::modify_metadata(layout, &instance, metadata.options())?,
                "modified",
            );
        }
        Command::Policy { role, without } => {
            let role = format!("k8s-bootstrap-{role}");
            Aws::over_socket(layout)?
                .put_policy(&role, &without)
                .await?;
        }
        Command::Notice { instance, group } => {
            let notice = if group {
                Notice::Group { proceeds: false }
            } else {
                Notice::Spot(now() + 120)
            };
            said(
                lifecycle::notify(layout, &instance, notice).await?,
                "notified",
            );
        }
        Command::Bucket { prefix } => {
            for key in Aws::over_socket(layout)?
                .objects(up::BUCKET, &prefix)
                .await?
            {
                println!("{key}");
            }
        }
        Command::Record { forget } => {
            let cluster = State::require(layout)?.cluster;
            let aws = Aws::over_socket(layout)?;
            if !forget.is_empty() {
                aws.forget(&cluster, &forget).await?;
            }
            for key in aws.record(&cluster).await? {
                println!("{key}");
            }
        }
        Command::MotoRestart => Aws::over_socket(layout)?.restart_moto().await?,
        _ => bail!("this command is not meant for one machine"),
    }
    Ok(())
}
