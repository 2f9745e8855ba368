//! `certificates`: lists this node's certificates and renews them on request.

use std::{fmt::Write, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{etcd::on_a_control_plane, print, require_root};
use crate::{
    adapters::wiring::Wiring,
    certificates::{Certificate, Inventory},
    error::{Context, Result},
    steps::{
        State, Step,
        renewal::{self, Renewal, Which, ask_for_all},
    },
    wait::{Backoff, Notes, Probe, until},
};

/// One line of `certificates --json`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    certificate: &'a Certificate,
    seconds_left: i64,
}

/// `certificates`.
pub async fn list(as_json: bool) -> Result<()> {
    let wiring = Wiring::new()?;
    require_root(&wiring, "to read certificates").await?;
    let inventory = Inventory::read(wiring.host.as_ref()).await?;
    show(&inventory, wiring.clock.now(), as_json)
}

/// `certificates renew`: the agent does it, so that no two processes write the same files.
pub async fn renew(all: bool) -> Result<()> {
    let (world, settings, me) = on_a_control_plane("to renew certificates").await?;
    if all {
        ask_for_all(world.host.as_ref()).await?;
    }
    let steps = [Which::Useless, Which::Due].map(|which| Renewal::new(which, &settings, &me));
    // The control planes renew one after the other.
    let backoff = Backoff::local(Duration::from_secs(3 * renewal::DEADLINE));
    let (notes, _) = Notes::new();
    let clock = world.clock.as_ref();
    let what = "the agent to renew this control plane's certificates";
    until(clock, &notes, backoff, what, || async {
        for step in &steps {
            if let State::Differs(what) = step.check(&world).await? {
                return Ok(Probe::NotYet(what));
            }
        }
        Ok(Probe::Done(()))
    })
    .await
    .map_err(|error| {
        error.hint("is it running? `k8s-bootstrap status`, `journalctl -u k8s-bootstrap`")
    })?;
    let inventory = Inventory::read(world.host.as_ref()).await?;
    show(&inventory, clock.now(), false)
}

fn show(inventory: &Inventory, now: Timestamp, as_json: bool) -> Result<()> {
    if !as_json {
        return print(&table(inventory, now));
    }
    let lines = inventory.certificates.iter().map(|certificate| Line {
        certificate,
        seconds_left: certificate.not_after.duration_since(now).as_secs(),
    });
    let text = serde_json::json!({
        "certificates": lines.collect::<Vec<_>>(),
        "broken": inventory.broken,
    });
    let text = serde_json::to_string_pretty(&text);
    print(&text.attempting(|| "cannot serialize the certificates".to_owned())?)
}

fn table(inventory: &Inventory, now: Timestamp) -> String {
    let mut text = format!(
        "{:<24}  {:<20}  {:<10}  {:<10}  {}\n",
        "NAME", "EXPIRES", "LEFT", "RENEWED BY", "FILE"
    );
    for certificate in &inventory.certificates {
        let _ = writeln!(
            text,
            "{:<24}  {:<20}  {:<10}  {:<10}  {}",
            certificate.name,
            certificate.not_after.to_string(),
            left(certificate.not_after.duration_since(now).as_secs()),
            certificate.renewed_by.as_str(),
            certificate.file,
        );
    }
    for name in &inventory.broken {
        let _ = writeln!(text, "{name:<24}  (incomplete)");
    }
    text
}

/// In minutes below 2 hours, in hours below 2 days, else in days.
fn left(seconds: i64) -> String {
    match seconds {
        ..=0 => "expired".to_owned(),
        1..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::Pki;

    #[test]
    fn the_table_shows_what_expires_when_and_who_renews_it() {
        let pki = Pki::between("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        let mut inventory = Inventory::of(&pki.on_disk());
        inventory
            .certificates
            .retain(|c| ["ca", "apiserver", "kubelet-client"].contains(&c.name));
        inventory.broken.push("scheduler.conf");
        let now = "2026-12-30T13:00:00Z".parse().unwrap();
        assert_eq!(
            table(&inventory, now),
            "NAME                      EXPIRES               LEFT        RENEWED BY  FILE\n\
             ca                        2036-01-01T00:00:00Z  3288 days   a person    /etc/kubernetes/pki/ca.crt\n\
             apiserver                 2027-01-01T00:00:00Z  35 h        agent       /etc/kubernetes/pki/apiserver.crt\n\
             kubelet-client            2027-01-01T00:00:00Z  35 h        kubelet     /var/lib/kubelet/pki/kubelet-client-current.pem\n\
             scheduler.conf            (incomplete)\n"
        );
        assert_eq!([left(-5), left(60)], ["expired", "1 min"]);
    }
}
