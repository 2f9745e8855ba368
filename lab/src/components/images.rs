//! The images that the cluster runs: those of the control plane and of the manifests, pulled if
//! their registry answers and built here if not, and one for tests. They are stored in a registry's
//! storage folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cache::{Cache, Stamp};
use super::command::run;
use super::debian::{self, Debian, busybox_applets, iptables_extensions, with_libraries};
use super::families::{
    CALICO, CNI, COREDNS, ETCD, KUBERNETES, LOCAL_PATH, METRICS_SERVER, TRAEFIK,
};
use super::golang::Family;
use super::image::{self, Image, Node};
use super::manifests::registry_of;
use super::official::Official;
use super::pins::Tags;
use super::registry::{Storage, copied};

const PAUSE_C: &str = include_str!("../../components/images/pause.c");
const CALICO_NODE_SH: &str = include_str!("../../components/images/calico-node.sh");

/// Shell, wget, nslookup and a small web server, for tests of pods. No public registry has it.
pub const BUSYBOX: &str = "docker.io/lab/busybox:1";
/// Its path in Debian.
const BUSYBOX_PROGRAM: &str = "/usr/bin/busybox";

/// The registry's folder in the cache.
pub const COMPONENT: &str = "registry";

/// Increased when the result for the same inputs changes.
const RECIPE: &str = "4";

/// Names under which iptables is called, for IPv4 and IPv6 and either backend.
const IPTABLES: &[(&str, &str)] = &[("", "nft"), ("-nft", "nft"), ("-legacy", "legacy")];
/// The file that programs need to name protocols, from Debian's netbase.
const PROTOCOLS: &str =
    "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n";
/// The commands that calico/node's entry point and a person who debugs it use.
const SHELL: &[&str] = &[
    "cat", "env", "grep", "hostname", "kill", "ls", "mount", "ps", "sed", "sh", "sleep", "sysctl",
    "umount",
];

/// The storage folder of a registry with all images except the application's: `named` are those
/// that manifests name.
///
/// # Errors If an image can be neither pulled nor built.
pub fn built(
    cache: &Cache,
    tags: &Tags,
    named: &[String],
    official: &Official,
    debian: &Debian,
) -> Result<PathBuf> {
    let mut wanted = control_plane(tags);
    wanted.extend(named.iter().cloned());
    wanted.push(BUSYBOX.to_owned());
    wanted.sort();
    wanted.dedup();
    let folder = cache.component(COMPONENT, &stamp(&wanted), |folder, log| {
        let storage = Storage::new(folder);
        let work = folder.join("work");
        let maker = Maker {
            cache,
            debian,
            folder: &work,
            log,
        };
        for reference in &wanted {
            fs::create_dir(&work)?;
            let (_, repository, tag) = image::parse(reference)?;
            let ours = reference == BUSYBOX;
            let blobs = if !ours && official.answers(&registry_of(reference)) {
                Official::pull(reference, &work, log)?;
                copied(&work)?
            } else {
                image::build(&maker.image(reference)?, &work)?
            };
            storage.add(repository, tag, &blobs, &work)?;
            fs::remove_dir_all(&work)?;
        }
        Ok(())
    })?;
    Ok(folder)
}

/// The images that kubeadm uses.
fn control_plane(tags: &Tags) -> Vec<String> {
    let version = &tags.version;
    let mut images: Vec<String> = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
    ]
    .iter()
    .map(|name| format!("registry.k8s.io/{name}:v{version}"))
    .collect();
    images.push(format!("registry.k8s.io/etcd:{}", tags.etcd_tag));
    images.push(format!(
        "registry.k8s.io/coredns/coredns:{}",
        tags.coredns_tag
    ));
    images.push(format!("registry.k8s.io/pause:{}", tags.pause_tag));
    images
}

fn stamp(wanted: &[String]) -> Stamp {
    let debian = debian::programs_stamp();
    let families = [
        &KUBERNETES,
        &ETCD,
        &COREDNS,
        &CALICO,
        &CNI,
        &TRAEFIK,
        &LOCAL_PATH,
        &METRICS_SERVER,
    ]
    .map(Family::stamp);
    let mut inputs = vec![
        ("recipe", RECIPE.as_bytes()),
        ("pause.c", PAUSE_C.as_bytes()),
        ("calico-node.sh", CALICO_NODE_SH.as_bytes()),
        ("debian", debian.as_bytes()),
    ];
    inputs.extend(families.iter().map(|stamp| ("family", stamp.as_bytes())));
    inputs.extend(wanted.iter().map(|image| ("image", image.as_bytes())));
    Stamp::of(inputs)
}

