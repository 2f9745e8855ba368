//! Identities, machines and settings for tests.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    config::{Settings, load},
    identity::Identity,
    ports::{MachineFacts, Role},
};

/// The instance id in tests that have only one.
const INSTANCE: &str = "i-0123456789abcdef0";

/// The shipped settings.
pub fn settings() -> Settings {
    load(&[]).unwrap()
}

/// Same, with pins that the fake download hosts serve.
pub fn installable(mut settings: Settings) -> Settings {
    for (name, pin) in &mut settings.pins {
        pin.url = format!("https://downloads.example.com/{name}");
        let digest = hex::encode(Sha256::digest(&pin.url));
        pin.sha256.insert("amd64".to_owned(), digest);
    }
    settings
}

/// A c7i-flex.large with Ubuntu.
pub fn machine() -> MachineFacts {
    MachineFacts {
        cpus: 2,
        memory_bytes: 4 << 30,
        arch: "amd64".to_owned(),
        cgroup_version: 2,
        disk_free_bytes: 20 << 30,
        root: true,
        kernel: "6.8.0-1030-aws".to_owned(),
    }
}

/// A control plane with this instance id.
pub fn control_plane(instance_id: &str) -> Identity {
    bare(instance_id, Role::ControlPlane)
}

/// A worker with this instance id.
pub fn worker(instance_id: &str) -> Identity {
    bare(instance_id, Role::Worker)
}

/// The only instance, with its labels from EC2 and from the user.
pub fn identity(role: Role) -> Identity {
    bare(INSTANCE, role).labelled()
}

fn bare(instance_id: &str, role: Role) -> Identity {
    Identity {
        cluster: "demo".to_owned(),
        role,
        node_name: "ip-10-42-0-10.eu-central-1.compute.internal".to_owned(),
        instance_id: instance_id.to_owned(),
        provider_id: format!("aws:///eu-central-1a/{instance_id}"),
        region: "eu-central-1".to_owned(),
        zone: "eu-central-1a".to_owned(),
        private_ip: [10, 42, 0, 10].into(),
        arch: "amd64".to_owned(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
    }
}

impl Identity {
    /// Same, with labels.
    fn labelled(mut self) -> Self {
        self.labels = [
            ("topology.kubernetes.io/zone", "eu-central-1a"),
            ("topology.kubernetes.io/region", "eu-central-1"),
            ("node.kubernetes.io/instance-type", "c7i-flex.large"),
            ("team", "blue"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        self
    }
}
