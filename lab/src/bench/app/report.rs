//! The results of a bench: written as JSON, shown as a table and as a chart.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hey::{Answers, Load};
use crate::bench::figures::{Machine, Spread, count};

/// A whole bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine that it ran on.
    pub machine: Machine,
    /// The load of each run.
    pub load: Load,
    /// Replicas and resources of each application.
    pub each: Each,
    /// The two applications, the project's own first.
    pub subjects: Vec<Subject>,
}

/// What both applications had equally.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Each {
    /// Pods of each application.
    pub replicas: u64,
    /// Requests and limits of each pod's container, as Kubernetes writes them.
    pub resources: Value,
}

/// One of the two applications.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// As tables and charts show it: `visits` or `Flask`.
    pub name: String,
    /// Its runs, in the order in which they ran.
    pub rounds: Vec<Round>,
    /// Its counter in Redis, compared with the requests of all runs.
    pub count: Count,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The load generator's results.
    pub answers: Answers,
    /// Who used the processors during the run.
    pub processors: Processors,
    /// Memory of the pods in bytes, at the end of the run.
    pub resident_bytes: u64,
}

/// Seconds of processor time during one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Processors {
    /// The subject's pods.
    pub pods: f64,
    /// The ingress controller's pods.
    pub ingress: f64,
    /// Redis's pod.
    pub redis: f64,
    /// The load generator.
    pub load: f64,
    /// Everything else in the machines: agents, kubelets, the control plane, the network.
    pub cluster: f64,
    /// Idle time.
    pub idle: f64,
}

/// A counter in Redis before and after all runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Its value before the runs.
    pub before: u64,
    /// How many requests were sent in between.
    pub sent: u64,
    /// How many of those requests got the page.
    pub answered: u64,
    /// Its value after the runs.
    pub after: u64,
}

impl Count {
    /// Whether each answered request was counted once. A request without an answer may have been
    /// counted before its answer was lost.
    pub fn is_exact(&self) -> bool {
        (self.before + self.answered..=self.before + self.sent).contains(&self.after)
    }
}

impl Subject {
    /// The spread of a figure over the rounds.
    pub fn spread(&self, figure: impl Fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(figure))
    }

    /// Failed requests and sent requests, over all rounds.
    pub fn failed(&self) -> (u64, u64) {
        let sum = |figure: fn(&Answers) -> u64| {
            let each = self.rounds.iter().map(|round| figure(&round.answers));
            each.sum::<u64>()
        };
        (sum(Answers::failed), sum(Answers::requests))
    }
}

impl Round {
    /// Processor seconds per 1,000 requests.
    pub fn per_thousand(&self, seconds: f64) -> f64 {
        seconds * 1000.0 / count(self.answers.requests().max(1))
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> f64 {
        count(self.resident_bytes) / 1024.0 / 1024.0
    }
}

/// The load test that the original cluster's author published: a Flask application on three
/// c7i-flex.large. Measured on other machines, so for orientation only.
pub mod elsewhere {
    /// Requests per second.
    pub const PER_SECOND: f64 = 177.24;
    /// Mean time in milliseconds.
    pub const AVERAGE_MS: f64 = 2650.0;
    /// Half of the answers, in milliseconds.
    pub const P50_MS: f64 = 1185.0;
    /// Nine of ten answers, in milliseconds.
    pub const P90_MS: f64 = 5978.0;
    /// 99 of 100 answers, in milliseconds.
    pub const P99_MS: f64 = 18785.0;
    /// Requests that timed out, of 50,000.
    pub const TIMED_OUT: u64 = 48;
    /// Size of a page in bytes.
    pub const PAGE_BYTES: f64 = 7228.0;
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use std::collections::BTreeMap;

    use super::super::{chart, table};
    use super::*;

    fn round(per_second: f64, pods: f64, resident_mib: u64) -> Round {
        Round {
            answers: Answers {
                seconds: 50_000.0 / per_second,
                per_second,
                average_ms: 500_000.0 / per_second,
                p50_ms: 400_000.0 / per_second,
                p90_ms: 800_000.0 / per_second,
                p99_ms: 1_200_000.0 / per_second,
                slowest_ms: 2_000_000.0 / per_second,
                page_bytes: 7162,
                statuses: BTreeMap::from([(200, 50_000)]),
                errors: BTreeMap::new(),
            },
            processors: Processors {
                pods,
                ingress: 12.5,
                redis: 0.5,
                load: 10.0,
                cluster: 2.5,
                idle: 1.0,
            },
            resident_bytes: resident_mib * 1024 * 1024,
        }
    }

    /// Three rounds each; the second application lost one request.
    pub fn example() -> Report {
        let mut second = Subject {
            name: "Flask".to_owned(),
            rounds: vec![
                round(400.0, 110.0, 310),
                round(380.0, 115.0, 320),
                round(390.0, 112.5, 330),
            ],
            count: Count {
                before: 1,
                sent: 150_000,
                answered: 149_999,
                after: 150_000,
            },
        };
        let answers = &mut second.rounds[1].answers;
        answers.statuses = BTreeMap::from([(200, 49_999)]);
        answers.errors = BTreeMap::from([("timed out".to_owned(), 1)]);
        Report {
            machine: Machine {
                processors: 2,
                model: "Example CPU".to_owned(),
            },
            load: Load {
                requests: 50_000,
                concurrency: 500,
                timeout_seconds: 20,
            },
            each: Each {
                replicas: 2,
                resources: serde_json::json!({
                    "requests": { "cpu": "100m", "memory": "128Mi" },
                    "limits": { "memory": "512Mi" },
                }),
            },
            subjects: vec![
                Subject {
                    name: "visits".to_owned(),
                    rounds: vec![
                        round(4000.0, 5.0, 12),
                        round(3900.0, 5.5, 14),
                        round(4100.0, 4.5, 13),
                    ],
                    count: Count {
                        before: 7,
                        sent: 150_000,
                        answered: 150_000,
                        after: 150_007,
                    },
                },
                second,
            ],
        }
    }

    #[test]
    fn failures_add_up_over_the_rounds() {
        let report = example();
        assert_eq!(report.subjects[0].failed(), (0, 150_000));
        assert_eq!(report.subjects[1].failed(), (1, 150_000));
    }

    #[test]
    fn a_count_is_exact_only_to_the_last_request() {
        let mut count = example().subjects[0].count.clone();
        assert!(count.is_exact());
        count.after += 1;
        assert!(!count.is_exact());
        count.after -= 2;
        assert!(!count.is_exact());
    }

    #[test]
    fn a_request_without_an_answer_may_be_counted_or_not() {
        let mut count = example().subjects[1].count.clone();
        assert!(count.is_exact());
        count.after += 1;
        assert!(count.is_exact());
        count.after += 1;
        assert!(!count.is_exact());
    }

    #[test]
    fn processor_time_is_shown_per_thousand_requests() {
        let round = round(4000.0, 5.0, 12);
        assert_eq!(round.per_thousand(round.processors.pods), 0.1);
        assert_eq!(round.resident_mib(), 12.0);
    }

    #[test]
    fn a_report_is_the_same_after_writing_and_reading_it() {
        let report = example();
        let file = serde_json::to_string_pretty(&report).unwrap();
        let again: Report = serde_json::from_str(&file).unwrap();
        assert_eq!(table::text(&again), table::text(&report));
        assert_eq!(chart::svg(&again), chart::svg(&report));
    }
}
