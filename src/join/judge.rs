//! Whether a proven instance may join: from data to a verdict.

use std::net::IpAddr;

use serde_json::Value;

use super::Refusal;
use crate::kubernetes::node::Node;
use crate::ports::{Applicant, Caller, Instance, InstanceState, Role};

/// The rules that this control plane applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The name of the cluster that it admits nodes to.
    pub cluster: String,
    /// This control plane's own account and role, as STS reports them.
    pub own: Caller,
    /// The roles that workers may have; empty means the role that is named like the instance profile
    /// that EC2 shows for the instance.
    pub worker_roles: Vec<String>,
    /// The roles that control planes may have; empty means this control plane's own.
    pub control_plane_roles: Vec<String>,
}

/// One application, and what AWS and Kubernetes say about it.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// What the applicant says about itself.
    pub applicant: &'a Applicant,
    /// Where the connection comes from.
    pub source: IpAddr,
    /// Who signed the proof.
    pub caller: &'a Caller,
    /// The cluster's instances as EC2 lists them.
    pub instances: &'a [Instance],
    /// The Node of that name; `None` if there is none.
    pub node: Option<&'a Value>,
}

/// What to do about the Node of an admitted instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeIs {
    /// There is none: create it.
    Missing,
    /// This instance made it in an earlier attempt.
    Its,
    /// It belongs to an instance that had the name before: replace it.
    Stale,
}

/// The verdict: the instance as EC2 lists it, or the refusal.
pub fn judge<'a>(rules: &Rules, case: &Case<'a>) -> Result<(&'a Instance, NodeIs), Refusal> {
    let applicant = case.applicant;
    if applicant.cluster != rules.cluster {
        return Err(Refusal::denied(
            "this control plane belongs to another cluster",
        ));
    }
    if case.caller.account != rules.own.account {
        return Err(Refusal::denied("the proof is from another AWS account"));
    }
    if case.caller.session != applicant.instance {
        return Err(Refusal::denied("the proof was not signed by that instance"));
    }
    let instance = case
        .instances
        .iter()
        .find(|instance| instance.id == applicant.instance)
        .ok_or_else(|| Refusal::denied("EC2 lists no such instance in this cluster"))?;
    if instance.state != InstanceState::Running {
        return Err(Refusal::denied("EC2 does not list the instance as running"));
    }
    // EC2 lists no profile of an instance that is terminated.
    role_may(rules, case.caller, applicant.role, instance)?;
    if instance.role != Some(applicant.role) {
        return Err(Refusal::denied(format!(
            "the instance is not tagged as {}",
            applicant.role
        )));
    }
    if instance.private_ip.map(IpAddr::V4) != Some(case.source) {
        return Err(Refusal::denied(
            "the connection does not come from the instance's private address",
        ));
    }
    let name = instance.private_dns_name.as_deref().unwrap_or_default();
    if !name.eq_ignore_ascii_case(&applicant.node) || name.is_empty() {
        return Err(Refusal::denied(
            "the node's name is not the instance's private DNS name",
        ));
    }
    Ok((instance, node_is(case.node, instance, applicant.role)?))
}

/// The role must be an allowed one. Without a list, a worker's must be that of its own instance:
/// somebody who may assume another role of the account chooses the session's name, and could take
/// an instance's.
fn role_may(
    rules: &Rules,
    caller: &Caller,
    role: Role,
    instance: &Instance,
) -> Result<(), Refusal> {
    let may = match role {
        Role::Worker if rules.worker_roles.is_empty() => {
            instance.profile.as_deref() == Some(&caller.role)
        }
        Role::Worker => rules.worker_roles.contains(&caller.role),
        Role::ControlPlane if rules.control_plane_roles.is_empty() => caller.role == rules.own.role,
        Role::ControlPlane => rules.control_plane_roles.contains(&caller.role),
    };
    if may {
        return Ok(());
    }
    let mut reason = format!("the IAM role {} may not join as {role}", caller.role);
    if role == Role::Worker && rules.worker_roles.is_empty() {
        let profile = instance.profile.as_deref().unwrap_or("none");
        reason = format!(
            "{reason}: the instance's profile is {profile}, and join.worker_roles names no role"
        );
    }
    Err(Refusal::denied(reason))
}

