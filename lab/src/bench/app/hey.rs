//! hey, the load generator: its arguments and its output.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// How much load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Requests in one run.
    pub requests: u64,
    /// Requests in flight at the same time; the number of requests is a multiple of it.
    pub concurrency: u64,
    /// Time-out of a request, in seconds.
    pub timeout_seconds: u64,
}

impl Load {
    /// Refuses numbers that hey would silently change: each of its workers sends the same number of
    /// requests.
    ///
    /// # Errors If the requests cannot be divided evenly.
    pub fn check(&self) -> Result<()> {
        if self.concurrency == 0 || self.requests == 0 {
            bail!("a load needs at least one request and one client");
        }
        if !self.requests.is_multiple_of(self.concurrency) {
            bail!(
                "{} requests cannot be divided evenly among {} clients: use a multiple, such as {}",
                self.requests,
                self.concurrency,
                self.requests.div_ceil(self.concurrency) * self.concurrency
            );
        }
        Ok(())
    }

    /// hey's arguments for a page at `address` under the name `host`.
    pub fn arguments(&self, address: &str, host: &str) -> Vec<String> {
        let numbers = [
            ("-n", self.requests),
            ("-c", self.concurrency),
            ("-t", self.timeout_seconds),
        ];
        let mut words: Vec<String> = numbers
            .into_iter()
            .flat_map(|(flag, number)| [flag.to_owned(), number.to_string()])
            .collect();
        words.extend(["-host".to_owned(), host.to_owned()]);
        words.push(format!("http://{address}/"));
        words
    }
}

/// One run. Times cover all answered requests, whatever the status: hey leaves out the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Requests per second, the failed ones included.
    pub per_second: f64,
    /// Mean time, in milliseconds.
    pub average_ms: f64,
    /// Half of the answers arrived within this many milliseconds.
    pub p50_ms: f64,
    /// Nine of ten answers, in milliseconds.
    pub p90_ms: f64,
    /// 99 of 100 answers, in milliseconds.
    pub p99_ms: f64,
    /// The longest, in milliseconds.
    pub slowest_ms: f64,
    /// Size of a page in bytes.
    pub page_bytes: u64,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by error.
    pub errors: BTreeMap<String, u64>,
}

impl Answers {
    /// Reads hey's summary.
    ///
    /// # Errors
    /// Names the line that is missing or is not as hey 0.1 writes it.
    pub fn parse(summary: &str) -> Result<Self> {
        let mut answers = Self::default();
        let mut section = "";
        for line in summary.lines() {
            if line.ends_with(':') && !line.starts_with(' ') {
                section = line.trim_end_matches(':');
                continue;
            }
            let Some((count, rest)) = counted(line) else {
                continue;
            };
            if section == "Status code distribution" {
                let (status, responses) = (count, rest.split(' ').next().unwrap_or_default());
                let wrong = || format!("hey's line {line:?} is not a status and its count");
                *answers
                    .statuses
                    .entry(u16::try_from(status).with_context(wrong)?)
                    .or_default() += responses.parse::<u64>().with_context(wrong)?;
            } else if section == "Error distribution" {
                *answers.errors.entry(kind(rest)).or_default() += count;
            }
        }
        answers.seconds = value(summary, "Total:")?;
        answers.per_second = value(summary, "Requests/sec:")?;
        if answers.statuses.is_empty() {
            bail!(
                "no request was answered: {}",
                answers
                    .errors
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("; ")
            );
        }
        answers.average_ms = value(summary, "Average:")? * 1000.0;
        answers.slowest_ms = value(summary, "Slowest:")? * 1000.0;
        answers.p50_ms = value(summary, "50% in")? * 1000.0;
        answers.p90_ms = value(summary, "90% in")? * 1000.0;
        answers.p99_ms = value(summary, "99% in")? * 1000.0;
        // hey leaves it out if all answers were only headers.
        answers.page_bytes = word(summary, "Size/request:").map_or(Ok(0), str::parse)?;
        Ok(answers)
    }

    /// All requests of the run.
    pub fn requests(&self) -> u64 {
        self.statuses.values().chain(self.errors.values()).sum()
    }

    /// Requests that did not get the page: a status other than 2xx, or no answer.
    pub fn failed(&self) -> u64 {
        let refused = self
            .statuses
            .iter()
            .filter(|(status, _)| **status / 100 != 2);
        refused.map(|(_, count)| count).sum::<u64>() + self.errors.values().sum::<u64>()
    }

    /// Failed requests that timed out.
    pub fn timed_out(&self) -> u64 {
        self.errors.get(TIMED_OUT).copied().unwrap_or_default()
    }
}

/// The error of a request that timed out.
const TIMED_OUT: &str = "timed out";

/// The error without addresses and ports, so that equal errors are counted together.
fn kind(error: &str) -> String {
    if error.contains("Client.Timeout exceeded") || error.contains("deadline exceeded") {
        return TIMED_OUT.to_owned();
    }
    let (_, why) = error.rsplit_once(": ").unwrap_or_default();
    if why.is_empty() { error } else { why }.to_owned()
}

/// The number in brackets at the start of a line, and the rest.
fn counted(line: &str) -> Option<(u64, &str)> {
    let (number, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    Some((number.parse().ok()?, rest.trim()))
}

/// The first word after `label` on the line that starts with it.
fn word<'a>(summary: &'a str, label: &str) -> Option<&'a str> {
    let rest = summary
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(label))?;
    rest.split_whitespace().next()
}

