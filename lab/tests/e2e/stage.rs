//! The lab as the scenarios use it: through its command line.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lab::network::ARTIFACTS;
use libtest_mimic::Failed;
use serde_json::Value;

/// The one lab of a test run.
pub struct Stage {
    /// The lab's command.
    command: &'static str,
    broken: AtomicBool,
    /// How long each scenario took.
    took: Mutex<Vec<(&'static str, Duration)>>,
    /// What the failed ones said.
    failed: Mutex<Vec<String>>,
}

/// Settings of a cluster next to the scenarios' own, which keeps the workers' name: no add-on but
/// the network's.
pub const ONLY_THE_NETWORK: &str = "[dns]\nenabled = false\n[addons.storage]\nenabled = false\n\
     [addons.metrics-server]\nenabled = false\n[addons.ingress-traefik]\nenabled = false\n\
     [addons.visits]\nenabled = false\n";

/// The length of a failure in the summary at the end.
const SHORT: usize = 600;

static SHARED: OnceLock<Stage> = OnceLock::new();

/// Why this machine cannot run the lab; `None` if it can.
pub fn why_not_here() -> Option<String> {
    let missing = lab::host::missing();
    (!missing.is_empty()).then(|| missing.join("; "))
}

impl Stage {
    /// The stage, created once.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self {
            command: env!("CARGO_BIN_EXE_lab"),
            broken: AtomicBool::new(false),
            took: Mutex::default(),
            failed: Mutex::default(),
        })
    }

    /// Runs a scenario, unless the cluster itself never came up.
    pub fn play(
        &self,
        name: &'static str,
        scenario: fn(&Self) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        if self.broken.load(Ordering::Relaxed) {
            return Err("there is no cluster: see the first failure".into());
        }
        let begun = Instant::now();
        let outcome = scenario(self);
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        took.push((name, begun.elapsed()));
        if let Err(failure) = &outcome {
            let said: String = failure
                .message()
                .unwrap_or_default()
                .chars()
                .take(SHORT)
                .collect();
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.push(format!("{name}: {said}\n"));
        }
        outcome
    }

    /// The scenarios that took longest: they are worth making faster.
    fn slowest(&self) -> String {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        took.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        let line =
            |(name, time): &(&str, Duration)| format!("{:7.1} s  {name}\n", time.as_secs_f64());
        took.iter().take(20).map(line).collect()
    }

    /// Ends the lab after the last scenario. After a failure the lab stays up for a person to
    /// inspect, except in CI.
    pub fn leave(failed: bool) {
        let Some(stage) = SHARED.get() else {
            return;
        };
        eprint!("the slowest scenarios:\n{}", stage.slowest());
        // Repeated in short at the end, since often only the end of a long output is kept.
        let failures = stage.failed.lock().unwrap_or_else(PoisonError::into_inner);
        eprint!("{}", failures.concat());
        if failed && std::env::var_os("CI").is_none() {
            eprintln!("the lab is left running: `cargo run -p lab -- status`, `make clean-lab`");
            return;
        }
        let _ = Command::new(stage.command).arg("down").output();
    }

    /// Removes what an interrupted run left on this machine. A lab that is in use stays, and then
    /// `up` reports it.
    pub fn clear_remains(&self) {
        let _ = Command::new(self.command).arg("down").output();
    }

    /// Records that there is no cluster, so that the later scenarios are not run.
    pub fn no_cluster(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Runs the lab's command; it may fail.
    pub fn try_lab(&self, args: &[&str]) -> Result<Output, Failed> {
        Command::new(self.command)
            .args(args)
            .output()
            .map_err(|error| format!("cannot run the lab: {error}").into())
    }

    /// Starts the lab's command, to be finished later.
    pub fn start(&self, args: &[&str]) -> Result<Child, Failed> {
        Command::new(self.command)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run the lab: {error}").into())
    }

    /// Waits for a started command, and returns its output.
    pub fn finish(child: Child) -> Result<String, Failed> {
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!(
            "the lab's command ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
        .into())
    }

    /// Runs the lab's command and returns its output.
    pub fn lab(&self, args: &[&str]) -> Result<String, Failed> {
        let output = self.try_lab(args)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!(
            "`lab {}` ended with {}:\n{}{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into())
    }

    /// Launches a worker that need not become Ready, and returns its name.
    pub fn launch(&self, options: &[&str]) -> Result<String, Failed> {
        self.launch_as("worker", options)
    }

    /// Same, with a given role.
    pub fn launch_as(&self, role: &str, options: &[&str]) -> Result<String, Failed> {
        let args: Vec<&str> = ["launch", "--role", role, "--until", "booted"]
            .iter()
            .chain(options)
            .copied()
            .collect();
        Ok(self.lab(&args)?.trim().to_owned())
    }

    /// The lab's status of each machine, the newest last.
    pub fn machines(&self) -> Result<Vec<Value>, Failed> {
        let status = json(&self.lab(&["status", "--json"])?)?;
        Ok(list(&status["machines"]).to_vec())
    }

    /// The running control planes of the scenarios' cluster, the oldest first.
    pub fn control_planes(&self) -> Result<Vec<String>, Failed> {
        self.control_planes_of("demo")
    }

    /// Same, for another cluster.
    pub fn control_planes_of(&self, cluster: &str) -> Result<Vec<String>, Failed> {
        let is_of = |machine: &Value| {
            machine["role"] == "control-plane"
                && machine["phase"] == "running"
                && machine["tags"]["k8s-bootstrap:cluster"] == cluster
        };
        let machines = self.machines()?;
        let found = machines.iter().filter(|machine| is_of(machine));
        Ok(found.map(|machine| text(&machine["name"])).collect())
    }

    /// Runs a command in a machine.
    pub fn exec(&self, machine: &str, command: &[&str]) -> Result<String, Failed> {
        let args: Vec<&str> = ["exec", machine, "--"]
            .iter()
            .chain(command)
            .copied()
            .collect();
        self.lab(&args)
    }

    /// Runs a shell line in a machine.
    pub fn shell(&self, machine: &str, line: &str) -> Result<String, Failed> {
        self.exec(machine, &["sh", "-c", line])
    }

    /// Runs kubectl.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, Failed> {
        let args: Vec<&str> = ["kubectl", "--"].iter().chain(args).copied().collect();
        self.lab(&args)
    }

    /// Installs kubectl on a worker, which has none of its own, unless a scenario has done so.
    pub fn install_kubectl(&self, worker: &str) -> Result<(), Failed> {
        let line = format!(
            "command -v kubectl >/dev/null && exit; version=$(kubelet --version | cut -d ' ' -f 2) && cd /usr/local/bin && \
             curl -fsSO http://{ARTIFACTS}/dl.k8s.io/release/$version/bin/linux/$(dpkg --print-architecture)/kubectl && \
             chmod +x kubectl"
        );
        self.shell(worker, &line).map(drop)
    }

    /// Runs kubectl on a control plane of another cluster than the scenarios'.
    pub fn kubectl_on(&self, control_plane: &str, line: &str) -> Result<String, Failed> {
        let kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf";
        self.shell(control_plane, &format!("{kubectl} {line}"))
    }

    /// kubectl's answer as JSON.
    pub fn get(&self, args: &[&str]) -> Result<Value, Failed> {
        let args: Vec<&str> = ["get", "-o", "json"].iter().chain(args).copied().collect();
        json(&self.kubectl(&args)?)
    }

    /// The status of a machine's agent.
    pub fn agent(&self, machine: &str) -> Result<Value, Failed> {
        json(&self.exec(machine, &["k8s-bootstrap", "status", "--json"])?)
    }

    /// The journal of a machine's agent, one value per entry.
    pub fn journal(&self, machine: &str) -> Result<Vec<Value>, Failed> {
        self.exec(
            machine,
            &[
                "journalctl",
                "-u",
                "k8s-bootstrap",
                "-o",
                "json",
                "--no-pager",
            ],
        )?
        .lines()
        .map(json)
        .collect()
    }

    /// Starts the agent of a machine that was reset, as a person would.
    pub fn start_agent(&self, machine: &str) -> Result<(), Failed> {
        let unit = ["enable", "--now", "--no-block", "k8s-bootstrap"];
        self.exec(machine, &[&["systemctl"], &unit[..]].concat())
            .map(drop)
    }

    /// Fails while the API has a Node of this name.
    pub fn has_no_node(&self, name: &str) -> Result<(), Failed> {
        let nodes = self.kubectl(&["get", "nodes", "--output=name"])?;
        let there = nodes.lines().any(|line| line == format!("node/{name}"));
        ensure(!there, format!("{name} is still there"))
    }

    /// The certificates of a machine, as its agent lists them.
    pub fn certificates(&self, machine: &str) -> Result<Vec<Value>, Failed> {
        let said = self.exec(machine, &["k8s-bootstrap", "certificates", "--json"])?;
        Ok(list(&json(&said)?["certificates"]).to_vec())
    }

    /// Pods that a controller manages on Ready nodes, with the number of their containers' restarts.
    /// A pod of a node that is gone does not count: it is deleted a minute later.
    pub fn workloads(&self) -> Result<BTreeMap<String, u64>, Failed> {
        let nodes = self.ready_nodes()?;
        let pods = self.get(&["pods", "-A"])?;
        let counts = |pod: &&Value| {
            let owner = &pod["metadata"]["ownerReferences"][0]["kind"];
            let stays = pod["metadata"]["deletionTimestamp"].is_null();
            let node = text(&pod["spec"]["nodeName"]);
            owner.is_string() && owner != "Node" && stays && nodes.contains(&node)
        };
        let pods = list(&pods["items"]).iter().filter(counts);
        Ok(pods
            .map(|pod| (text(&pod["metadata"]["name"]), restarts(pod)))
            .collect())
    }

    /// Fails if one of these [`workloads`](Self::workloads) was restarted since, or is gone.
    pub fn none_was_restarted(&self, before: &BTreeMap<String, u64>) -> Result<(), Failed> {
        let pods = self.get(&["pods", "-A"])?;
        let mut changed = Vec::new();
        for (name, number) in before {
            let mut now = list(&pods["items"]).iter();
            match now.find(|pod| pod["metadata"]["name"] == **name) {
                Some(pod) if restarts(pod) == *number => {}
                Some(pod) => changed.push(format!(
                    "{name} on {}: {number} restarts before, now {}",
                    pod["spec"]["nodeName"], pod["status"]["containerStatuses"]
                )),
                None => changed.push(format!("{name} is gone")),
            }
        }
        ensure(changed.is_empty(), changed.join("\n"))
    }

    /// The names of the nodes that are Ready.
    pub fn ready_nodes(&self) -> Result<Vec<String>, Failed> {
        Ok(ready_nodes(&self.get(&["nodes"])?))
    }
}

