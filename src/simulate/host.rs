//! The disk of a simulated instance: the simulation sees what an instance does by what it writes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::Deserialize;

use super::{
    absent::absent,
    acts::{self, Edge},
    backups, joining,
    place::Place,
    scene::{Flaw, Moment, Scene},
};
use crate::{
    error::{Error, Result},
    journal,
    kubernetes::paths,
    observe::{Membership, Origin},
    ports::{Host, MachineFacts, Role},
};

/// The parts of a journal that the simulation compares.
#[derive(Deserialize)]
struct Remembered {
    membership: Option<Membership>,
}

/// Whether two journals differ only in their phases. Parsing each one takes too long.
fn differ_in_phases_only(one: &[u8], other: &[u8]) -> bool {
    let head = |journal| {
        let text = str::from_utf8(journal).ok()?;
        text.split_once("\"phases\"").map(|(head, _)| head)
    };
    head(one).is_some_and(|one| Some(one) == head(other))
}

impl Scene {
    /// Updates the scene after a file was written.
    fn wrote(&mut self, by: usize, path: &Path, content: &[u8], before: Option<&[u8]>) {
        if path == Path::new(journal::FILE) {
            if before.is_some_and(|before| differ_in_phases_only(before, content)) {
                return;
            }
            let Ok(journal) = serde_json::from_slice::<Remembered>(content) else {
                return;
            };
            let news = self.laws.memberships.get(&by) != journal.membership.as_ref();
            let membership = journal.membership.filter(|_| news);
            if let Some(membership) = membership.clone() {
                self.note_of(by, || {
                    format!(
                        "records its membership: {:?} {}",
                        membership.origin, membership.cluster_uid
                    )
                });
            }
            if news {
                self.laws.journaled(by, membership, &self.machines);
                self.reached(by, Moment::Committed);
            }
        } else if let Some(act) = acts::of(path) {
            let uid = String::from_utf8_lossy(content).into_owned();
            self.note_of(by, || format!("{act}"));
            self.laws.acts(by, act.origin, &uid, &self.machines);
            if act.edge == Edge::Done && act.origin == Origin::Founded && act.part == "api" {
                self.machines[by].api_server = true;
                self.machines[by].kubelet = true;
                self.put_node(by, &uid);
            }
            let acts = match act.origin {
                Origin::Founded => &mut self.counts.acts_of_founding,
                Origin::Joined => &mut self.counts.acts_of_joining,
            };
            *acts += 1;
            let moment = match act.origin {
                Origin::Founded => Moment::Founded(*acts),
                Origin::Joined => Moment::Joined(*acts),
            };
            self.reached(by, moment);
        } else if path.parent() == Some(Path::new(paths::MANIFESTS))
            && path != Path::new(joining::MANIFEST)
        {
            self.starts_pod(by, path, before, content);
        } else if path == Path::new(joining::MANIFEST) {
            // A founder creates its API server in a separate phase.
            let joins = self.laws.joiners.contains_key(&by);
            self.machines[by].api_server |= joins;
        } else if path == Path::new(paths::CA) {
            let uid = self.cluster_of(by).to_owned();
            self.machines[by].disk.extend(backups::keys(&uid));
        } else if path == Path::new(paths::ETCD_MEMBER) {
            self.begins_data(by, &String::from_utf8_lossy(content));
        } else if path == Path::new(paths::KUBELET_CONF) {
            self.machines[by].kubelet = true;
        }
    }

    /// Updates the scene after a file was removed.
    fn removed(&mut self, by: usize, path: &Path) {
        if path == Path::new(journal::FILE) {
            self.counts.started_over += 1;
            self.note_of(by, || "has removed its journal".to_owned());
            let traces = acts::of_joining().any(|path| self.machines[by].disk.contains_key(&path));
            self.laws.forgot(by, traces, &self.machines);
        } else if path == Path::new(paths::ETCD_MEMBER) {
            self.ends_data(by);
            self.machines[by].api_server = false;
        } else if path == Path::new(paths::CA) {
            for (path, _) in backups::keys("") {
                self.machines[by].disk.remove(&path);
            }
        } else if path == Path::new(paths::KUBELET_CONF) {
            self.machines[by].kubelet = false;
        }
    }
}

