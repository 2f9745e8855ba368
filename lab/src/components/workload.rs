//! Images that the application depends on: the volume provisioner, its store, the ingress and the
//! metrics that scale it.

use anyhow::Result;

use super::debian::with_libraries;
use super::families::{LOCAL_PATH, METRICS_SERVER, TRAEFIK};
use super::image::{Image, Node};
use super::images::Maker;

/// Names of programs in Valkey's image, and Debian's programs that replace them here.
const VALKEY: &[(&str, &str)] = &[
    ("valkey-cli", "redis-cli"),
    ("valkey-server", "redis-server"),
    ("valkey-benchmark", "redis-benchmark"),
];

impl Maker<'_> {
    /// The ingress controller. As with the official image, whose entry point adds `traefik`, a pod
    /// may pass only flags.
    pub fn traefik(&self, image: Image) -> Result<Image> {
        let path = "usr/local/bin/traefik";
        let program = Node::Program(TRAEFIK.built(self.cache)?.join("traefik"));
        let mut image = self
            .with_certificates(image)?
            .with(path, program)
            .run_by(&format!("/{path}"));
        image.ports = vec![80];
        Ok(image)
    }

    /// The volume provisioner. Its manifest calls the program by its bare name.
    pub fn local_path_provisioner(&self, image: Image) -> Result<Image> {
        let name = "local-path-provisioner";
        let path = format!("usr/bin/{name}");
        let program = Node::Program(LOCAL_PATH.built(self.cache)?.join(name));
        Ok(image.with(&path, program).run_by(name))
    }

    /// The server of metrics, at the path that the official image has.
    pub fn metrics_server(&self, image: Image) -> Result<Image> {
        let name = "metrics-server";
        let program = Node::Program(METRICS_SERVER.built(self.cache)?.join(name));
        Ok(image.with(name, program).run_by("/metrics-server"))
    }

    /// Redis instead of Valkey, with the same configuration, files and protocol: Debian 12 has no
    /// Valkey.
    pub fn valkey(&self, image: Image) -> Result<Image> {
        let programs: Vec<String> = VALKEY
            .iter()
            .map(|(_, redis)| format!("/usr/bin/{redis}"))
            .collect();
        let mut image = image
            .with_all(with_libraries(&self.debian.tools, &programs)?)
            // The official image's working directory; a volume is mounted over it.
            .with("data", Node::Folder(0o1777));
        for (valkey, redis) in VALKEY {
            let link = Node::Symlink((*redis).to_owned());
            image = image.with(&format!("usr/bin/{valkey}"), link);
        }
        image.command = vec!["valkey-server".to_owned()];
        image.ports = vec![6379];
        Ok(image)
    }
}
