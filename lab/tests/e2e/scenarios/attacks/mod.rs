//! From a node that is part of the cluster, for more than that node's place in it: by the join
//! service, and by requests for certificates. All of it is refused, and a control plane's journal
//! says why without a secret.

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

/// How many entries the journal of the control plane's agent has.
fn entries(stage: &Stage, machine: &str) -> Result<usize, Failed> {
    stage.journal(machine).map(|entries| entries.len())
}

/// Each of these lines comes to be in the journal, after so many entries, as an entry of its own.
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

/// The half of a bootstrap token that is not its name.
fn secret_of(token: &str) -> String {
    let (_, secret) = token.split_once('.').unwrap_or_default();
    secret.to_owned()
}

/// No field of any entry in the journal has one of these.
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