/// A pod that runs a shell command on this node.
pub fn pod(name: &str, node: &str, command: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "nodeName": node, "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": "docker.io/lab/busybox:1", "command": ["sh", "-c", command] }],
        },
    })
}

/// How often the containers of this pod were restarted.
fn restarts(pod: &Value) -> u64 {
    let containers = list(&pod["status"]["containerStatuses"]).iter();
    containers.filter_map(|c| c["restartCount"].as_u64()).sum()
}

/// The names of the nodes that are Ready, in kubectl's list of nodes.
pub fn ready_nodes(nodes: &Value) -> Vec<String> {
    let is_ready = |node: &&Value| {
        list(&node["status"]["conditions"])
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let ready = list(&nodes["items"]).iter().filter(is_ready);
    ready.map(|node| text(&node["metadata"]["name"])).collect()
}

/// Parses JSON, with the text in the error.
pub fn json(text: &str) -> Result<Value, Failed> {
    serde_json::from_str(text).map_err(|error| format!("no JSON ({error}): {text}").into())
}

/// A JSON list; empty if it is not one.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A JSON string; empty if it is not one.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Fails with a message unless the condition holds.
pub fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<(), Failed> {
    if holds {
        Ok(())
    } else {
        Err(otherwise.into().into())
    }
}

/// Everything may take this many times as long as on two idle processors with a disk of their own.
const TOLERANCE: u32 = 3;

/// Polls until the condition holds; the last reason is the error. `seconds` are those of an idle
/// machine. Long waits poll less often, because each check costs the machines processor time.
pub fn until<T>(
    seconds: u64,
    what: &str,
    look: impl Fn() -> Result<T, Failed>,
) -> Result<T, Failed> {
    let whole = Duration::from_secs(seconds);
    let pause = (whole / 240).max(Duration::from_millis(500));
    let begun = Instant::now();
    let end = begun + whole * TOLERANCE;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(reason) if Instant::now() >= end => {
                let reason = reason.message().unwrap_or_default().to_owned();
                let waited = begun.elapsed().as_secs();
                return Err(format!("{what}: not within {waited} s: {reason}").into());
            }
            Err(_) => std::thread::sleep(pause),
        }
    }
}
