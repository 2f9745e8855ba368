//! Auto Scaling through its query protocol.
//! <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html>

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    call::{Answer, Aws, Call},
    endpoint::Service,
};
use crate::{
    error::{Context, Result},
    ports::{Hook, Scaling},
};

const TERMINATING: &str = "autoscaling:EC2_INSTANCE_TERMINATING";

/// The Auto Scaling API.
#[derive(Clone)]
pub struct AutoScaling(Arc<Aws>);

impl AutoScaling {
    /// The Auto Scaling API with these credentials and endpoints.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(aws)
    }

    async fn read<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let body = self.0.done(&call).await?;
        quick_xml::de::from_str(&body)
            .attempting(|| format!("cannot read the answer to {}", call.iam_action()))
    }
}

#[async_trait]
impl Scaling for AutoScaling {
    async fn waiting_for(&self, instance: &str) -> Result<Vec<Hook>> {
        let found: Described<Instances> = self
            .read(call(
                "DescribeAutoScalingInstances",
                &[("InstanceIds.member.1", instance)],
            ))
            .await?;
        let members = found.result.list.member.into_iter();
        // After completion an instance is in `Terminating:Proceed`.
        let mut waits = members.filter(|member| {
            matches!(
                member.lifecycle_state.as_str(),
                "Terminating" | "Terminating:Wait"
            )
        });
        let Some(member) = waits.next() else {
            return Ok(Vec::new());
        };
        let group = member.auto_scaling_group_name;
        let found: Described<Hooks> = self
            .read(call(
                "DescribeLifecycleHooks",
                &[("AutoScalingGroupName", &group)],
            ))
            .await?;
        let hooks = found.result.list.member.into_iter();
        Ok(hooks
            .filter(|hook| hook.lifecycle_transition == TERMINATING)
            .map(|hook| Hook {
                group: group.clone(),
                name: hook.lifecycle_hook_name,
                timeout: hook.heartbeat_timeout,
            })
            .collect())
    }

    async fn complete(&self, hook: &Hook, instance: &str) -> Result<()> {
        let call = call(
            "CompleteLifecycleAction",
            &[
                ("AutoScalingGroupName", &hook.group),
                ("LifecycleHookName", &hook.name),
                ("InstanceId", instance),
                ("LifecycleActionResult", "CONTINUE"),
            ],
        );
        match self.0.call(&call).await? {
            Answer::Done(_) => Ok(()),
            // "No active Lifecycle Action found": it was completed, by the agent or by its timeout.
            Answer::Rejected(no, _) if no.code == "ValidationError" => Ok(()),
            Answer::Rejected(no, role) => Err(self.0.error(&call, no, &role)),
        }
    }
}

fn call(action: &'static str, parameters: &[(&str, &str)]) -> Call {
    Call::query(Service::AutoScaling, "2011-01-01", action, parameters)
}

#[derive(Deserialize)]
struct Described<T> {
    #[serde(alias = "DescribeAutoScalingInstancesResult")]
    #[serde(alias = "DescribeLifecycleHooksResult")]
    result: T,
}

#[derive(Deserialize)]
struct Instances {
    #[serde(rename = "AutoScalingInstances", default)]
    list: Members<Member>,
}

#[derive(Deserialize)]
struct Hooks {
    #[serde(rename = "LifecycleHooks", default)]
    list: Members<HookMember>,
}

#[derive(Deserialize)]
struct Members<T> {
    #[serde(default = "Vec::new")]
    member: Vec<T>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { member: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Member {
    auto_scaling_group_name: String,
    lifecycle_state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HookMember {
    lifecycle_hook_name: String,
    lifecycle_transition: String,
    heartbeat_timeout: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use wiremock::ResponseTemplate;

    use super::*;
    use crate::adapters::aws::tests::Region;

    fn answer(body: &str) -> ResponseTemplate {
        ResponseTemplate::new(200).set_body_string(body)
    }

    fn instance(state: &str) -> ResponseTemplate {
        answer(&format!(
            "<DescribeAutoScalingInstancesResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><DescribeAutoScalingInstancesResult><AutoScalingInstances><member><InstanceId>i-1</InstanceId><AutoScalingGroupName>workers</AutoScalingGroupName><LifecycleState>{state}</LifecycleState></member></AutoScalingInstances></DescribeAutoScalingInstancesResult></DescribeAutoScalingInstancesResponse>"
        ))
    }

    #[tokio::test]
    async fn waiting_termination_hooks_are_found_and_completed() {
        let region = Region::new().await;
        let hook = |name: &str, transition: &str| {
            format!(
                "<member><LifecycleHookName>{name}</LifecycleHookName><AutoScalingGroupName>workers</AutoScalingGroupName><LifecycleTransition>autoscaling:{transition}</LifecycleTransition><HeartbeatTimeout>300</HeartbeatTimeout></member>"
            )
        };
        let hooks =
            hook("up", "EC2_INSTANCE_LAUNCHING") + &hook("down", "EC2_INSTANCE_TERMINATING");
        let gone = "<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code><Message>No active Lifecycle Action found with instance ID i-1</Message></Error></ErrorResponse>";
        region
            .answers([
                instance("Terminating:Wait"),
                answer(&format!(
                    "<DescribeLifecycleHooksResponse><DescribeLifecycleHooksResult><LifecycleHooks>{hooks}</LifecycleHooks></DescribeLifecycleHooksResult></DescribeLifecycleHooksResponse>"
                )),
                answer("<CompleteLifecycleActionResponse/>"),
                ResponseTemplate::new(400).set_body_string(gone),
            ])
            .await;
        let hooks = region.scaling.waiting_for("i-1").await.unwrap();
        let expected = Hook {
            group: "workers".to_owned(),
            name: "down".to_owned(),
            timeout: 300,
        };
        assert_eq!(hooks, [expected]);
        for _ in 0..2 {
            region.scaling.complete(&hooks[0], "i-1").await.unwrap();
        }
        let requests = region.requests().await;
        let body = std::str::from_utf8(&requests[2].body).unwrap();
        assert_eq!(
            body,
            "Action=CompleteLifecycleAction&Version=2011-01-01&AutoScalingGroupName=workers&LifecycleHookName=down&InstanceId=i-1&LifecycleActionResult=CONTINUE"
        );
    }

    #[tokio::test]
    async fn no_hook_waits_for_an_instance_in_service_or_without_a_group() {
        let none = answer(
            "<DescribeAutoScalingInstancesResponse><DescribeAutoScalingInstancesResult><AutoScalingInstances/></DescribeAutoScalingInstancesResult></DescribeAutoScalingInstancesResponse>",
        );
        for described in [instance("InService"), instance("Terminating:Proceed"), none] {
            let region = Region::new().await;
            region.answers([described]).await;
            assert_eq!(region.scaling.waiting_for("i-1").await.unwrap(), []);
        }
    }
}
