//! The Kubernetes API of the simulated clusters: Leases and Nodes, available while a majority of
//! etcd and an API server can be reached.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{absent::absent, place::Place, scene::Scene, services::API};
use crate::{
    error::{Error, Result},
    kubernetes::node::Node,
    kubernetes::paths,
    ports::{Cluster, Eviction, NodeCondition, ObjectRef, Part, Peers, Role},
};

impl Scene {
    /// The uid of the cluster in this instance's membership; empty if it has none.
    pub fn cluster_of(&self, index: usize) -> &str {
        let membership = self.laws.memberships.get(&index);
        membership.map_or("", |membership| &membership.cluster_uid)
    }

    /// Whether this machine's API server answers for the cluster.
    pub fn serves(&self, uid: &str, index: usize) -> bool {
        let machine = &self.machines[index];
        let data = machine.data.as_ref();
        machine.api_server
            && machine.is_on()
            && self.has_started(index, "kube-apiserver")
            && self.is_trusted(index)
            && data.is_some_and(|data| data.uid == uid)
            && self.seat_of(index).is_some_and(|seat| !seat.member.learner)
            && self.has_majority(uid, index)
    }

    /// An API server of the cluster that answers this machine.
    pub fn server_for(&self, index: usize, uid: &str) -> Option<usize> {
        let seats = &self.etcd.get(uid)?.seats;
        let mut owners = seats.iter().map(|seat| seat.owner);
        owners.find(|owner| self.reach(index, *owner) && self.serves(uid, *owner))
    }

    /// The machine at this address, if `from` can reach it.
    pub fn machine_at(&self, server: SocketAddr, from: usize) -> Option<usize> {
        let IpAddr::V4(address) = server.ip() else {
            return None;
        };
        self.living_at(address)
            .filter(|there| self.reach(from, *there))
    }

    /// Creates or replaces an object.
    pub fn put_object(&mut self, uid: &str, mut object: Value) {
        self.versions += 1;
        object["metadata"]["resourceVersion"] = self.versions.into();
        if object["metadata"].get("uid").is_none() {
            object["metadata"]["uid"] = self.versions.into();
        }
        let key = ObjectRef::of(&object).to_string();
        let objects = self.objects.entry(uid.to_owned()).or_default();
        objects.insert(key, object);
    }

    /// Adds this machine's Node to the cluster.
    pub fn put_node(&mut self, index: usize, uid: &str) {
        let me = self.machines[index].me.clone();
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": me.node_name},
            "spec": {"providerID": me.provider_id},
        });
        self.put_object(uid, node);
    }

    /// The instances whose Nodes are in the cluster.
    pub fn nodes(&self, uid: &str) -> impl Iterator<Item = &str> {
        let objects = self.objects.get(uid).into_iter().flatten();
        objects.filter_map(|(_, object)| Node(object).instance())
    }

    /// A Node as the node controller sees it: ready while its kubelet reaches an API server.
    fn with_condition(&self, uid: &str, object: &Value) -> Value {
        let mut object = object.clone();
        if object["kind"] == "Node" {
            let provider = object["spec"]["providerID"].as_str().unwrap_or_default();
            let owner = self
                .machines
                .iter()
                .position(|m| m.me.provider_id == provider);
            let ready = owner.is_some_and(|owner| {
                self.machines[owner].is_on()
                    && self.machines[owner].kubelet
                    && self.server_for(owner, uid).is_some()
            });
            let status = if ready { "True" } else { "Unknown" };
            object["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
        }
        object
    }
}

impl Place {
    /// A call to the API of this instance's cluster.
    async fn api<T: Send>(
        &self,
        what: &str,
        writes: bool,
        effect: impl FnOnce(&mut Scene, &str) -> T + Send,
    ) -> Result<T> {
        let asked = self.call(API, what, writes, |scene| {
            let uid = scene.cluster_of(self.index).to_owned();
            if scene.server_for(self.index, &uid).is_none() {
                return Err(Error::failed("connection refused"));
            }
            Ok(effect(scene, &uid))
        });
        asked.await?
    }
}

/// The certificate that a machine shows: its API server's, even without etcd, or its join
/// service's.
#[async_trait]
impl Peers for Place {
    async fn shows_a_cluster(&self, server: SocketAddr) -> bool {
        let scene = self.scene();
        let there = scene.machine_at(server, self.index);
        there.is_some_and(|there| {
            let machine = &scene.machines[there];
            let lets_in = machine.me.role == Role::ControlPlane
                && machine.process.is_at_work()
                && machine.disk.contains_key(Path::new(paths::CA));
            machine.api_server || lets_in
        })
    }
}

