//! What a node reserves for the kubelet and containerd, and whether enough is left for pods.
//!
//! CPU: 6 % of the first core, 1 % of the second, 0.5 % of the next two, 0.25 % of
//! the rest. Memory: 255 MiB and 11 MiB for each pod that may run (both as in the
//! Amazon EKS AMI's bootstrap). That is too much for a small machine with the usual
//! 110 pods, so memory is capped by GKE's published scale: 25 % of the first 4 GiB,
//! 20 % of the next 4, 10 % of the next 8, 6 % of the next 112, 2 % of the rest.

use serde::Serialize;

use crate::error::{Error, Result};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The kubelet evicts pods below this much free memory (its default).
const EVICTION_THRESHOLD: u64 = 100 * MIB;

/// With less than this for pods, not even the cluster's own daemons fit.
const LEAST_MEMORY: u64 = 256 * MIB;
const LEAST_MILLICPU: u64 = 250;

/// `kubeReserved` of a KubeletConfiguration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reserved {
    /// `70m`.
    pub cpu: String,
    /// `1024Mi`.
    pub memory: String,
}

/// What to reserve on a machine with these processors, bytes of memory and maximum number of pods.
pub fn reserved(cpus: usize, memory_bytes: u64, max_pods: u64) -> Reserved {
    Reserved {
        cpu: format!("{}m", millicpu(cpus)),
        memory: format!("{}Mi", memory(memory_bytes, max_pods) / MIB),
    }
}

/// Refuses a machine on which these reservations leave no room for pods.
///
/// A quantity that cannot be parsed here is left to the kubelet.
pub fn check_room(
    cpus: usize,
    memory_bytes: u64,
    reservations: &[serde_json::Value],
) -> Result<()> {
    let sum = |resource: &str, parse: fn(&str) -> Option<u64>| -> u64 {
        reservations
            .iter()
            .filter_map(|r| r.get(resource)?.as_str().and_then(parse))
            .sum()
    };
    let memory_left = memory_bytes
        .saturating_sub(sum("memory", bytes))
        .saturating_sub(EVICTION_THRESHOLD);
    if memory_left < LEAST_MEMORY {
        return Err(Error::refused(format!(
            "of {} MiB of memory only {} MiB remain for pods; {} MiB are required",
            memory_bytes / MIB,
            memory_left / MIB,
            LEAST_MEMORY / MIB
        ))
        .hint("use a larger instance type, or lower kubeReserved and systemReserved in [kubelet.config]"));
    }
    let cpu_total = 1000 * cpus as u64;
    let cpu_left = cpu_total.saturating_sub(sum("cpu", millicpu_of));
    if cpu_left < LEAST_MILLICPU {
        return Err(Error::refused(format!(
            "of {cpu_total}m CPU only {cpu_left}m remain for pods; {LEAST_MILLICPU}m are required"
        ))
        .hint("use a larger instance type, or lower kubeReserved and systemReserved in [kubelet.config]"));
    }
    Ok(())
}

/// In millicores, rounded up.
fn millicpu(cpus: usize) -> u64 {
    // In hundredths of a millicore: 6 % of 1000 m is 6000.
    let of_core = |core| match core {
        0 => 6000,
        1 => 1000,
        2 | 3 => 500,
        _ => 250,
    };
    (0..cpus).map(of_core).sum::<u64>().div_ceil(100)
}

fn memory(total: u64, max_pods: u64) -> u64 {
    let by_pods = 255 * MIB + 11 * MIB * max_pods;
    let mut rest = total;
    let by_size: u64 = [(4, 25), (4, 20), (8, 10), (112, 6), (u64::MAX / GIB, 2)]
        .into_iter()
        .map(|(gib, percent)| {
            let slice = rest.min(gib * GIB);
            rest -= slice;
            slice / 100 * percent
        })
        .sum();
    by_pods.min(by_size)
}

/// A memory quantity in bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => MIB,
        "Gi" => GIB,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A CPU quantity in millicores.
fn millicpu_of(text: &str) -> Option<u64> {
    if let Some(milli) = text.strip_suffix('m') {
        return milli.parse().ok();
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let milli: u64 = format!("{part:0<3}").get(..3)?.parse().ok()?;
    Some(whole.parse::<u64>().ok()? * 1000 + milli)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_of_instance_types() {
        for (name, cpus, memory_bytes, max_pods, cpu, memory) in [
            ("t3.micro", 2, GIB, 110, "70m", "255Mi"),
            ("t3.small", 2, 2 * GIB, 110, "70m", "511Mi"),
            ("c7i-flex.large", 2, 4 * GIB, 110, "70m", "1023Mi"),
            ("m7i.large", 2, 8 * GIB, 110, "70m", "1465Mi"),
            ("m7i.large, few pods", 2, 8 * GIB, 29, "70m", "574Mi"),
            ("m7i.xlarge", 4, 16 * GIB, 110, "80m", "1465Mi"),
            ("m7i.4xlarge", 16, 64 * GIB, 250, "110m", "3005Mi"),
            ("one core", 1, 4 * GIB, 110, "60m", "1023Mi"),
            ("five cores round up", 5, 4 * GIB, 110, "83m", "1023Mi"),
        ] {
            let found = reserved(cpus, memory_bytes, max_pods);
            assert_eq!(
                (found.cpu.as_str(), found.memory.as_str()),
                (cpu, memory),
                "{name}"
            );
        }
    }

    #[test]
    fn a_node_with_too_little_left_for_pods_is_refused() {
        let kube = json!({"cpu": "70m", "memory": "1023Mi"});
        check_room(2, 4 * GIB, std::slice::from_ref(&kube)).unwrap();

        let error = check_room(2, 4 * GIB, &[kube, json!({"memory": "3Gi"})]).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Refused);
        assert!(
            error.one_line().contains("only 0 MiB remain for pods"),
            "{error}"
        );

        let error = check_room(2, 4 * GIB, &[json!({"cpu": "1.8"})]).unwrap_err();
        assert!(
            error.one_line().contains("only 200m remain for pods"),
            "{error}"
        );
    }

    #[test]
    fn quantities_are_parsed_as_in_kubernetes() {
        assert_eq!(bytes("512Mi"), Some(512 * MIB));
        assert_eq!(bytes("2G"), Some(2_000_000_000));
        assert_eq!(bytes("many"), None);
        assert_eq!(millicpu_of("250m"), Some(250));
        assert_eq!(millicpu_of("1.5"), Some(1500));
        assert_eq!(millicpu_of("2"), Some(2000));
        assert_eq!(millicpu_of("x"), None);
    }
}
