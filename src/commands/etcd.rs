//! `etcd`: commands for etcd on a control plane.

use std::fmt::Write as _;

use serde::Serialize;

use super::{print, require_root, who_am_i};
use crate::{
    adapters::wiring::Wiring,
    config::Settings,
    error::{Context, Error, Result},
    identity::Identity,
    journal::Journal,
    leader::maintenance::{ask_all, state_of},
    ports::{Alarm, Database, Etcd, Member, Place, Role, World},
    report::MemberState,
    snapshots::{self, Subject},
};

/// One line of `etcd members`.
#[derive(Debug, Serialize)]
struct Seat {
    #[serde(flatten)]
    member: Member,
    leader: bool,
    healthy: bool,
    state: MemberState,
    alarms: Vec<Alarm>,
    database: Option<Database>,
}

/// `etcd members`.
pub async fn members(as_json: bool) -> Result<()> {
    let (world, ..) = on_a_control_plane("to ask etcd").await?;
    let seats = seats(world.etcd.as_ref()).await?;
    if as_json {
        let text = serde_json::to_string_pretty(&seats);
        return print(&text.attempting(|| "cannot serialize the members".to_owned())?);
    }
    print(&table(&seats))
}

/// `etcd snapshot`.
pub async fn snapshot(to: Option<String>) -> Result<()> {
    let (world, settings, me) = on_a_control_plane("to take a backup").await?;
    let to = to.unwrap_or_else(|| settings.snapshots.to.clone());
    if to.is_empty() {
        return Err(Error::usage("the backup has no destination")
            .hint("name one: --to s3://BUCKET/PREFIX, or set snapshots.to"));
    }
    let place = Place::parse(&to)?;
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let membership = journal
        .membership
        .ok_or_else(|| Error::refused("this instance has no cluster yet"))?;
    let subject = Subject {
        cluster: &me.cluster,
        cluster_uid: &membership.cluster_uid,
        instance: &me.instance_id,
        kubernetes: &settings.kubernetes.version,
    };
    let keep = settings.snapshots.keep;
    let taken = snapshots::take(&world, &place, keep, subject).await?;
    print(&format!("{place}/{}.json", taken.name))
}

/// The world of a control plane; other nodes cannot reach etcd.
pub(super) async fn on_a_control_plane(what_for: &str) -> Result<(World, Settings, Identity)> {
    let wiring = Wiring::new()?;
    require_root(&wiring, what_for).await?;
    let (settings, me, _) = who_am_i(&wiring).await?;
    if me.role != Role::ControlPlane {
        return Err(
            Error::refused(format!("{} is a {}: it has no etcd", me.node_name, me.role))
                .hint("run it on a control plane"),
        );
    }
    let world = wiring.world(&settings, &me)?;
    Ok((world, settings, me))
}

async fn seats(etcd: &dyn Etcd) -> Result<Vec<Seat>> {
    let asked = ask_all(etcd).await?;
    let leader = etcd.leader().await?;
    Ok(asked
        .iter()
        .map(|seen| {
            let alarms = seen.alarms(&asked);
            Seat {
                leader: leader == Some(seen.member.id),
                healthy: seen.is_in_step() && alarms.is_empty(),
                state: state_of(seen),
                database: seen.answer.as_ref().map(|answer| answer.database),
                member: seen.member.clone(),
                alarms,
            }
        })
        .collect())
}

fn table(seats: &[Seat]) -> String {
    let mut text = format!(
        "{:<16}  {:<15}  {:<8}  {:<9}  {:<16}  {}\n",
        "ID", "ADDRESS", "VOTE", "HEALTH", "DATABASE", "NODE"
    );
    for seat in seats {
        let vote = match (seat.member.learner, seat.leader) {
            (true, _) => "learner",
            (false, true) => "leader",
            (false, false) => "voter",
        };
        let health = seat
            .alarms
            .first()
            .map_or(seat.state.as_str(), |a| a.as_str());
        let database = seat.database.map_or("-".to_owned(), |database| {
            format!("{} of {} MiB", database.bytes >> 20, database.quota >> 20)
        });
        let name = match seat.member.name.as_str() {
            "" => "(not started yet)",
            name => name,
        };
        let _ = writeln!(
            text,
            "{:<16}  {:<15}  {vote:<8}  {health:<9}  {database:<16}  {name}",
            seat.member.hex(),
            seat.member.address,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::FakeWorld;

    #[tokio::test]
    async fn the_table_shows_which_members_vote_lead_and_are_healthy() {
        let etcd = FakeWorld::new().etcd;
        etcd.voter("ip-10-42-0-11", 11);
        let down = etcd.voter("ip-10-42-0-12", 12);
        let full = etcd.voter("ip-10-42-0-13", 13);
        etcd.alarm(full.id, Alarm::NoSpace);
        etcd.learner("", 14);
        etcd.stop(down.id);
        let text = table(&seats(etcd.as_ref()).await.unwrap());
        assert_eq!(
            text,
            "ID                ADDRESS          VOTE      HEALTH     DATABASE          NODE\n\
             1                 10.42.0.11       leader    healthy    20 of 8192 MiB    ip-10-42-0-11\n\
             2                 10.42.0.12       voter     silent     -                 ip-10-42-0-12\n\
             3                 10.42.0.13       voter     NOSPACE    20 of 8192 MiB    ip-10-42-0-13\n\
             4                 10.42.0.14       learner   silent     -                 (not started yet)\n"
        );
    }
}
