//! Attacks from a node of the cluster that try to get more than that node's own credentials,
//! through the join service and through certificate requests. All are refused, and a control
//! plane's journal has the reason without a secret.

mod applications;
mod certificates;
mod foothold;
mod request;

pub use applications::the_join_service_lets_nobody_be_more_than_itself;
pub use certificates::{
    a_joiners_token_makes_no_other_node, a_kubelets_credentials_make_no_other_node,
    a_persons_token_makes_no_node,
};

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, text, until};

/// The number of entries in the journal of the control plane's agent.
fn entries(stage: &Stage, machine: &str) -> Result<usize, Failed> {
    stage.journal(machine).map(|entries| entries.len())
}

/// Waits until each of these lines is in the journal as a separate entry, after the first `after`
/// entries.
fn each_is_logged(
    stage: &Stage,
    machine: &str,
    after: usize,
    lines: &[String],
) -> Result<(), Failed> {
    until(10, "the journal", || {
        let entries = stage.journal(machine)?;
        let mut logged: Vec<String> = entries
            .iter()
            .skip(after)
            .map(|e| text(&e["MESSAGE"]))
            .collect();
        let mut missing = Vec::new();
        for line in lines {
            match logged.iter().position(|entry| entry.contains(line)) {
                Some(at) => drop(logged.swap_remove(at)),
                None => missing.push(line),
            }
        }
        let rest = logged.join("\n");
        ensure(
            missing.is_empty(),
            format!("it lacks {missing:#?}; without the others it has\n{rest}"),
        )
    })
}

/// The secret half of a bootstrap token.
fn secret_of(token: &str) -> String {
    let (_, secret) = token.split_once('.').unwrap_or_default();
    secret.to_owned()
}

/// Checks that no field of any journal entry contains one of these secrets.
fn nowhere_in_the_journal(stage: &Stage, machine: &str, secrets: &[String]) -> Result<(), Failed> {
    let entries = stage.journal(machine)?;
    for secret in secrets {
        ensure(secret.len() >= 16, "this is no secret")?;
        let found = entries.iter().find(|e| e.to_string().contains(secret));
        let said = found.map(|entry| text(&entry["MESSAGE"]));
        ensure(said.is_none(), format!("a secret is in: {said:?}"))?;
    }
    Ok(())
}
