//! A cluster of one side, and the time at which its nodes are Ready.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};

use super::report::{Contender, Run};
use super::run;
use super::script::{self, Join};
use crate::layout::{Layout, namespace};
use crate::lifecycle::{self, Image, Options};
use crate::machine::enter;
use crate::process;
use crate::state::{CLUSTER_TAG, Machine};
use crate::up::describe_failure;

/// How long a machine may take to become a Ready node, from its launch.
const LONGEST_RUN: Duration = Duration::from_mins(5);
/// How long the bench waits before it asks again an API server that does not answer yet.
const NOT_YET: Duration = Duration::from_millis(200);

/// How much of a machine's console a failure shows, in bytes.
const LAST: usize = 4096;

/// Disables the add-ons that the script does not deploy either.
const SETTINGS: &str = "
addons.storage.enabled = false
addons.metrics-server.enabled = false
addons.ingress-traefik.enabled = false
addons.visits.enabled = false
";

/// A running cluster with one control plane.
pub struct Cluster {
    layout: Layout,
    of: Contender,
    /// The agents' name for it.
    name: String,
    control_plane: Machine,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Launches a control plane, which founds a cluster, and waits until its node is Ready.
    ///
    /// Each of the agent's clusters needs its own `name`: under the name of a terminated cluster, a
    /// control plane would first spend minutes making sure that that cluster is gone.
    pub async fn found(layout: &Layout, of: Contender, name: &str) -> Result<(Self, Run)> {
        let options = match of {
            Contender::Agent => by_agent(name),
            Contender::Script => by_script(script::control_plane(layout)?),
        };
        let control_plane = launch(layout, "control-plane", &options).await?;
        let cluster = Self {
            layout: layout.clone(),
            of,
            name: name.to_owned(),
            kubeconfig: cluster_kubeconfig(layout, of, &control_plane)?,
            control_plane,
        };
        let run = cluster.run_of(&cluster.control_plane, Watch::start(&cluster)?)?;
        Ok((cluster, run))
    }

    /// Launches a worker and waits until its node is Ready.
    pub async fn join(&self) -> Result<(Machine, Run)> {
        let options = match self.of {
            Contender::Agent => by_agent(&self.name),
            Contender::Script => {
                let create = ["kubeadm", "token", "create", "--print-join-command"];
                let join = Join::parse(&enter::text(
                    &self.layout,
                    &self.control_plane.name,
                    &create,
                )?)
                .context("kubeadm printed no join command")?;
                by_script(script::worker(&self.layout, &join)?)
            }
        };
        let watch = Watch::start(self)?;
        let worker = launch(&self.layout, "worker", &options).await?;
        let run = self.run_of(&worker, watch)?;
        Ok((worker, run))
    }

    /// Waits until the pods of the whole cluster are ready.
    pub fn settle(&self) -> Result<()> {
        let wait = [
            "wait",
            "--for=condition=Ready",
            "pods",
            "--all",
            "--all-namespaces",
        ];
        self.kubectl(&[&wait[..], &["--timeout=300s"]].concat())
            .map(drop)
    }

    /// Terminates a worker and waits until its Node is gone.
    pub async fn remove(&self, worker: &Machine) -> Result<()> {
        lifecycle::terminate(&self.layout, &worker.name, true).await?;
        let node = self.node_name(worker);
        if self.of == Contender::Script {
            self.kubectl(&["delete", "node", &node])?;
        }
        let name = format!("node/{node}");
        self.kubectl(&["wait", "--for=delete", &name, "--timeout=300s"])
            .map(drop)
    }

    /// Terminates the control plane.
    pub async fn end(self) -> Result<()> {
        lifecycle::terminate(&self.layout, &self.control_plane.name, true).await?;
        Ok(())
    }