/// Builds images from the other components, which are built if needed.
pub struct Maker<'a> {
    pub cache: &'a Cache,
    pub debian: &'a Debian,
    /// For temporary files of an image.
    pub folder: &'a Path,
    pub log: &'a Path,
}

impl Maker<'_> {
    fn image(&self, reference: &str) -> Result<Image> {
        let (_, repository, tag) = image::parse(reference)?;
        let image = Image::new(reference);
        let built = |version: &str| {
            if tag.trim_start_matches('v') == version {
                return Ok(());
            }
            bail!("{reference} cannot be pulled, and the lab only builds version {version}")
        };
        match repository {
            "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" => {
                built(KUBERNETES.version)?;
                self.kubernetes(image, repository)
            }
            "kube-proxy" => {
                built(KUBERNETES.version)?;
                self.kube_proxy(image)
            }
            "etcd" => self.etcd(image),
            "coredns/coredns" => self.coredns(image),
            "pause" => self.pause(image),
            "calico/node" => {
                built(CALICO.version)?;
                self.calico_node(image)
            }
            "calico/cni" => {
                built(CALICO.version)?;
                self.calico_cni(image)
            }
            "calico/kube-controllers" => {
                built(CALICO.version)?;
                self.calico_kube_controllers(image)
            }
            "library/traefik" => {
                built(TRAEFIK.version)?;
                self.traefik(image)
            }
            "rancher/local-path-provisioner" => {
                built(LOCAL_PATH.version)?;
                self.local_path_provisioner(image)
            }
            "metrics-server/metrics-server" => {
                built(METRICS_SERVER.version)?;
                self.metrics_server(image)
            }
            "valkey/valkey" => self.valkey(image),
            "lab/busybox" | "library/busybox" => self.busybox(image),
            _ => bail!("{reference} cannot be pulled, and the lab has no recipe to build it"),
        }
        .with_context(|| format!("make the image {reference}"))
    }

    fn kubernetes(&self, image: Image, name: &str) -> Result<Image> {
        let path = format!("usr/local/bin/{name}");
        let program = KUBERNETES.built(self.cache)?.join(name);
        Ok(image
            .with(&path, Node::Program(program))
            .run_by(&format!("/{path}")))
    }

    fn kube_proxy(&self, image: Image) -> Result<Image> {
        let tools = ["/usr/sbin/nft", "/usr/sbin/conntrack"];
        // Without these names nft lists numbers, and a restarted kube-proxy mistakes its own
        // services for leftovers and removes them.
        let protocols = Node::Text(PROTOCOLS.into(), 0o644);
        Ok(self
            .kubernetes(image, "kube-proxy")?
            .with_all(self.iptables(&tools)?)
            .with("etc/protocols", protocols))
    }

    fn etcd(&self, mut image: Image) -> Result<Image> {
        let programs = ETCD.built(self.cache)?;
        for name in ["etcd", "etcdctl", "etcdutl"] {
            let program = Node::Program(programs.join(name));
            image = image.with(&format!("usr/local/bin/{name}"), program);
        }
        Ok(image.run_by("/usr/local/bin/etcd"))
    }

    fn coredns(&self, image: Image) -> Result<Image> {
        let program = Node::Program(COREDNS.built(self.cache)?.join("coredns"));
        // For `forward` to a resolver with TLS.
        Ok(self
            .with_certificates(image)?
            .with("coredns", program)
            .run_by("/coredns"))
    }

    /// The image with the certificates of public authorities.
    pub fn with_certificates(&self, image: Image) -> Result<Image> {
        let roots = "etc/ssl/certs/ca-certificates.crt";
        let certificates = fs::read_to_string(self.debian.machine.join(roots))?;
        Ok(image.with(roots, Node::Text(certificates, 0o644)))
    }

    fn pause(&self, image: Image) -> Result<Image> {
        let source = self.folder.join("pause.c");
        let program = self.folder.join("pause");
        fs::write(&source, PAUSE_C)?;
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-Wall", "-Wextra", "-static", "-s", "-o"]);
        run(gcc.arg(&program).arg(&source), self.log)?;
        Ok(image.with("pause", Node::Program(program)).run_by("/pause"))
    }

    fn calico_node(&self, image: Image) -> Result<Image> {
        let tools = [
            "/usr/sbin/nft",
            "/usr/sbin/conntrack",
            "/usr/sbin/ipset",
            "/usr/bin/ip",
            "/usr/sbin/tc",
            BUSYBOX_PROGRAM,
        ];
        let program = Node::Program(CALICO.built(self.cache)?.join("calico-node"));
        let mut image = image
            .with_all(self.iptables(&tools)?)
            .with("usr/bin/calico-node", program)
            .with("entry", Node::Text(CALICO_NODE_SH.to_owned(), 0o755))
            .run_by("/entry");
        for name in SHELL {
            image = image.with(&format!("usr/bin/{name}"), Node::Symlink("busybox".into()));
        }
        Ok(image)
    }

    /// The init container copies all of /opt/cni/bin except `install` to the node, including the
    /// reference plugins that Calico's configuration chains.
    fn calico_cni(&self, mut image: Image) -> Result<Image> {
        let (calico, plugins) = (CALICO.built(self.cache)?, CNI.built(self.cache)?);
        for name in ["calico", "install"] {
            let program = Node::Program(calico.join(name));
            image = image.with(&format!("opt/cni/bin/{name}"), program);
        }
        for name in ["bandwidth", "host-local", "loopback", "portmap", "tuning"] {
            let program = Node::Program(plugins.join(name));
            image = image.with(&format!("opt/cni/bin/{name}"), program);
        }
        // The plugin checks the name that it is called by.
        let ipam = Node::Hardlink("opt/cni/bin/calico".into());
        Ok(image
            .with("opt/cni/bin/calico-ipam", ipam)
            .run_by("/opt/cni/bin/install"))
    }

    fn calico_kube_controllers(&self, mut image: Image) -> Result<Image> {
        let programs = CALICO.built(self.cache)?;
        for name in ["kube-controllers", "check-status"] {
            let program = Node::Program(programs.join(name));
            image = image.with(&format!("usr/bin/{name}"), program);
        }
        // Its probes read the status that it writes there.
        Ok(image
            .with("status", Node::Folder(0o755))
            .with("profiles", Node::Folder(0o755))
            .run_by("/usr/bin/kube-controllers"))
    }

    /// Dynamically linked: a static glibc loads parts of its resolver at run time, from files that
    /// the image does not have.
    fn busybox(&self, image: Image) -> Result<Image> {
        let root = &self.debian.tools;
        let mut image = image.with_all(with_libraries(root, &[BUSYBOX_PROGRAM.to_owned()])?);
        for applet in busybox_applets(root)? {
            image = image.with(
                &format!("usr/bin/{applet}"),
                Node::Symlink("busybox".into()),
            );
        }
        let passwd = Node::Text("root:x:0:0:root:/:/bin/sh\n".into(), 0o644);
        image = image.with("etc/passwd", passwd);
        image.command = vec!["sh".to_owned()];
        Ok(image)
    }

    /// iptables with both backends under all names, and `tools`.
    fn iptables(&self, tools: &[&str]) -> Result<BTreeMap<String, Node>> {
        let root = &self.debian.tools;
        let mut programs = iptables_extensions(root)?;
        programs.extend(tools.iter().map(|&tool| tool.to_owned()));
        for backend in ["nft", "legacy"] {
            programs.push(format!("/usr/sbin/xtables-{backend}-multi"));
        }
        let mut files = with_libraries(root, &programs)?;
        for family in ["iptables", "ip6tables"] {
            for (suffix, backend) in IPTABLES {
                for action in ["", "-save", "-restore"] {
                    files.insert(
                        format!("usr/sbin/{family}{suffix}{action}"),
                        Node::Symlink(format!("xtables-{backend}-multi")),
                    );
                }
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::manifests::images_of_folder;
    use super::super::pins::Defaults;
    use super::*;

    #[test]
    fn kubeadm_s_images_are_those_of_the_defaults() {
        let defaults = Defaults::read().unwrap();
        let images = control_plane(&defaults.kubernetes);
        for image in [
            "registry.k8s.io/kube-proxy:v1.36.3",
            "registry.k8s.io/coredns/coredns:v1.14.2",
            "registry.k8s.io/etcd:3.6.8-0",
            "registry.k8s.io/pause:3.10.2",
        ] {
            assert!(images.iter().any(|known| known == image), "{image}");
        }
        assert_eq!(images.len(), 7);
    }

    #[test]
    fn every_image_of_our_manifests_has_a_recipe_of_its_version() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        let images = images_of_folder(&folder).unwrap();
        for image in [
            "docker.io/valkey/valkey:9.1",
            &format!("docker.io/library/traefik:v{}", TRAEFIK.version),
        ] {
            assert!(images.iter().any(|named| named == image), "{image}");
        }
        assert_eq!(images.len(), 2, "{images:?}");
    }

    #[test]
    fn another_image_makes_another_registry() {
        let one = vec!["registry.k8s.io/pause:3.10.2".to_owned()];
        let other = vec!["registry.k8s.io/pause:3.10.3".to_owned()];
        assert_ne!(stamp(&one), stamp(&other));
    }
}
