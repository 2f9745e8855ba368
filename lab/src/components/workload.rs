//! Images of what the application stands on: volumes, its store and the ingress.

use anyhow::Result;

use super::debian::with_libraries;
use super::families::{LOCAL_PATH, TRAEFIK};
use super::image::{Image, Node};
use super::images::Maker;

/// Names that Valkey's image has, and Debian's programs that answer to them here.
const VALKEY: &[(&str, &str)] = &[
    ("valkey-cli", "redis-cli"),
    ("valkey-server", "redis-server"),
    ("valkey-benchmark", "redis-benchmark"),
];

impl Maker<'_> {
    /// The ingress controller. A pod gives it flags only, as it may the official one,
    /// whose entry point puts `traefik` before them.
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

    /// What makes volumes. Its manifest calls the program by its name alone.
    pub fn local_path_provisioner(&self, image: Image) -> Result<Image> {
        let name = "local-path-provisioner";
        let path = format!("usr/bin/{name}");
        let program = Node::Program(LOCAL_PATH.built(self.cache)?.join(name));
        Ok(image.with(&path, program).run_by(name))
    }

    /// Valkey's predecessor, which reads the same configuration and files and speaks
    /// the same protocol: Debian 12 has no Valkey.
    pub fn valkey(&self, image: Image) -> Result<Image> {
        let programs: Vec<String> = VALKEY
            .iter()
            .map(|(_, redis)| format!("/usr/bin/{redis}"))
            .collect();
        let mut image = image
            .with_all(with_libraries(&self.debian.tools, &programs)?)
            // Where the official image works; a volume is mounted over it.
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
