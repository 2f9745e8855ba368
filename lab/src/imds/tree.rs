//! The metadata tree of an instance, in the layout of EC2's documentation.

use serde_json::{Value, json};

use crate::ec2::{ACCOUNT, IMAGE, INSTANCE_TYPE, stamp};
use crate::network::{REGION, Subnet, VPC_CIDR};
use crate::state::{Machine, Notice};

/// The tree below `meta-data/`: objects are folders, strings are leaves.
pub fn metadata(machine: &Machine) -> Value {
    let mac = machine.mac.as_str();
    let subnet = Subnet::of(machine.address);
    let host = if machine.metadata.own_domain {
        format!("{}.corp.example", machine.hostname())
    } else {
        machine.private_dns()
    };
    let profile = format!(
        "arn:aws:iam::{ACCOUNT}:instance-profile/{}",
        machine.iam_role()
    );
    let info = json!({
        "Code": "Success",
        "LastUpdated": stamp(machine.launched),
        "InstanceProfileArn": profile,
        "InstanceProfileId": "AIPALABLABLABLABLAB",
    });
    let mut tree = json!({
        "ami-id": IMAGE,
        "ami-launch-index": "0",
        "hostname": host,
        "instance-action": "none",
        "instance-id": machine.id,
        "instance-life-cycle": "on-demand",
        "instance-type": INSTANCE_TYPE,
        "local-hostname": host,
        "local-ipv4": machine.address.to_string(),
        "mac": mac,
        "profile": "default-hvm",
        "reservation-id": machine.id.replace("i-", "r-"),
        "security-groups": "default",
        "iam": {
            "info": info.to_string(),
            // Filled in by the server, which asks STS.
            "security-credentials": { (machine.iam_role()): "" },
        },
        "network": { "interfaces": { "macs": { (mac): {
            "device-number": "0",
            "interface-id": machine.id.replace("i-", "eni-"),
            "local-hostname": host,
            "local-ipv4s": machine.address.to_string(),
            "mac": mac,
            "owner-id": ACCOUNT,
            "security-groups": "default",
            "subnet-ipv4-cidr-block": subnet.cidr(),
            "vpc-ipv4-cidr-block": VPC_CIDR,
            "vpc-ipv4-cidr-blocks": VPC_CIDR,
        } } } },
        "placement": {
            "availability-zone": subnet.zone,
            "availability-zone-id": subnet.zone_id,
            "region": REGION,
        },
        "services": { "domain": "amazonaws.com", "partition": "aws" },
    });
    if machine.metadata.tags
        && let Some(root) = tree.as_object_mut()
    {
        root.insert("tags".into(), json!({ "instance": machine.tags }));
    }
    if let Some(root) = tree.as_object_mut() {
        match machine.notice {
            None => {}
            Some(Notice::Group { .. }) => {
                let state = json!({ "target-lifecycle-state": "Terminated" });
                root.insert("autoscaling".into(), state);
            }
            Some(Notice::Spot(at)) => {
                let action = json!({ "action": "terminate", "time": stamp(at) });
                root.insert(
                    "spot".into(),
                    json!({ "instance-action": action.to_string() }),
                );
            }
        }
    }
    tree
}

/// The instance identity document.
pub fn identity_document(machine: &Machine) -> Value {
    json!({
        "accountId": ACCOUNT,
        "architecture": if std::env::consts::ARCH == "aarch64" { "arm64" } else { "x86_64" },
        "availabilityZone": Subnet::of(machine.address).zone,
        "billingProducts": null,
        "devpayProductCodes": null,
        "imageId": IMAGE,
        "instanceId": machine.id,
        "instanceType": INSTANCE_TYPE,
        "kernelId": null,
        "marketplaceProductCodes": null,
        "pendingTime": stamp(machine.launched),
        "privateIp": machine.address.to_string(),
        "ramdiskId": null,
        "region": REGION,
        "version": "2017-09-30",
    })
}

/// Reads a path in a tree: a leaf's text, or the listing of a folder, whose
/// folders end in a slash. Tag keys may contain colons but no slash.
pub fn read(tree: &Value, path: &[&str]) -> Option<String> {
    let mut at = tree;
    for part in path {
        at = at.as_object()?.get(*part)?;
    }
    match at {
        Value::String(leaf) => Some(leaf.clone()),
        Value::Object(folder) => {
            let lines: Vec<String> = folder
                .iter()
                .map(|(name, value)| format!("{name}{}", if value.is_object() { "/" } else { "" }))
                .collect();
            Some(lines.join("\n"))
        }
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::machine;

    #[test]
    fn a_folder_lists_its_folders_with_a_slash() {
        let tree = metadata(&machine("w1", 10));
        assert_eq!(
            read(&tree, &["placement"]).as_deref(),
            Some("availability-zone\navailability-zone-id\nregion")
        );
        assert_eq!(read(&tree, &["network"]).as_deref(), Some("interfaces/"));
        assert_eq!(
            read(&tree, &["tags", "instance", "Name"]).as_deref(),
            Some("w1")
        );
        assert_eq!(read(&tree, &["spot"]), None);
        assert_eq!(read(&tree, &["mac", "deeper"]), None);
    }

    #[test]
    fn a_custom_domain_is_in_host_names_only() {
        let mut w1 = machine("w1", 10);
        w1.metadata.own_domain = true;
        let name = read(&metadata(&w1), &["local-hostname"]);
        assert_eq!(name.as_deref(), Some("ip-10-42-0-10.corp.example"));
        assert!(w1.private_dns().ends_with(".compute.internal"));
    }

    #[test]
    fn the_metadata_announces_the_end_of_an_instance() {
        let mut w1 = machine("w1", 10);
        let spot = ["spot", "instance-action"];
        let group = ["autoscaling", "target-lifecycle-state"];
        assert_eq!(read(&metadata(&w1), &spot), None);
        w1.notice = Some(Notice::Spot(951_782_400));
        assert_eq!(
            read(&metadata(&w1), &spot).as_deref(),
            Some(r#"{"action":"terminate","time":"2000-02-29T00:00:00Z"}"#)
        );
        w1.notice = Some(Notice::Group { proceeds: false });
        let state = read(&metadata(&w1), &group);
        assert_eq!(state.as_deref(), Some("Terminated"));
    }

    #[test]
    fn time_is_written_as_ec2_writes_it() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(stamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(stamp(1_700_000_000), "2023-11-14T22:13:20Z");
    }
}
