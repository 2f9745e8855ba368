//! Approves kubelet certificates; runs on every control plane.
//!
//! All of them check every request; the API server lets one decide on it.

use futures::StreamExt;
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::{
    csr::{CLIENT, Request, SERVING, Verdict, judge},
    tokens::{self, Bound},
};
use crate::{
    error::{Error, Result},
    ports::World,
    wait::schedules::APPROVAL,
};

/// The most notices of pending requests that one cycle covers.
const AT_ONCE: usize = 1000;

/// Decides on requests as they arrive, for as long as the agent runs.
pub async fn keep(world: &World, cluster: &str) {
    loop {
        if let Err(error) = follow(world, cluster).await {
            // Before the API is up and while it restarts; the node's own status reports that.
            debug!(
                HINT = error.remedy(),
                "cannot watch certificate requests: {}",
                error.one_line()
            );
        }
        world.clock.sleep(APPROVAL).await;
    }
}

/// Runs one cycle, then one whenever a request is pending, until the watch or a cycle fails.
async fn follow(world: &World, cluster: &str) -> Result<()> {
    // A cycle drops a client whose credentials are refused; the watch alone does not.
    cycle(world, cluster).await?;
    let waiting = world.certificates.waiting().await?;
    // One cycle handles everything that arrived during the one before.
    let mut waiting = waiting.ready_chunks(AT_ONCE);
    while let Some(notices) = waiting.next().await {
        notices.into_iter().collect::<Result<()>>()?;
        cycle(world, cluster).await?;
    }
    Ok(())
}

/// One cycle. A failure with one request delays no other and becomes the cycle's error.
pub async fn cycle(world: &World, cluster: &str) -> Result<()> {
    let mut outcome = Ok(());
    for signer in [CLIENT, SERVING] {
        let requests = world.certificates.undecided(signer).await?;
        let requests: Vec<_> = requests
            .into_iter()
            .map(|object| (Request::of(&object), object))
            .collect();
        // Not for requests that stay undecided: they would query EC2 forever.
        let mut instances = Vec::new();
        if requests.iter().any(|(r, _)| r.serving_node().is_some()) {
            instances = world.ec2.instances(cluster).await?;
        }
        for (request, object) in requests {
            let mut token = None;
            if let Some(id) = request.token_id() {
                token = world.cluster.get(&tokens::reference(id)).await?;
            }
            let bound = token.as_ref().map(Bound::of);
            let verdict = judge(&request, bound.as_ref(), &instances, world.clock.now());
            if let Err(error) = carry_out(world, &request, object, token, verdict).await {
                warn!(
                    HINT = error.remedy(),
                    "cannot decide certificate request {}: {}",
                    request.name,
                    error.one_line()
                );
                outcome = Err(error);
            }
        }
    }
    outcome
}

async fn carry_out(
    world: &World,
    request: &Request,
    mut object: Value,
    token: Option<Value>,
    verdict: Verdict,
) -> Result<()> {
    let (kind, reason, message) = match verdict {
        Verdict::Leave => return Ok(()),
        Verdict::Approve => ("Approved", "JoinedNode", String::new()),
        Verdict::Deny(why) => ("Denied", "NotThisNode", why),
    };
    if kind == "Approved"
        && let Some(secret) = token
    {
        // Written first, so that a second request with the same token finds it used.
        let already = Bound::of(&secret).used_by.as_deref() == Some(request.uid.as_str());
        let used = tokens::used(secret, &request.uid);
        if !already && !world.cluster.compare_and_set(&used).await? {
            return Err(Error::failed("its token has changed in the meantime"));
        }
    }
    let now = world.clock.now();
    let now = now.round(jiff::Unit::Second).unwrap_or(now).to_string();
    object["status"]["conditions"] = json!([{
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": format!("k8s-bootstrap: {}", if message.is_empty() { "confirmed" } else { &message }),
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }]);
    if !world.certificates.decide(&object).await? {
        debug!(
            "another client has already decided certificate request {}",
            request.name
        );
        return Ok(());
    }
    if kind == "Denied" {
        warn!(
            "certificate request {} of {} denied: {message}",
            request.name,
            request.username()
        );
        return Ok(());
    }
    info!(
        "certificate request {} of {} approved",
        request.name,
        request.username()
    );
    if let Some(node) = request.serving_node() {
        // By now the kubelet uses its own certificate.
        tokens::revoke(world, node).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