fn value(summary: &str, label: &str) -> Result<f64> {
    let word = word(summary, label).with_context(|| format!("hey did not print `{label}`"))?;
    match word.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => bail!("hey's `{label}` is {word:?}, which is not a number"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    /// As hey 0.1.4 writes it, the histogram cut short.
    const SUMMARY: &str = "
Summary:
  Total:\t16.0922 secs
  Slowest:\t0.6041 secs
  Fastest:\t0.0021 secs
  Average:\t0.1588 secs
  Requests/sec:\t3107.1022
  
  Total data:\t358100000 bytes
  Size/request:\t7162 bytes

Response time histogram:
  0.002 [1]\t|
  0.062 [4041]\t|■■■■■■■
  0.123 [11980]\t|■■■■■■■■■■■■■■■■■■■■■■


Latency distribution:
  10% in 0.0701 secs
  25% in 0.1082 secs
  50% in 0.1499 secs
  75% in 0.1998 secs
  90% in 0.2556 secs
  95% in 0.2956 secs
  99% in 0.3801 secs

Details (average, fastest, slowest):
  DNS+dialup:\t0.0007 secs, 0.0021 secs, 0.6041 secs
  DNS-lookup:\t0.0000 secs, 0.0000 secs, 0.0000 secs
  req write:\t0.0000 secs, 0.0000 secs, 0.0311 secs
  resp wait:\t0.1571 secs, 0.0020 secs, 0.5520 secs
  resp read:\t0.0009 secs, 0.0000 secs, 0.0720 secs

Status code distribution:
  [200]\t50000 responses



";

    #[test]
    fn a_run_without_failures_is_parsed_completely() {
        let answers = Answers::parse(SUMMARY).unwrap();
        assert_eq!(answers.seconds, 16.0922);
        assert_eq!(answers.per_second, 3107.1022);
        assert_eq!(answers.average_ms.round(), 159.0);
        assert_eq!(answers.p50_ms.round(), 150.0);
        assert_eq!(answers.p90_ms.round(), 256.0);
        assert_eq!(answers.p99_ms.round(), 380.0);
        assert_eq!(answers.slowest_ms.round(), 604.0);
        assert_eq!(answers.page_bytes, 7162);
        assert_eq!(answers.statuses, BTreeMap::from([(200, 50_000)]));
        assert_eq!((answers.requests(), answers.failed()), (50_000, 0));
    }

    #[test]
    fn other_statuses_errors_and_time_outs_are_failures() {
        let summary = SUMMARY.replace(
            "  [200]\t50000 responses\n",
            "  [200]\t49930 responses\n  [502]\t12 responses\n  [404]\t3 responses\n\n\
             Error distribution:\n  \
             [40]\tGet \"http://10.42.0.11/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)\n  \
             [8]\tGet \"http://10.42.0.11/\": net/http: request canceled (Client.Timeout exceeded while awaiting headers)\n  \
             [4]\tGet \"http://10.42.0.11/\": dial tcp 10.42.0.11:80: connect: connection refused\n  \
             [2]\tGet \"http://10.42.0.11/\": read tcp 10.42.0.1:41822->10.42.0.11:80: read: connection reset by peer\n  \
             [1]\tGet \"http://10.42.0.11/\": read tcp 10.42.0.1:41824->10.42.0.11:80: read: connection reset by peer\n",
        );
        let answers = Answers::parse(&summary).unwrap();
        assert_eq!(answers.requests(), 50_000);
        assert_eq!(answers.failed(), 70);
        assert_eq!(answers.timed_out(), 48);
        assert_eq!(answers.errors["connection reset by peer"], 3);
        assert_eq!(answers.errors["connection refused"], 4);
    }

    #[test]
    fn a_run_without_any_answer_reports_why() {
        let summary = "
Summary:
  Total:\t0.0018 secs
  Slowest:\t0.0000 secs
  Average:\t NaN secs
  Requests/sec:\t10234.5299

Latency distribution:

Status code distribution:

Error distribution:
  [18]\tGet \"http://127.0.0.1:1/\": dial tcp 127.0.0.1:1: connect: connection refused
";
        let error = Answers::parse(summary).unwrap_err().to_string();
        assert_eq!(error, "no request was answered: connection refused");
    }

    #[test]
    fn output_that_is_not_a_summary_is_refused() {
        let error = Answers::parse("Usage: hey [options...] <url>").unwrap_err();
        assert_eq!(error.to_string(), "hey did not print `Total:`");
        let cut = SUMMARY.replace("  99% in 0.3801 secs\n", "");
        let error = Answers::parse(&cut).unwrap_err();
        assert_eq!(error.to_string(), "hey did not print `99% in`");
    }

    #[test]
    fn a_load_that_hey_would_change_is_refused() {
        let load = |requests, concurrency| Load {
            requests,
            concurrency,
            timeout_seconds: 20,
        };
        load(50_000, 500).check().unwrap();
        let error = load(50_000, 300).check().unwrap_err().to_string();
        assert!(error.ends_with("such as 50100"), "{error}");
        load(0, 1).check().unwrap_err();
        assert_eq!(
            load(50_000, 500)
                .arguments("10.42.0.11", "flask.bench")
                .join(" "),
            "-n 50000 -c 500 -t 20 -host flask.bench http://10.42.0.11/"
        );
    }
}
