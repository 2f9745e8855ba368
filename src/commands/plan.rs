//! `plan`: what `run` would do on this instance, and why.

use std::fmt::Write;

use super::{print, who_am_i};
use crate::{
    adapters::wiring::Wiring,
    agent,
    decide::{Decision, decide},
    error::{Context, Result},
    identity::Identity,
    journal::Journal,
    observe::{Membership, Memory, Origin},
    plan as plans,
    plan::Phase,
    steps::{Action, State, Step},
};

/// One line of `plan`.
#[derive(Debug, serde::Serialize)]
struct Planned {
    #[serde(flatten)]
    phase: Phase<Action>,
    /// What would be done; `None` if the phase holds already.
    differs: Option<String>,
}

/// `plan`: what `run` would do here, and why.
pub async fn plan(as_json: bool) -> Result<()> {
    let wiring = Wiring::new()?;
    let (settings, me, machine) = who_am_i(&wiring).await?;
    let world = wiring.world(&settings, &me)?;
    let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
    let seen =
        agent::observe_with_evidence(&world, &me, journal.memory(), settings.join.port).await?;
    let decision = decide(&me, &seen);
    let mut phases = plans::host(&settings, &me)?;
    if let Some(membership) = expected_membership(&decision) {
        let memory = Memory {
            membership: Some(membership),
            settled: journal.settled,
        };
        phases.extend(plans::cluster(&settings, &me, &machine, &memory)?);
    }
    let mut planned = Vec::new();
    for phase in phases {
        let differs = match phase.step.check(&world).await {
            Ok(State::AsWanted) => None,
            Ok(State::Differs(what)) => Some(what),
            // Until the API answers, a phase that queries it cannot tell whether it holds: it is
            // shown as to do.
            Err(error) => Some(error.one_line()),
        };
        planned.push(Planned { phase, differs });
    }
    let text = if as_json {
        let value = serde_json::json!({ "identity": me, "decision": decision, "phases": planned });
        serde_json::to_string_pretty(&value)
            .attempting(|| "cannot serialize the plan".to_owned())?
    } else {
        plan_text(&me, &decision, &planned)
    };
    print(&text)
}

/// The membership that the decision leads to, as far as it is known before acting on it.
fn expected_membership(decision: &Decision) -> Option<Membership> {
    let (origin, cluster_uid) = match decision {
        Decision::Claim { .. } => (Origin::Founded, String::from("(created by the claim)")),
        Decision::Found { cluster_uid } => (Origin::Founded, cluster_uid.clone()),
        Decision::Join { cluster_uid, .. } => (Origin::Joined, cluster_uid.clone()),
        Decision::StartOver { .. } | Decision::Wait { .. } | Decision::Refuse { .. } => {
            return None;
        }
    };
    Some(Membership {
        cluster_uid,
        origin,
    })
}

fn plan_text(me: &Identity, decision: &Decision, planned: &[Planned]) -> String {
    let decision = match decision {
        Decision::Claim { number, why, .. } => {
            format!("claim {number} to found the cluster: {why}")
        }
        Decision::Found { cluster_uid } => format!("found cluster {cluster_uid}"),
        Decision::Join { cluster_uid, .. } => format!("join cluster {cluster_uid}"),
        Decision::StartOver { why } => format!("start over: {why}"),
        Decision::Wait { why } => format!("wait: {why}"),
        Decision::Refuse { why, remedy } => format!("refuse: {why} ({remedy})"),
    };
    let mut text = format!(
        "{} {} ({}) of cluster {}\ndecision: {decision}\n\n",
        me.role, me.node_name, me.instance_id, me.cluster
    );
    for (index, Planned { phase, differs }) in planned.iter().enumerate() {
        let state = differs
            .as_ref()
            .map_or("holds".to_owned(), |what| format!("to do: {what}"));
        let _ = writeln!(
            text,
            "{:3}. {:<26} {state}\n     {}",
            index + 1,
            phase.name,
            phase.why
        );
        if !phase.after.is_empty() {
            let _ = writeln!(text, "     after {}", phase.after.join(", "));
        }
    }
    let todo = planned.iter().filter(|p| p.differs.is_some()).count();
    let _ = writeln!(text, "\n{todo} of {} phases to do", planned.len());
    text
}
