//! Launch templates and Auto Scaling groups.

use serde_json::{Value, json};

use super::{
    Buckets, access, issuer,
    network::Placement,
    request::{MOST_WORKERS, Request},
    security::Groups,
    template::{Resource, Template, attribute, reference},
    title,
};
use crate::{error::Result, ports::Role, user_data};

/// The public parameter in which Canonical publishes the id of the newest image of Ubuntu 22.04.
/// <https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/>
const IMAGE: &str =
    "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id";

/// Placeholders in user-data for names that only the stack knows.
const BACKUPS: &str = "@BACKUPS@";
const ISSUER: &str = "@ISSUER@";
const ISSUERS_HOST: &str = "@ISSUERS-HOST@";

/// How long a group waits for a node to leave its cluster, in seconds: more than the agent takes.
const LEAVING: u16 = 300;

/// Adds both roles' machines.
pub fn add(
    template: &mut Template,
    request: &Request,
    network: &Placement,
    groups: &Groups,
    buckets: &Buckets,
    targets: &[Value],
) -> Result<()> {
    template.parameter(
        "Image",
        json!({
            "Type": "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>",
            "Default": IMAGE,
            "Description": "Public parameter with the id of the image for new instances.",
        }),
    );
    template.parameter(
        "InstanceType",
        json!({
            "Type": "String",
            "Default": request.instance_type,
            "Description": "Type of new instances: 2 CPUs and 2 GiB or more, amd64.",
        }),
    );
    template.parameter(
        "Workers",
        json!({
            "Type": "Number",
            "Default": request.workers,
            "MinValue": 0,
            "Description": "Number of workers.",
        }),
    );
    let data = user_data(request, buckets)?;
    for role in [Role::ControlPlane, Role::Worker] {
        let launch = launch_template(template, request, role, groups.of(role), &data);
        let (count, targets) = match role {
            Role::ControlPlane => (json!(request.size.control_planes()), &[][..]),
            Role::Worker => (reference("Workers"), targets),
        };
        group(template, request, network, role, &launch, &count, targets);
    }
    Ok(())
}

/// The same for both roles: an instance learns its role from a tag.
fn user_data(request: &Request, buckets: &Buckets) -> Result<Value> {
    let mut config: Vec<String> = request.config.clone();
    let mut names = Vec::new();
    if let Some(bucket) = &buckets.backups {
        let to = format!("s3://{BACKUPS}/{}", request.cluster);
        config.push(format!("[snapshots]\nto = \"{to}\"\n"));
        names.push((BACKUPS, bucket.clone()));
    }
    if let Some(bucket) = &buckets.issuer {
        config.push(format!(
            "[service_accounts]\nissuer = \"https://{ISSUERS_HOST}\"\npublish_to = \"s3://{ISSUER}\"\n"
        ));
        names.extend([(ISSUERS_HOST, issuer::host()), (ISSUER, bucket.clone())]);
    }
    let config: Vec<&str> = config.iter().map(String::as_str).collect();
    let proxy = &request.settings.proxy;
    let text = user_data::form(
        &request.urls,
        &request.sha256,
        None,
        &config,
        &proxy.variables(&request.settings.no_proxy()),
    )?;
    if names.is_empty() {
        return Ok(json!({"Fn::Base64": text}));
    }
    Ok(json!({"Fn::Base64": {"Fn::Join": ["", parts(&text, &names)]}}))
}

/// The text cut at its placeholders, with what they stand for in between.
fn parts(text: &str, names: &[(&str, Value)]) -> Vec<Value> {
    let first = names
        .iter()
        .filter_map(|(name, value)| Some((text.split_once(name)?, value)))
        .min_by_key(|((before, _), _)| before.len());
    let Some(((before, after), value)) = first else {
        return vec![json!(text)];
    };
    let mut parts = vec![json!(before), value.clone()];
    parts.extend(self::parts(after, names));
    parts
}

/// Adds a launch template; returns its resource's name.
fn launch_template(
    template: &mut Template,
    request: &Request,
    role: Role,
    security_group: &Value,
    user_data: &Value,
) -> String {
    let cluster = &request.cluster;
    let name = format!("{}LaunchTemplate", title(role));
    let tags = json!([
        {"Key": "Name", "Value": format!("{cluster}-{role}")},
        {"Key": "k8s-bootstrap:cluster", "Value": cluster},
        {"Key": "k8s-bootstrap:role", "Value": role.as_str()},
    ]);
    let volume = json!({
        "DeviceName": "/dev/sda1",
        "Ebs": {
            "VolumeSize": request.disk,
            "VolumeType": "gp3",
            "Encrypted": true,
            "DeleteOnTermination": true,
        },
    });
    let data = json!({
        "ImageId": reference("Image"),
        "InstanceType": reference("InstanceType"),
        "IamInstanceProfile": {"Arn": attribute(&access::profile(role), "Arn")},
        "SecurityGroupIds": [security_group],
        "BlockDeviceMappings": [volume],
        // One hop: pods cannot take the node's identity.
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "enabled",
        },
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": tags},
        ],
        "UserData": user_data,
    });
    let properties = json!({"LaunchTemplateData": data});
    template.resource(
        &*name,
        Resource::new("AWS::EC2::LaunchTemplate", properties),
    );
    name
}

fn group(
    template: &mut Template,
    request: &Request,
    network: &Placement,
    role: Role,
    launch: &str,
    count: &Value,
    targets: &[Value],
) {
    // The IAM policies allow completing the hooks of groups whose names begin with the cluster's.
    let name = format!("{}-{role}s", request.cluster);
    let mut properties = json!({
        "AutoScalingGroupName": name,
        "VPCZoneIdentifier": network.nodes,
        "LaunchTemplate": {
            "LaunchTemplateId": reference(launch),
            "Version": attribute(launch, "LatestVersionNumber"),
        },
        "DesiredCapacity": count,
        "LifecycleHookSpecificationList": [{
            "LifecycleHookName": "drain",
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
            "HeartbeatTimeout": LEAVING,
            "DefaultResult": "CONTINUE",
        }],
        "Tags": [{
            "Key": "k8s-bootstrap:cluster",
            "Value": request.cluster,
            "PropagateAtLaunch": false,
        }],
    });
    match role {
        Role::ControlPlane => {
            properties["MinSize"] = count.clone();
            // One more, so that a new instance can start before the one that it replaces ends.
            properties["MaxSize"] = json!(request.size.control_planes() + 1);
        }
        Role::Worker => {
            properties["MinSize"] = json!(0);
            // Limits a mistake: only a person changes the number of workers.
            properties["MaxSize"] = json!(MOST_WORKERS);
        }
    }
    if !targets.is_empty() {
        properties["TargetGroupARNs"] = json!(targets);
    }
    template.resource(
        format!("{}Group", title(role)),
        Resource::new("AWS::AutoScaling::AutoScalingGroup", properties)
            .after(network.routes.clone()),
    );
    let (output, description) = match role {
        Role::ControlPlane => (
            "ControlPlaneGroup",
            "The control planes' Auto Scaling group.",
        ),
        Role::Worker => ("WorkerGroup", "The workers' Auto Scaling group."),
    };
    template.output(output, description, &json!(name));
}