#[async_trait]
impl Host for Place {
    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let scene = self.scene();
        Ok(scene.machines[self.index].disk.get(path).cloned())
    }

    /// Takes no time. A crash happens before or after it, never during it.
    async fn write(&self, path: &Path, content: &[u8], _mode: u32) -> Result<()> {
        self.risk_a_crash().await;
        {
            let mut scene = self.scene();
            let full = scene.faults.disk;
            if scene.dice.chance(full) {
                return Err(Error::failed(format!("cannot write {}", path.display())));
            }
            let disk = &mut scene.machines[self.index].disk;
            let before = disk.insert(path.to_owned(), content.to_owned());
            scene.wrote(self.index, path, content, before.as_deref());
        }
        self.survive().await;
        self.risk_a_crash().await;
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        self.risk_a_crash().await;
        {
            let mut scene = self.scene();
            if path.parent() == Some(Path::new(paths::MANIFESTS)) {
                let name = path.file_name().unwrap_or_default();
                scene.ends_pod(self.index, &name.to_string_lossy());
            }
            if scene.machines[self.index].disk.remove(path).is_some() {
                scene.removed(self.index, path);
            }
        }
        self.survive().await;
        self.risk_a_crash().await;
        Ok(())
    }

    async fn list(&self, _folder: &Path) -> Result<Option<Vec<PathBuf>>> {
        absent("folders")
    }

    async fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.scene().machines[self.index].disk.contains_key(path))
    }

    async fn set_kernel_parameter(&self, _path: &Path, _value: &str) -> Result<()> {
        absent("kernel")
    }

    async fn machine(&self) -> Result<MachineFacts> {
        let flaw = self.scene().machines[self.index].flaw;
        let disk_free_bytes = match flaw {
            Flaw::Unfit => 0,
            Flaw::None | Flaw::Astray => facts().disk_free_bytes,
        };
        Ok(MachineFacts {
            disk_free_bytes,
            ..facts()
        })
    }

    /// Only etcd's port is asked for.
    async fn port_in_use(&self, _port: u16) -> Result<bool> {
        Ok(self.scene().runs_etcd(self.index))
    }

    async fn swap_off(&self, _path: &Path) -> Result<()> {
        absent("kernel")
    }

    async fn load_module(&self, _name: &str) -> Result<()> {
        absent("kernel")
    }

    async fn sha256(&self, path: &Path) -> Result<Option<String>> {
        let scene = self.scene();
        let content = scene.machines[self.index].disk.get(path);
        Ok(content.map(|content| backups::digest(content)))
    }
}

/// The machine type of every instance.
pub fn facts() -> MachineFacts {
    MachineFacts {
        cpus: 2,
        memory_bytes: 4 << 30,
        arch: "amd64".to_owned(),
        cgroup_version: 2,
        disk_free_bytes: 20 << 30,
        root: true,
        kernel: "simulated".to_owned(),
    }
}

/// An instance of this role; its number gives the address, and the address the name.
pub fn identity(number: usize, instance_id: String, role: Role) -> crate::identity::Identity {
    let [high, low] = u16::try_from(number + 10).unwrap_or(u16::MAX).to_be_bytes();
    crate::identity::Identity {
        cluster: "simulated".to_owned(),
        role,
        node_name: format!("ip-10-42-{high}-{low}.eu-central-1.compute.internal"),
        provider_id: format!("aws:///eu-central-1a/{instance_id}"),
        instance_id,
        region: "eu-central-1".to_owned(),
        zone: "eu-central-1a".to_owned(),
        private_ip: [10, 42, high, low].into(),
        arch: facts().arch,
        labels: BTreeMap::new(),
        taints: Vec::new(),
    }
}
