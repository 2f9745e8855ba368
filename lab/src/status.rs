//! The current state of the lab.

use anyhow::Result;
use serde::Serialize;

use crate::down;
use crate::layout::Layout;
use crate::machine::{cgroups, enter, vm};
use crate::state::{Kind, Machine, Phase, State};

/// The agent's endpoint in a machine.
const READYZ: &str = "http://127.0.0.1:9469/readyz";

/// The lab, for people and for programs.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Whether the lab's servers run.
    pub servers: bool,
    /// All machines, including terminated ones.
    pub machines: Vec<Row>,
}

/// One machine.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The machine as in the state.
    #[serde(flatten)]
    pub machine: Machine,
    /// The name of its node: its private DNS name.
    pub node: String,
    /// The process id of its systemd, or of its QEMU, on the host.
    pub pid: Option<i32>,
    /// Whether the agent says it is ready.
    pub ready: bool,
    /// The agent's status: its unit state and STATUS= line.
    pub agent: String,
}

/// Asks the agent's `/readyz`.
pub fn agent_is_ready(layout: &Layout, name: &str) -> bool {
    let words = [
        "curl",
        "--fail",
        "--silent",
        "--max-time",
        "2",
        "--output",
        "/dev/null",
        READYZ,
    ];
    enter::output(layout, name, &words).is_ok_and(|output| output.status.success())
}

/// The agent's unit in systemd: its state and its STATUS= line.
pub fn agent_word(layout: &Layout, name: &str) -> String {
    let words = [
        "systemctl",
        "show",
        "k8s-bootstrap",
        "--property=ActiveState,SubState,StatusText",
    ];
    let Ok(output) = enter::output(layout, name, &words) else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .to_owned()
    };
    let state = format!("{}/{}", value("ActiveState"), value("SubState"));
    match value("StatusText") {
        words if words.is_empty() => state,
        words => format!("{state}: {words}"),
    }
}

/// Collects the status of everything.
pub fn read(layout: &Layout) -> Result<Status> {
    let state = State::require(layout)?;
    let machines = state
        .machines
        .into_iter()
        .map(|machine| {
            let running = machine.phase == Phase::Running;
            let pid = match machine.kind {
                Kind::Container => cgroups::init_process(&machine.name),
                Kind::Vm => vm::processes(&machine.name).first().copied(),
            };
            Row {
                node: machine.private_dns(),
                ready: running && agent_is_ready(layout, &machine.name),
                agent: if running {
                    agent_word(layout, &machine.name)
                } else {
                    String::new()
                },
                pid,
                machine,
            }
        })
        .collect();
    Ok(Status {
        servers: !down::servers(layout).is_empty(),
        machines,
    })
}

impl Status {
    /// A table for people.
    pub fn table(&self) -> String {
        use std::fmt::Write;
        let mut text = format!(
            "servers {}\n{:<5} {:<20} {:<14} {:<11} {:<10} {:<6} AGENT\n",
            if self.servers {
                "up"
            } else {
                "DOWN: `lab down`, then `lab up`"
            },
            "NAME",
            "INSTANCE",
            "ROLE",
            "ADDRESS",
            "STATE",
            "READY",
        );
        for row in &self.machines {
            let m = &row.machine;
            let _ = writeln!(
                text,
                "{:<5} {:<20} {:<14} {:<11} {:<10} {:<6} {}",
                m.name,
                m.id,
                m.role,
                m.address,
                m.phase.name(),
                if row.ready { "yes" } else { "no" },
                row.agent
            );
        }
        text
    }
}