    /// kubeadm takes the host's name, the agent EC2's.
    fn node_name(&self, machine: &Machine) -> String {
        match self.of {
            Contender::Agent => machine.private_dns(),
            Contender::Script => machine.hostname(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let own = namespace(&self.control_plane.name);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{own}"))
            .arg("--")
            .arg(Image::load(&self.layout)?.kubectl)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        Ok(command)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(arguments)?
            .output()
            .context("cannot start nsenter")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run_of(&self, machine: &Machine, mut watch: Watch<'_>) -> Result<Run> {
        let ready = watch
            .until_ready(&self.node_name(machine))
            .map_err(|error| {
                anyhow!("{error:#}\n{}", last_words(&self.layout, self.of, machine))
            })?;
        run::read(&self.layout, machine, self.of, ready)
    }
}

/// The end of the machine's log, since its disk is removed when the bench ends.
fn last_words(layout: &Layout, of: Contender, machine: &Machine) -> String {
    match of {
        Contender::Agent => describe_failure(layout, &machine.name),
        Contender::Script => {
            let console = fs::read(layout.machine(&machine.name).join("console.log"));
            let console = console.unwrap_or_default();
            let from = console.len().saturating_sub(LAST);
            let console = console.get(from..).unwrap_or_default();
            format!("--- {}\n{}", machine.name, String::from_utf8_lossy(console))
        }
    }
}

fn by_agent(cluster: &str) -> Options {
    Options {
        settings: SETTINGS.to_owned(),
        tags: BTreeMap::from([(CLUSTER_TAG.to_owned(), cluster.to_owned())]),
        ..Options::default()
    }
}

/// An instance that no agent takes for one of its cluster, since it has no tags.
fn by_script(user_data: String) -> Options {
    let none = |key: &str| (key.to_owned(), String::new());
    Options {
        user_data: Some(user_data),
        tags: BTreeMap::from([none(CLUSTER_TAG), none("k8s-bootstrap:role")]),
        ..Options::default()
    }
}

async fn launch(layout: &Layout, role: &str, options: &Options) -> Result<Machine> {
    let machines = lifecycle::launch(layout, &[role], options).await?;
    machines
        .into_iter()
        .next()
        .context("no machine was launched")
}

/// The administrator's kubeconfig, as soon as kubeadm has written it.
fn cluster_kubeconfig(layout: &Layout, of: Contender, machine: &Machine) -> Result<PathBuf> {
    let written = layout
        .machine(&machine.name)
        .join("up/etc/kubernetes/admin.conf");
    let whole = || fs::read_to_string(&written).is_ok_and(|text| text.contains("client-key-data"));
    if !process::wait_until(LONGEST_RUN, whole) {
        let said = last_words(layout, of, machine);
        bail!(
            "{} has no admin.conf
{said}",
            machine.name
        );
    }
    let file = layout.run().join(format!("kubeconfig-{}", machine.name));
    fs::copy(&written, &file).with_context(|| format!("cannot copy {}", written.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// `kubectl get nodes --watch`, started again when it ends: a first control plane's API server does
/// not answer yet.
struct Watch<'a> {
    cluster: &'a Cluster,
    kubectl: Child,
    /// What it prints, and when, in seconds since 1970.
    lines: Receiver<(f64, String)>,
}

impl<'a> Watch<'a> {
    fn start(cluster: &'a Cluster) -> Result<Self> {
        let columns =
            r#"jsonpath={.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}"#;
        let mut kubectl = cluster
            .command(&["get", "nodes", "--watch", "--output", columns])?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start nsenter")?;
        let printed = kubectl.stdout.take().context("kubectl has no output")?;
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(printed).lines().map_while(Result::ok) {
                if send.send((now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            cluster,
            kubectl,
            lines,
        })
    }

    /// The second since 1970 at which the API server first shows the node as Ready.
    fn until_ready(&mut self, node: &str) -> Result<f64> {
        let wanted = format!("{node} True");
        let end = Instant::now() + LONGEST_RUN;
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok((at, line)) if line == wanted => return Ok(at),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{node} is not Ready within {} s", LONGEST_RUN.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) if Instant::now() < end => {
                    thread::sleep(NOT_YET);
                    *self = Self::start(self.cluster)?;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "the API server does not answer within {} s",
                        LONGEST_RUN.as_secs()
                    )
                }
            }
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
