//! Reads a run's steps and times from its machine once the node is Ready.

use anyhow::{Context, Result};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::report::{Contender, Run, Step, Used};
use crate::layout::Layout;
use crate::machine::enter;
use crate::metrics::{self, total};
use crate::state::Machine;

const MIB: f64 = 1_048_576.0;

/// The last step of the script, which is over when the node is Ready.
const UNTIL_READY: &str = "until Ready";

/// Reads the run of `machine`, whose node was Ready at this second since 1970.
pub fn read(layout: &Layout, machine: &Machine, of: Contender, ready: f64) -> Result<Run> {
    let say = |words: &[&str]| enter::text(layout, &machine.name, words);
    let started = started(&say(&["cat", "/var/log/cloud-init.log"])?)
        .with_context(|| format!("{}: cloud-init ran no user-data", machine.name))?;
    let (mut steps, used) = match of {
        Contender::Script => (
            marked(&say(&["cat", "/var/log/bootstrap.log"])?, ready),
            None,
        ),
        Contender::Agent => {
            let journal = say(&["journalctl", "--unit=k8s-bootstrap", "--output=json"])?;
            let pid = say(&[
                "systemctl",
                "show",
                "--property=MainPID",
                "--value",
                "k8s-bootstrap",
            ])?;
            let about = |file: &str| say(&["cat", &format!("/proc/{}/{file}", pid.trim())]);
            let metrics = say(&["curl", "--silent", "--fail", metrics::URL])?;
            let used = used(&about("stat")?, &about("status")?, &metrics);
            (phases(&journal), used)
        }
    };
    for step in &mut steps {
        step.begin -= started;
        step.end -= started;
    }
    Ok(Run {
        seconds: ready - started,
        steps,
        used,
    })
}

/// When cloud-init started the user-data's script, in seconds since 1970.
fn started(log: &str) -> Option<f64> {
    let line = log
        .lines()
        .find(|line| line.contains("Running command") && line.contains("/scripts/part-001"))?;
    let time = line.get(..23)?.replace(',', ".");
    let time: DateTime = time.parse().ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?;
    Some(time.timestamp().as_duration().as_secs_f64())
}

/// The script's log: a line when each step begins.
fn marked(log: &str, ready: f64) -> Vec<Step> {
    let begins: Vec<(f64, &str)> = log
        .lines()
        .filter_map(|line| {
            let (time, name) = line.split_once(' ')?;
            Some((time.parse().ok()?, name))
        })
        .collect();
    let ends = begins.iter().skip(1).map(|(time, _)| *time).chain([ready]);
    let mut steps: Vec<Step> = begins
        .iter()
        .zip(ends)
        .map(|((begin, name), end)| Step {
            name: (*name).to_owned(),
            begin: *begin,
            end,
        })
        .collect();
    if let Some(last) = steps.last_mut() {
        UNTIL_READY.clone_into(&mut last.name);
    }
    steps
}

/// The agent's journal: an entry with the duration when each phase ends.
fn phases(journal: &str) -> Vec<Step> {
    let entries = journal
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut steps: Vec<Step> = entries.filter_map(|entry| phase(&entry)).collect();
    steps.sort_by(|a, b| a.begin.total_cmp(&b.begin));
    steps
}

fn phase(entry: &Value) -> Option<Step> {
    let number = |key: &str| entry[key].as_str()?.parse::<f64>().ok();
    let end = number("__REALTIME_TIMESTAMP")? / 1e6;
    Some(Step {
        name: entry["PHASE"].as_str()?.to_owned(),
        begin: end - number("DURATION_MS")? / 1e3,
        end,
    })
}

/// From /proc/PID/stat, /proc/PID/status and the agent's metrics.
fn used(stat: &str, status: &str, metrics: &str) -> Option<Used> {
    // The first field after the program's name, which may contain spaces, is number 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(Used {
        processor: (ticks(14)? + ticks(15)?) / 100.0,
        memory_mib: kib / 1024.0,
        programs: total(metrics, "k8s_bootstrap_programs_total"),
        aws_requests: total(metrics, "k8s_bootstrap_aws_requests_total"),
        downloaded_mib: total(metrics, "k8s_bootstrap_downloaded_bytes_total") / MIB,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    #[test]
    fn the_start_is_that_of_the_user_datas_script() {
        let log = "2026-11-29 03:55:16,001 - subp.py[DEBUG]: Running command ['mount'] with x\n\
            2026-11-29 03:55:17,250 - subp.py[DEBUG]: Running command \
            ['/var/lib/cloud/instance/scripts/part-001'] with allowed return codes [0]\n";
        assert_eq!(started(log), Some(1_795_924_517.25));
        assert_eq!(started("2026-11-29 03:55:16,001 - x\n"), None);
    }

    #[test]
    fn a_step_of_the_script_ends_where_the_next_one_begins() {
        let steps = marked("10.5 host\n11.0 join\n12.5 joined\n", 14.0);
        let ends: Vec<(&str, f64, f64)> = steps
            .iter()
            .map(|step| (step.name.as_str(), step.begin, step.end))
            .collect();
        assert_eq!(
            ends,
            [
                ("host", 10.5, 11.0),
                ("join", 11.0, 12.5),
                ("until Ready", 12.5, 14.0)
            ]
        );
    }

    #[test]
    fn a_phase_of_the_agent_ends_with_its_entry() {
        let journal = r#"{"__REALTIME_TIMESTAMP":"20500000","PHASE":"kubeadm-join","DURATION_MS":"1500"}
{"__REALTIME_TIMESTAMP":"20600000","MESSAGE":"something else"}
{"__REALTIME_TIMESTAMP":"19500000","PHASE":"kubelet","DURATION_MS":"1000"}"#;
        let steps = phases(journal);
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].name.as_str(), steps[0].begin), ("kubelet", 18.5));
        assert_eq!((steps[1].begin, steps[1].end), (19.0, 20.5));
    }

    #[test]
    fn use_is_read_from_the_kernel_and_the_metrics() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 900 0 0 0 150 45 0 0 20 0 9 0 100 1 2";
        let metrics = "k8s_bootstrap_programs_total{program=\"ctr\"} 2\n\
            k8s_bootstrap_programs_total{program=\"kubeadm\"} 1\n\
            k8s_bootstrap_aws_requests_total{service=\"ec2\"} 4\n\
            k8s_bootstrap_downloaded_bytes_total 2097152\n";
        let used = used(stat, "Name:\tx\nVmHWM:\t   40960 kB\n", metrics).unwrap();
        assert_eq!((used.processor, used.memory_mib), (1.95, 40.0));
        let work = (used.programs, used.aws_requests, used.downloaded_mib);
        assert_eq!(work, (3.0, 4.0, 2.0));
    }
}
