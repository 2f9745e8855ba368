//! What a running node checks repeatedly.

use super::{LOCAL, Phase, phase::Plan};
use crate::{
    config::Settings,
    error::Result,
    identity::Identity,
    observe::Membership,
    ports::Role,
    steps::{
        Action,
        kubeadm::{BlanketApproval, KubeletCertificate},
        renewal::{DEADLINE, Renewal, Which},
    },
};

/// What a running node checks in each cycle.
pub fn each_cycle(
    settings: &Settings,
    me: &Identity,
    membership: Option<&Membership>,
) -> Result<Vec<Phase<Action>>> {
    let mut plan = Plan::new();
    if me.role == Role::ControlPlane {
        plan.add(
            "no-blanket-approval",
            settings.deadlines.api,
            &[],
            "a bootstrap token is only valid for the node that it was created for",
            BlanketApproval::gone(),
        );
        plan.add(
            "certificates",
            LOCAL,
            &[],
            "certificates that are no longer accepted are renewed at once",
            Renewal::new(Which::Useless, settings, me),
        );
    }
    if let Some(membership) = membership {
        plan.add(
            "kubelet-certificate",
            settings.deadlines.peers + settings.deadlines.join,
            &[],
            "a kubelet with an expired certificate gets a new one",
            KubeletCertificate::new(settings, me, &membership.cluster_uid)?,
        );
    }
    Ok(plan.0)
}

/// What a control plane does when it holds the renewal lock.
pub fn certificates_renewal(settings: &Settings, me: &Identity) -> Vec<Phase<Action>> {
    let mut plan = Plan::new();
    plan.add(
        "certificates-renewal",
        DEADLINE,
        &[],
        "less than a third of their lifetime is left, or a person requested it",
        Renewal::new(Which::Due, settings, me),
    );
    plan.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        observe::Origin,
        testing::{control_plane, settings, worker},
    };

    fn names(phases: &[Phase<Action>]) -> Vec<String> {
        phases.iter().map(|phase| phase.name.clone()).collect()
    }

    #[test]
    fn only_control_planes_maintain_the_cluster_in_each_cycle() {
        let settings = settings();
        let membership = Membership {
            cluster_uid: "uid".to_owned(),
            origin: Origin::Joined,
        };
        let of = |me: &Identity| names(&each_cycle(&settings, me, Some(&membership)).unwrap());
        assert_eq!(
            of(&control_plane("i-1")),
            ["no-blanket-approval", "certificates", "kubelet-certificate"]
        );
        assert_eq!(of(&worker("i-1")), ["kubelet-certificate"]);
    }
}
