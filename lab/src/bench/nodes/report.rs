//! The results of the bench of nodes.

use serde::{Deserialize, Serialize};

use crate::bench::figures::{Machine, Spread, interval, p90};

/// A whole bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine that everything ran on.
    pub machine: Machine,
    /// One series for each case.
    pub series: Vec<Series>,
}

/// Which kind of node becomes Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// A worker with nothing on its disk, which joins one control plane.
    Worker,
    /// The control plane that founds a cluster, with nothing on its disk.
    FirstControlPlane,
}

/// The two sides of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// This project's agent, from its user-data.
    Agent,
    /// The script in bench/plain-kubeadm, as user-data.
    Script,
}

/// All pairs of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Which kind of node both sides make.
    pub case: Case,
    /// Its pairs in the order in which they ran.
    pub pairs: Vec<Pair>,
}

/// Two runs directly after each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// With the agent.
    pub agent: Run,
    /// With the script.
    pub script: Run,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// From the start of the user-data's script until the API server shows the node as Ready.
    pub seconds: f64,
    /// Its steps, which may overlap.
    pub steps: Vec<Step>,
    /// What the agent itself used until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
}

/// A part of a run, in seconds from its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The agent's phase, or what the script calls it.
    pub name: String,
    /// When it began.
    pub begin: f64,
    /// When it ended.
    pub end: f64,
}

/// What the agent's own process used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Processor time in seconds, without the programs that it started.
    pub processor: f64,
    /// Most resident memory at one time, in MiB.
    pub memory_mib: f64,
    /// Programs that it started.
    #[serde(default)]
    pub programs: f64,
    /// Requests that it sent to AWS.
    #[serde(default)]
    pub aws_requests: f64,
    /// What it downloaded, without images, in MiB.
    #[serde(default)]
    pub downloaded_mib: f64,
}

impl Case {
    /// As tables and charts name it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::FirstControlPlane => "first control plane",
        }
    }
}

impl Contender {
    /// As tables and charts name it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Agent => "k8s-bootstrap",
            Self::Script => "plain kubeadm",
        }
    }
}

impl Pair {
    /// A pair of these runs, in any order; `None` if one is missing.
    pub fn of(runs: Vec<(Contender, Run)>) -> Option<Self> {
        let (mut agent, mut script) = (None, None);
        for (of, run) in runs {
            match of {
                Contender::Agent => agent = Some(run),
                Contender::Script => script = Some(run),
            }
        }
        Some(Self {
            agent: agent?,
            script: script?,
        })
    }

    /// How many times as long the script took.
    pub fn ratio(&self) -> f64 {
        self.script.seconds / self.agent.seconds
    }
}

impl Series {
    /// The runs of one side.
    pub fn runs(&self, of: Contender) -> impl Iterator<Item = &Run> {
        self.pairs.iter().map(move |pair| match of {
            Contender::Agent => &pair.agent,
            Contender::Script => &pair.script,
        })
    }

    /// Median, minimum and maximum seconds of one side.
    pub fn seconds(&self, of: Contender) -> Spread {
        Spread::of(self.runs(of).map(|run| run.seconds))
    }

    /// The seconds that nine of ten runs do not exceed.
    pub fn p90(&self, of: Contender) -> f64 {
        p90(self.runs(of).map(|run| run.seconds))
    }

    /// The median of the pairs' ratios, and its interval of 95 % confidence.
    pub fn ratio(&self) -> (f64, Option<(f64, f64)>) {
        let ratios = || self.pairs.iter().map(Pair::ratio);
        (Spread::of(ratios()).median, interval(ratios()))
    }

    /// Medians of what the agent itself used.
    pub fn used(&self) -> Option<Used> {
        let used: Vec<Used> = self
            .runs(Contender::Agent)
            .filter_map(|run| run.used)
            .collect();
        let median = |of: fn(&Used) -> f64| Spread::of(used.iter().map(of)).median;
        (!used.is_empty()).then(|| Used {
            processor: median(|used| used.processor),
            memory_mib: median(|used| used.memory_mib),
            programs: median(|used| used.programs),
            aws_requests: median(|used| used.aws_requests),
            downloaded_mib: median(|used| used.downloaded_mib),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A report of workers.
    pub fn of_workers(pairs: Vec<Pair>) -> Report {
        Report {
            machine: Machine {
                processors: 2,
                model: "Example CPU".to_owned(),
            },
            series: vec![Series {
                case: Case::Worker,
                pairs,
            }],
        }
    }
}
