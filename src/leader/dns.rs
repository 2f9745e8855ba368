//! Keeps the addresses of the Ready workers in the record set: DNS round robin.
//!
//! A worker counts while the API reports its node as Ready and schedulable and EC2 does not report
//! its instance as stopping or terminating. The first of the two to say otherwise removes it: EC2
//! knows at once of a terminated instance, the API of a dead kubelet. If no worker is left, the
//! last known addresses stay, since resolvers would cache an empty answer too.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tracing::info;

use crate::{
    config::{Addresses, Dns as Wish},
    error::{Error, Result},
    kubernetes::node::Node,
    leader::{self, Leader},
    ports::{Instance, InstanceState, RecordSet, World},
    report::DnsReport,
    wait::within,
};

/// How long to wait for EC2: while it throttles, the API's report is enough to remove a worker.
const EC2_ANSWERS: Duration = Duration::from_secs(5);

/// The deadline for a write: shorter than the Lease, which is renewed first.
const WRITE: Duration = Duration::from_secs(40);

/// The most addresses that Route 53 accepts in one record set.
/// <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html>
const MOST: usize = 400;

/// What to do about the record set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It differs: write this.
    Write(RecordSet),
    /// Nothing is written, for this reason.
    Leave(&'static str),
}

/// A worker as the API reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Its instance's id, from the node's providerID.
    pub instance: String,
    /// Its `InternalIP`.
    pub address: Option<Ipv4Addr>,
    /// Whether it is Ready, schedulable and not being deleted.
    pub serves: bool,
}

impl Worker {
    /// Reads a Node object; `None` for a control plane.
    pub fn of(node: &Value) -> Option<Self> {
        let node = Node(node);
        if node.is_control_plane() {
            return None;
        }
        Some(Self {
            instance: node.instance().unwrap_or_default().to_owned(),
            address: node.address(),
            serves: node.is_ready() && !node.is_cordoned() && !node.is_being_deleted(),
        })
    }
}

/// Which addresses the record set should have. Without EC2's answer (`None`) workers are only
/// removed: one that EC2 had ruled out must not come back meanwhile.
pub fn decide(
    workers: &[Worker],
    instances: Option<&[Instance]>,
    record: Option<&RecordSet>,
    wish: &Wish,
) -> Verdict {
    let address = |worker: &Worker| match instances {
        None => {
            let known = record?.addresses.contains(&worker.address?);
            worker.address.filter(|_| known)
        }
        Some(instances) => {
            let instance = instances.iter().find(|i| i.id == worker.instance);
            if instance.is_some_and(|i| is_ending(i.state)) {
                return None;
            }
            match wish.addresses {
                Addresses::Private => worker.address,
                Addresses::Public => instance?.public_ip,
            }
        }
    };
    let serving = workers.iter().filter(|worker| worker.serves);
    let addresses: BTreeSet<Ipv4Addr> = serving.filter_map(address).collect();
    if addresses.is_empty() {
        return Verdict::Leave("no worker is Ready: the last known addresses stay");
    }
    let wanted = RecordSet {
        addresses: addresses.into_iter().take(MOST).collect(),
        ttl: wish.ttl,
    };
    if record == Some(&wanted) {
        return Verdict::Leave("it is up to date");
    }
    Verdict::Write(wanted)
}

fn is_ending(state: InstanceState) -> bool {
    state.is_gone() || matches!(state, InstanceState::Stopping | InstanceState::Stopped)
}

/// One cycle, if this instance leads; `None` otherwise. `written` is the record set as the last
/// cycle left it.
pub async fn cycle(
    world: &World,
    me: &str,
    cluster: &str,
    wish: &Wish,
    written: &mut Option<RecordSet>,
) -> Option<DnsReport> {
    let mut report = DnsReport {
        name: wish.name.clone(),
        addresses: BTreeSet::new(),
        trouble: None,
    };
    match keep(world, me, cluster, wish, written, &mut report).await {
        Ok(Leader::Me) => {}
        Ok(Leader::Other(_)) => {
            *written = None;
            return None;
        }
        Err(error) => report.trouble = Some(error.line_with_remedy()),
    }
    Some(report)
}

async fn keep(
    world: &World,
    me: &str,
    cluster: &str,
    wish: &Wish,
    left: &mut Option<RecordSet>,
    report: &mut DnsReport,
) -> Result<Leader> {
    if let other @ Leader::Other(_) = leader::lead(world, me).await? {
        return Ok(other);
    }
    let nodes = world.cluster.list("v1", "Node", None).await?;
    let workers: Vec<Worker> = nodes.iter().filter_map(Worker::of).collect();
    let instances = within(
        world.clock.as_ref(),
        EC2_ANSWERS,
        world.ec2.instances(cluster),
    )
    .await;
    let instances = match instances {
        Some(Ok(instances)) => Some(instances),
        Some(Err(error)) => {
            report.trouble = Some(error.one_line());
            None
        }
        None => {
            report.trouble = Some("EC2 does not answer".to_owned());
            None
        }
    };
    let record = world.dns.record(&wish.zone, &wish.name).await?;
    if let Some(left) = left.take().filter(|left| record.as_ref() != Some(left)) {
        let there = record.as_ref().map(|record| &record.addresses);
        report.trouble = Some(format!(
            "another client writes this record set too: it has changed from {} to {} \
             (give each cluster a name of its own: [dns] name)",
            in_words(&left.addresses),
            in_words(there.unwrap_or(&BTreeSet::new())),
        ));
    }
    let verdict = decide(&workers, instances.as_deref(), record.as_ref(), wish);
    let Verdict::Write(wanted) = verdict else {
        left.clone_from(&record);
        report.addresses = record.map(|record| record.addresses).unwrap_or_default();
        return Ok(Leader::Me);
    };
    if let other @ Leader::Other(_) = leader::lead(world, me).await? {
        return Ok(other);
    }
    let written = within(
        world.clock.as_ref(),
        WRITE,
        world.dns.write(&wish.zone, &wish.name, &wanted),
    )
    .await;
    written.ok_or_else(|| {
        Error::failed(format!(
            "Route 53 did not accept {} within {} s",
            wish.name,
            WRITE.as_secs()
        ))
    })??;
    let before = record.map(|record| record.addresses).unwrap_or_default();
    info!(
        "{} has {} addresses now: {}; before: {}",
        wish.name,
        wanted.addresses.len(),
        in_words(&wanted.addresses),
        in_words(&before),
    );
    report.addresses.clone_from(&wanted.addresses);
    *left = Some(wanted);
    Ok(Leader::Me)
}

fn in_words(addresses: &BTreeSet<Ipv4Addr>) -> String {
    if addresses.is_empty() {
        return "no addresses".to_owned();
    }
    let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests;
