//! The lab's servers, one process inside the VPC's namespace.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::ec2::client::Aws;
use crate::ec2::credentials::Credentials;
use crate::ec2::proxy::{self, Api};
use crate::layout::{Layout, namespace};
use crate::state::StateReader;
use crate::{artifacts, dhcp, forward_proxy, imds, process, registry, resolver, tls};

/// Held by the lab's servers: a machine can have only one lab, because namespaces and control
/// groups belong to the machine, whatever folder the lab is in.
const MACHINE_LOCK: &str = "/run/lock/k8s-bootstrap-lab";
/// Longest start of the servers, moto's included.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// Takes the machine's lock, or fails with its holder.
fn take_machine_lock(layout: &Layout) -> Result<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(MACHINE_LOCK)
        .with_context(|| format!("cannot open {MACHINE_LOCK}: the lab needs root"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            std::fs::write(MACHINE_LOCK, layout.dir().display().to_string())?;
            Ok(lock)
        }
        Err(_) => bail!(
            "another lab runs on this machine, in {}: stop it with `lab down` there",
            std::fs::read_to_string(MACHINE_LOCK).unwrap_or_default()
        ),
    }
}

/// Fails if a lab runs on this machine, here or in another folder.
pub fn check_alone(layout: &Layout) -> Result<()> {
    take_machine_lock(layout).map(drop)
}

/// Starts the servers in a separate process and waits until they answer.
pub async fn start(layout: &Layout, www: &Path, images: &Path) -> Result<()> {
    let own = std::env::current_exe().context("cannot find the lab's own program")?;
    let log = layout.run().join("serve.log");
    let network = format!("--net=/run/netns/{}", namespace("vpc"));
    let arguments: Vec<String> = vec![
        network,
        "--".into(),
        own.to_string_lossy().into_owned(),
        "serve".into(),
        layout.dir().to_string_lossy().into_owned(),
        www.to_string_lossy().into_owned(),
        images.to_string_lossy().into_owned(),
    ];
    let pid = process::start_detached("nsenter", &arguments, &log)?.cast_signed();
    let aws = Aws::over_socket(layout)?;
    let end = Instant::now() + START_DEADLINE;
    while !aws.is_up().await {
        if !process::is_alive(pid) || Instant::now() > end {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!(
                "the lab's servers did not start; {} shows:\n{said}",
                log.display()
            );
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Runs the servers until a signal or until one of them fails.
pub async fn run(layout: &Layout, www: PathBuf, images: &Path) -> Result<()> {
    let _lock = take_machine_lock(layout)?;
    let state = Arc::new(StateReader::new(layout));
    let tls = tls::create(&layout.run().join("ca.pem"))?;
    let _registry = registry::start(layout, images)?;
    let _dhcp = dhcp::start(layout)?;
    let _proxy = forward_proxy::start(layout)?;
    let api = Api::start(layout).await?;
    let socket = UnixListener::bind(layout.socket())
        .with_context(|| format!("cannot listen on {}", layout.socket().display()))?;
    let mut ended = signal(SignalKind::terminate())?;
    let folders = vec![layout.run().join("www"), www];
    tracing::info!("the lab's servers are up");
    tokio::select! {
        done = resolver::serve(Arc::clone(&state), layout) => done.context("the resolver failed"),
        done = imds::serve(state, layout, Credentials::new(layout, api.restarts())?, api.shared_faults()) => done.context("the metadata service failed"),
        done = artifacts::serve(folders) => done.context("the artifact server failed"),
        done = proxy::serve_machines(Arc::clone(&api), tls) => done.context("the AWS API failed"),
        done = async { axum::serve(socket, proxy::control(api)).await } => done.context("the control socket failed"),
        _ = ended.recv() => Ok(()),
    }
}
