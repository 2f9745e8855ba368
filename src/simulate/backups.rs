//! Backups of a simulated cluster, and what restoring one does to a machine.
//!
//! The agent's own code takes and restores backups. The place of the backups, etcd's snapshot (all
//! objects of the API, as JSON) and the programs that a restore runs are simulated.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{acts, etcd::Data, laws::Law, place::Place, scene::Scene, services::API};
use crate::{
    error::{Error, Result},
    kubernetes::paths,
    ports::{self, Archive, Host, Snapshot},
    snapshots::pki,
};

/// How long the program that restores a snapshot runs on average, in seconds.
const RESTORES: u64 = 5;

/// The keys of a cluster that a backup contains, as a control plane's disk has them next to the
/// CA's certificate.
pub fn keys(uid: &str) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    let others = pki::SHARED.into_iter();
    let others = others.map(move |name| (pki::path(name), format!("{name} of {uid}").into_bytes()));
    others.filter(|(path, _)| path != Path::new(paths::CA))
}

#[async_trait]
impl Archive for Place {
    async fn put(&self, _: &ports::Place, name: &str, file: &Path) -> Result<()> {
        let put = |scene: &mut Scene| {
            let disk = &scene.machines[self.index].disk;
            let content = disk.get(file).cloned().ok_or_else(|| missing(file))?;
            let archive = &mut scene.archive;
            archive.entry(name.to_owned()).or_insert(content);
            Ok(())
        };
        self.call(API, "put a backup", true, put).await?
    }

    async fn get(&self, _: &ports::Place, name: &str, file: &Path) -> Result<()> {
        let get = |scene: &mut Scene| scene.archive.get(name).cloned();
        let content = self.call(API, "get a backup", false, get).await?;
        let content = content.ok_or_else(|| missing(Path::new(name)))?;
        Host::write(self, file, &content, 0o600).await
    }

    async fn list(&self, _: &ports::Place, folder: &str) -> Result<Vec<String>> {
        let list = |scene: &mut Scene| {
            let names = scene.archive.keys();
            let files = names.filter_map(|name| name.strip_prefix(folder)?.strip_prefix('/'));
            files.map(str::to_owned).collect()
        };
        self.call(API, "list backups", false, list).await
    }

    async fn delete(&self, _: &ports::Place, name: &str) -> Result<()> {
        let delete = |scene: &mut Scene| scene.archive.remove(name);
        let deleted = self.call(API, "delete a backup", true, delete).await;
        deleted.map(drop)
    }

    async fn read(&self, _: &ports::Place, name: &str) -> Result<Option<String>> {
        let read = |scene: &mut Scene| {
            let content = scene.archive.get(name)?;
            Some(String::from_utf8_lossy(content).into_owned())
        };
        self.call(API, "read a document", false, read).await
    }

    async fn publish(&self, _: &ports::Place, name: &str, document: &str) -> Result<()> {
        let publish = |scene: &mut Scene| {
            let content = document.as_bytes().to_vec();
            scene.archive.insert(name.to_owned(), content);
        };
        self.call(API, "publish a document", true, publish).await
    }
}

fn missing(path: &Path) -> Error {
    Error::failed(format!("{} does not exist", path.display()))
}

/// SHA-256 of content as programs print it.
pub fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

impl Place {
    /// Writes all objects of the cluster's API to a file.
    pub async fn take_snapshot(&self, file: &Path) -> Result<Snapshot> {
        let read = |scene: &mut Scene| {
            let uid = scene.own_uid(self.index)?;
            if !scene.has_majority(&uid, self.index) {
                return Err(Error::failed("etcdserver: no leader"));
            }
            Ok(scene.objects.get(&uid).cloned().unwrap_or_default())
        };
        let objects = self.call(API, "snapshot", false, read).await??;
        let content = serde_json::to_vec(&objects).unwrap_or_default();
        Host::write(self, file, &content, 0o600).await?;
        Ok(Snapshot {
            bytes: content.len() as u64,
            sha256: digest(&content),
        })
    }