fn same(one: &Value, other: &Value, field: &str) -> bool {
    one["metadata"].get(field) == other["metadata"].get(field)
}

#[async_trait]
impl Cluster for Place {
    async fn ready(&self) -> Result<bool> {
        let scene = self.scene();
        Ok(scene
            .server_for(self.index, scene.cluster_of(self.index))
            .is_some())
    }

    async fn ready_at(&self, server: SocketAddr) -> Result<bool> {
        let scene = self.scene();
        let there = scene.machine_at(server, self.index);
        let uid = scene.cluster_of(self.index);
        Ok(there.is_some_and(|there| scene.serves(uid, there)))
    }

    async fn document(&self, path: &str) -> Result<String> {
        let of = |_: &mut Scene, uid: &str| format!("{path} of {uid}");
        self.api("read a document", false, of).await
    }

    async fn list(&self, _: &str, kind: &str, _: Option<&str>) -> Result<Vec<Value>> {
        let list = |scene: &mut Scene, uid: &str| {
            let objects = scene.objects.get(uid).into_iter().flatten();
            let of_kind = objects.filter(|(_, object)| object["kind"] == kind);
            of_kind
                .map(|(_, object)| scene.with_condition(uid, object))
                .collect()
        };
        self.api("list objects", false, list).await
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Value>> {
        let key = object.to_string();
        let get = |scene: &mut Scene, uid: &str| {
            if object.kind == "Pod" {
                return scene.pod(uid, object);
            }
            let there = scene.objects.get(uid)?.get(&key)?;
            Some(scene.with_condition(uid, there))
        };
        self.api("get an object", false, get).await
    }

    async fn delete_seen(&self, object: &Value) -> Result<bool> {
        let key = ObjectRef::of(object).to_string();
        let delete = |scene: &mut Scene, uid: &str| {
            let there = scene.objects.get_mut(uid).filter(|objects| {
                let there = objects.get(&key);
                there.is_some_and(|there| same(there, object, "uid"))
            });
            let deleted = there.is_some_and(|objects| objects.remove(&key).is_some());
            if deleted {
                scene.note_of(self.index, || format!("deletes {key}"));
            }
            deleted
        };
        self.api("delete an object", true, delete).await
    }

    async fn compare_and_set(&self, object: &Value) -> Result<bool> {
        let key = ObjectRef::of(object).to_string();
        let set = |scene: &mut Scene, uid: &str| {
            let there = scene.objects.get(uid).and_then(|objects| objects.get(&key));
            let unchanged = match there {
                Some(there) => same(there, object, "resourceVersion"),
                None => object["metadata"].get("resourceVersion").is_none(),
            };
            if unchanged {
                let mut object = object.clone();
                if let Some(there) = there {
                    object["metadata"]["uid"] = there["metadata"]["uid"].clone();
                }
                scene.put_object(uid, object);
            }
            unchanged
        };
        self.api("write an object", true, set).await
    }

    async fn patch(&self, object: &ObjectRef, _: Part, change: &Value) -> Result<()> {
        let key = object.to_string();
        let patch = |scene: &mut Scene, uid: &str| {
            let objects = scene.objects.get(uid);
            let there = objects.and_then(|objects| objects.get(&key)).cloned();
            let mut there = there.ok_or_else(|| Error::failed(format!("no {key} (404)")))?;
            json_patch::merge(&mut there, change);
            scene.put_object(uid, there);
            Ok(())
        };
        self.api("patch an object", true, patch).await?
    }

    async fn apply(&self, _: &str, _: &[Value], _: Duration) -> Result<()> {
        absent("add-ons")
    }

    async fn applied(&self, _: &str, _: &str, _: &str) -> Result<Vec<Value>> {
        absent("add-ons")
    }

    async fn delete(&self, _: &str, _: &ObjectRef) -> Result<bool> {
        absent("add-ons")
    }

    async fn pods_on(&self, _: &str) -> Result<Vec<Value>> {
        absent("pods in the cluster")
    }

    async fn evict(&self, _: &ObjectRef) -> Result<Eviction> {
        absent("pods in the cluster")
    }

    async fn not_rolled_out(&self, _: &[Value]) -> Result<Vec<String>> {
        absent("add-ons")
    }

    async fn node_ready(&self, _: &str) -> Result<Option<NodeCondition>> {
        absent("condition of nodes")
    }
}
