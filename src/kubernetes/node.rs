//! A typed view of a Node object.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::ports::ObjectRef;

/// The label and the taint with which kubeadm marks a control plane.
pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Prefix of an EC2 instance's providerID.
const AWS: &str = "aws:///";

/// A Node object as the API server returns it.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a>(pub &'a Value);

impl<'a> Node<'a> {
    /// Empty if the object has no name.
    pub fn name(self) -> &'a str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The ID of its EC2 instance; `None` if its providerID does not name one.
    pub fn instance(self) -> Option<&'a str> {
        let provider = self.0["spec"]["providerID"].as_str()?;
        let (_zone, id) = provider.strip_prefix(AWS)?.rsplit_once('/')?;
        Some(id)
    }

    /// Whether its condition `Ready` is true: its kubelet reported so within the controller
    /// manager's grace period.
    pub fn is_ready(self) -> bool {
        is_ready(self.0)
    }

    /// Why its condition `Ready` has its status, in the kubelet's or the controller manager's words;
    /// empty before the kubelet's first report.
    pub fn ready_message(self) -> &'a str {
        let message = ready_condition(self.0).and_then(|condition| condition["message"].as_str());
        message.unwrap_or_default()
    }

    /// Whether kubeadm marked it as a control plane.
    pub fn is_control_plane(self) -> bool {
        self.has_label(CONTROL_PLANE)
    }

    /// Whether it has this label, whatever its value.
    pub fn has_label(self, key: &str) -> bool {
        self.0["metadata"]["labels"].get(key).is_some()
    }

    /// The text of this annotation.
    pub fn annotation(self, key: &str) -> Option<&'a str> {
        self.0["metadata"]["annotations"].get(key)?.as_str()
    }

    /// Whether it is cordoned.
    pub fn is_cordoned(self) -> bool {
        self.0["spec"]["unschedulable"] == true
    }

    /// Whether it was deleted and finalizers still keep it.
    pub fn is_being_deleted(self) -> bool {
        !self.0["metadata"]["deletionTimestamp"].is_null()
    }

    /// Its `InternalIP`; `None` before the kubelet has reported it.
    pub fn address(self) -> Option<Ipv4Addr> {
        let addresses = self.0["status"]["addresses"].as_array()?;
        let private = addresses.iter().find(|a| a["type"] == "InternalIP")?;
        private["address"].as_str()?.parse().ok()
    }
}

/// Whether a Node's or Pod's condition `Ready` is true.
pub fn is_ready(object: &Value) -> bool {
    ready_condition(object).is_some_and(|condition| condition["status"] == "True")
}

fn ready_condition(object: &Value) -> Option<&Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == "Ready")
}

/// The providerID of an EC2 instance in this availability zone.
pub fn provider_id(zone: &str, instance: &str) -> String {
    format!("{AWS}{zone}/{instance}")
}

/// The Node of this name.
pub fn reference(name: &str) -> ObjectRef {
    ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        namespace: None,
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_provider_id_of_ec2_names_an_instance() {
        let of = |id: &str| json!({"spec": {"providerID": id}});
        let own = of(&provider_id("eu-central-1a", "i-1"));
        assert_eq!(Node(&own).instance(), Some("i-1"));
        for other in ["", "i-1", "gce://project/zone/i-1", "aws:///i-1"] {
            assert_eq!(Node(&of(other)).instance(), None, "{other:?}");
        }
        assert_eq!(Node(&json!({})).instance(), None);
    }

    #[test]
    fn only_the_condition_ready_makes_a_node_ready() {
        let with = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        assert!(Node(&with("Ready", "True")).is_ready());
        for (kind, status) in [
            ("Ready", "False"),
            ("Ready", "Unknown"),
            ("DiskPressure", "True"),
        ] {
            assert!(!Node(&with(kind, status)).is_ready(), "{kind} {status}");
        }
        assert!(!Node(&json!({})).is_ready());
    }

    #[test]
    fn the_reason_is_the_message_of_the_condition_ready() {
        let node = json!({"status": {"conditions": [
            {"type": "DiskPressure", "status": "False", "message": "kubelet has no disk pressure"},
            {"type": "Ready", "status": "False", "message": "cni plugin not initialized"},
        ]}});
        assert_eq!(Node(&node).ready_message(), "cni plugin not initialized");
        assert_eq!(Node(&json!({})).ready_message(), "");
    }

    #[test]
    fn the_private_address_is_the_internal_ip() {
        let node = json!({"status": {"addresses": [
            {"type": "Hostname", "address": "ip-10-0-0-1"},
            {"type": "InternalIP", "address": "10.0.0.1"},
        ]}});
        assert_eq!(Node(&node).address(), Some(Ipv4Addr::new(10, 0, 0, 1)));
    }
}