    /// Runs a program of a restore; `None` if this line is not one.
    pub async fn restoring(&self, line: &str) -> Option<Result<()>> {
        let words: Vec<&str> = line.split(' ').collect();
        let done = match words.as_slice() {
            ["rm", "-rf", path] => self.remove_below(Path::new(path)).await,
            ["mv", from, to] => self.rename(Path::new(from), Path::new(to)).await,
            ["mkdir", ..] | [_, _, _, "images", ..] => Ok(()),
            [_, _, _, "tasks" | "containers", "rm", ..] => Err(Error::failed("not found")),
            _ => {
                let after = |word| {
                    let place = words.iter().position(|there| *there == word)?;
                    words.get(place + 1).map(Path::new)
                };
                let (database, folder) = (after("restore")?, after("--data-dir")?);
                self.restore_snapshot(database, folder).await
            }
        };
        Some(done)
    }

    async fn restore_snapshot(&self, database: &Path, folder: &Path) -> Result<()> {
        if Host::exists(self, &folder.join("member")).await? {
            let folder = folder.display();
            return Err(Error::failed(format!(
                "{folder} exists, please choose another one"
            )));
        }
        let content = Host::read(self, database).await?;
        let content = content.ok_or_else(|| missing(database))?;
        self.work(RESTORES).await;
        let half = &content[..content.len() / 2];
        Host::write(self, &folder.join("member"), half, 0o600).await?;
        Host::write(self, &folder.join("member"), &content, 0o600).await
    }

    async fn remove_below(&self, folder: &Path) -> Result<()> {
        self.risk_a_crash().await;
        let disk = &mut self.scene().machines[self.index].disk;
        disk.retain(|path, _| !path.starts_with(folder));
        Ok(())
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.risk_a_crash().await;
        {
            let mut scene = self.scene();
            let disk = &mut scene.machines[self.index].disk;
            let content = disk.remove(from).ok_or_else(|| missing(from))?;
            disk.insert(to.to_owned(), content.clone());
            if from == Path::new(paths::ETCD_MEMBER) {
                scene.machines[self.index].data = None;
            } else if to == Path::new(paths::ETCD_MEMBER) {
                scene.restore_data(self.index, &content);
            }
        }
        self.survive().await;
        self.risk_a_crash().await;
        Ok(())
    }
}

/// An object that a person creates in the cluster before a backup is taken.
const WRITTEN: &str = "written";

impl Scene {
    /// A person writes an object to the cluster of this machine.
    pub fn write_something(&mut self, index: usize) {
        let uid = self.cluster_of(index).to_owned();
        let written =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": WRITTEN}});
        self.put_object(&uid, written);
    }

    /// Whether the settled cluster has that object.
    pub fn has_written(&self) -> bool {
        let uid = self.laws.settled.as_deref().unwrap_or_default();
        let mut objects = self.objects.get(uid).into_iter().flatten();
        objects.any(|(_, object)| object["metadata"]["name"] == WRITTEN)
    }

    /// A machine gets the settled cluster's data from a backup: one member, and the API as it was.
    fn restore_data(&mut self, by: usize, content: &[u8]) {
        let Some(uid) = self.laws.settled.clone() else {
            return;
        };
        let Ok(objects) = serde_json::from_slice::<BTreeMap<String, Value>>(content) else {
            let what = format!("{} starts from a partial backup", self.machines[by]);
            self.laws.broke(Law::DataKept, what);
            return;
        };
        let me = self.machines[by].me.clone();
        let quorum = self.etcd.entry(uid.clone()).or_default();
        let id = quorum.begins_with(&me, by);
        self.machines[by].data = Some(Data {
            uid: uid.clone(),
            id,
            whole: true,
        });
        self.objects.insert(uid.clone(), objects);
        self.counts.restored += 1;
        self.note_of(by, || format!("has restored {uid}"));
    }

    /// A static pod's manifest was removed: its process ends, and founding creates it again.
    pub fn ends_pod(&mut self, by: usize, name: &str) {
        let machine = &mut self.machines[by];
        let part = match name {
            "etcd.yaml" => "etcd",
            "kube-apiserver.yaml" => {
                machine.api_server = false;
                "api"
            }
            _ => return,
        };
        for edge in ["begun", "done"] {
            machine.disk.remove(&acts::trace("found", part, edge));
        }
    }
}
