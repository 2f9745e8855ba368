//! The policies of docs/iam for the lab's roles.

use anyhow::{Context, Result, bail};
use serde_json::Value;

const CONTROL_PLANE: &str = include_str!("../../../docs/iam/control-plane.json");
const WORKER: &str = include_str!("../../../docs/iam/worker.json");

/// The role's policy as JSON, without these actions.
///
/// moto checks only the action: it passes no resource to the policy check, so each statement gets
/// `*`. The lab does not test whether the resources are right.
pub fn of(role: &str, without: &[String]) -> Result<String> {
    let text = match role {
        "k8s-bootstrap-control-plane" => CONTROL_PLANE,
        "k8s-bootstrap-worker" => WORKER,
        _ => bail!("the lab has no role {role}"),
    };
    let mut policy: Value = serde_json::from_str(text).context("docs/iam is not JSON")?;
    let mut known = Vec::new();
    for statement in policy["Statement"].as_array_mut().into_iter().flatten() {
        statement["Resource"] = "*".into();
        if let Some(object) = statement.as_object_mut() {
            object.remove("Condition");
        }
        for action in statement["Action"].as_array_mut().into_iter().flatten() {
            known.extend(action.as_str().map(str::to_owned));
            if without.iter().any(|gone| action == gone.as_str()) {
                // A statement must have an action; no call uses this one.
                *action = "none:Nothing".into();
            }
        }
    }
    if let Some(unknown) = without.iter().find(|action| !known.contains(action)) {
        bail!(
            "the policy of {role} does not allow {unknown}: {}",
            known.join(", ")
        );
    }
    Ok(policy.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_action_can_be_left_out_and_an_unknown_one_is_an_error() {
        let role = "k8s-bootstrap-worker";
        let whole = of(role, &[]).unwrap();
        let action = "ec2:DescribeInstances";
        assert!(
            whole.contains(action) && whole.contains(r#""Resource":"*""#),
            "{whole}"
        );
        let without = of(role, &[action.to_owned()]).unwrap();
        assert!(!without.contains(action), "{without}");
        let error = of(role, &["ssm:PutParameter".to_owned()]).unwrap_err();
        assert!(error.to_string().contains(action), "{error}");
        assert!(of("other", &[]).is_err());
    }
}
