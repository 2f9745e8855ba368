//! The account's hosted zone: created by `up`, written by the agents, served by the resolver.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Mutex;

use crate::ec2::client::{Aws, element};
use crate::layout::Layout;

/// The zone that the lab's resolver answers for.
pub const ZONE: &str = "demo.internal";
/// The name of the workers in the zone.
pub const WORKERS: &str = "visits.demo.internal";
/// How long answers for that name may be cached, in seconds.
pub const TTL: u32 = 5;

/// Route 53 propagates a change within a minute; here it takes at most this long.
const PROPAGATION: Duration = Duration::from_secs(1);

/// Addresses and TTL by name, in the order of the next answer.
pub type Records = BTreeMap<String, (Vec<Ipv4Addr>, u32)>;

/// Creates the zone; returns its id.
pub async fn create(aws: &Aws) -> Result<String> {
    let body = format!(
        "<CreateHostedZoneRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Name>{ZONE}</Name><CallerReference>lab</CallerReference></CreateHostedZoneRequest>"
    );
    let xml = aws.route53("POST", "hostedzone", body).await?;
    let id = element(&xml, "Id").context("the hosted zone has no id")?;
    Ok(id.trim_start_matches("/hostedzone/").to_owned())
}

/// The agents' settings for the zone.
pub fn settings(zone: &str) -> String {
    format!("[dns]\nenabled = true\nzone = \"{zone}\"\nname = \"{WORKERS}\"\nttl = {TTL}\n")
}

/// Whether a name, in lower case and without its final dot, lies in the zone.
pub fn holds(name: &str) -> bool {
    name.strip_suffix(ZONE)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The zone as the resolver sees it.
pub struct View {
    aws: Aws,
    kept: Mutex<(Option<Instant>, Records)>,
    turn: AtomicUsize,
}

impl View {
    /// A view without records yet.
    pub fn new(layout: &Layout) -> Result<Self> {
        Ok(Self {
            aws: Aws::over_socket(layout)?,
            kept: Mutex::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// All records, with the addresses of each name rotated by one per answer; the previous ones if
    /// the API does not answer.
    pub async fn records(&self, zone: &str) -> Records {
        let mut kept = self.kept.lock().await;
        if kept.0.is_none_or(|read| read.elapsed() >= PROPAGATION)
            && let Ok(xml) = self
                .aws
                .route53("GET", &format!("hostedzone/{zone}/rrset"), String::new())
                .await
        {
            *kept = (Some(Instant::now()), read(&xml));
        }
        let mut records = kept.1.clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for (addresses, _) in records.values_mut() {
            let count = addresses.len().max(1);
            addresses.rotate_left(turn % count);
        }
        records
    }
}

/// The A records of a listing.
fn read(xml: &str) -> Records {
    let sets = xml.split("<ResourceRecordSet>").skip(1);
    sets.filter(|set| element(set, "Type").as_deref() == Some("A"))
        .filter_map(|set| {
            let name = element(set, "Name")?.to_ascii_lowercase();
            let ttl = element(set, "TTL")?.parse().ok()?;
            let values = set.split("<Value>").skip(1);
            let addresses = values
                .filter_map(|value| value.split_once('<')?.0.parse().ok())
                .collect();
            Some((name.trim_end_matches('.').to_owned(), (addresses, ttl)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_each_name_are_read_and_other_records_left() {
        let xml = "<ResourceRecordSets><ResourceRecordSet><Name>demo.internal.</Name><Type>SOA</Type><TTL>900</TTL><ResourceRecords><ResourceRecord><Value>ns. x. 1 7200 900 1209600 86400</Value></ResourceRecord></ResourceRecords></ResourceRecordSet>\
                   <ResourceRecordSet><Name>Visits.demo.internal.</Name><Type>A</Type><TTL>5</TTL><ResourceRecords><ResourceRecord><Value>10.42.0.11</Value></ResourceRecord><ResourceRecord><Value>10.42.0.12</Value></ResourceRecord></ResourceRecords></ResourceRecordSet></ResourceRecordSets>";
        let addresses = vec![[10, 42, 0, 11].into(), [10, 42, 0, 12].into()];
        let expected = Records::from([(WORKERS.to_owned(), (addresses, 5))]);
        assert_eq!(read(xml), expected);
    }

    #[test]
    fn a_name_lies_in_the_zone_by_whole_labels() {
        for (name, lies) in [
            ("demo.internal", true),
            ("visits.demo.internal", true),
            ("mydemo.internal", false),
            ("example.com", false),
        ] {
            assert_eq!(holds(name), lies, "{name}");
        }
    }

    #[test]
    fn the_agent_takes_the_zones_settings() {
        let settings: toml::Table = settings("Z1").parse().unwrap_or_default();
        let defaults: toml::Table = include_str!("../../src/config/defaults.toml")
            .parse()
            .unwrap_or_default();
        assert_eq!(settings["dns"]["enabled"].as_bool(), Some(true));
        for key in settings["dns"].as_table().into_iter().flatten() {
            assert!(defaults["dns"].get(key.0).is_some(), "{}", key.0);
        }
    }
}