/// A worker whose Node is Ready has its identity. Pods share its address, so one of them might ask in
/// its name; a worker that has lost its identity stops its kubelet first. A control plane's kubelet is
/// Ready long before its join is complete.
fn node_is(node: Option<&Value>, instance: &Instance, role: Role) -> Result<NodeIs, Refusal> {
    let Some(node) = node.map(Node) else {
        return Ok(NodeIs::Missing);
    };
    if node.instance() == Some(&instance.id) {
        if role == Role::Worker && node.is_ready() {
            return Err(Refusal::denied(
                "this instance's node is Ready: it needs no second token",
            ));
        }
        return Ok(NodeIs::Its);
    }
    if node.is_ready() {
        return Err(Refusal::denied(
            "a node of that name is Ready and belongs to another instance",
        ));
    }
    Ok(NodeIs::Stale)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::{control_plane, running};

    fn caller(role: &str) -> Caller {
        Caller {
            account: "123456789012".to_owned(),
            role: role.to_owned(),
            session: "i-1".to_owned(),
        }
    }

    /// Those of a control plane whose own role is `masters`.
    fn rules(control_plane_roles: &[&str]) -> Rules {
        Rules {
            cluster: "demo".to_owned(),
            own: caller("masters"),
            worker_roles: Vec::new(),
            control_plane_roles: control_plane_roles
                .iter()
                .copied()
                .map(str::to_owned)
                .collect(),
        }
    }

    #[test]
    fn a_list_of_control_plane_roles_replaces_the_own_role() {
        let instance = running(&control_plane("i-1"), 11);
        let verdict = |listed: &[&str], role: &str| {
            let verdict = role_may(&rules(listed), &caller(role), Role::ControlPlane, &instance);
            verdict.map_err(|refusal| refusal.reason)
        };
        let refused =
            |role: &str| Err(format!("the IAM role {role} may not join as control-plane"));
        assert_eq!(verdict(&[], "masters"), Ok(()));
        assert_eq!(verdict(&[], "others"), refused("others"));
        assert_eq!(verdict(&["others"], "others"), Ok(()));
        assert_eq!(verdict(&["others"], "masters"), refused("masters"));
    }

    #[test]
    fn an_instance_without_a_private_dns_name_is_denied() {
        let (caller, rules) = (caller("masters"), rules(&[]));
        let verdict = |dns_name: Option<&str>, node: &str| {
            let mut instance = running(&control_plane("i-1"), 11);
            instance.private_dns_name = dns_name.map(str::to_owned);
            let applicant = Applicant {
                cluster: "demo".to_owned(),
                role: Role::ControlPlane,
                node: node.to_owned(),
                instance: "i-1".to_owned(),
                labels: [].into(),
                taints: [].into(),
            };
            let case = Case {
                applicant: &applicant,
                source: [10, 42, 0, 11].into(),
                caller: &caller,
                instances: &[instance],
                node: None,
            };
            judge(&rules, &case).map(|(_, node)| node)
        };
        assert_eq!(verdict(Some("Node-1"), "node-1").unwrap(), NodeIs::Missing);
        for (dns_name, node) in [
            (None, ""),
            (Some(""), ""),
            (None, "node-1"),
            (Some("node-1"), ""),
            (Some("node-1"), "node-2"),
        ] {
            let refusal = verdict(dns_name, node).unwrap_err();
            assert!(
                refusal.reason.contains("private DNS name"),
                "{dns_name:?} {node:?}: {refusal:?}"
            );
        }
    }
}
