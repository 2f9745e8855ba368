//! A Kubernetes API in memory: objects by name, scripted readiness and roll-outs.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    error::{Error, Result},
    ports::{Cluster, Eviction, NodeCondition, OWNER_LABEL, ObjectRef, Part},
};

/// The Ready condition of a ready node.
pub fn ready() -> NodeCondition {
    NodeCondition {
        ready: true,
        message: "kubelet is posting ready status".to_owned(),
    }
}

/// The Ready condition of a node that is not ready, with its kubelet's message.
pub fn not_ready(message: &str) -> NodeCondition {
    NodeCondition {
        ready: false,
        message: message.to_owned(),
    }
}

/// One call of apply: the owner and the objects.
pub type Applied = (String, Vec<Value>);

/// An API server that is up, ready and empty unless a test changes it.
#[derive(Default)]
pub struct FakeCluster {
    objects: Mutex<BTreeMap<String, Value>>,
    applied: Mutex<Vec<Applied>>,
    down: Mutex<bool>,
    refuses: Mutex<BTreeMap<String, String>>,
    rollouts: Mutex<VecDeque<Vec<String>>>,
    asked: Mutex<usize>,
    ready_after: Mutex<usize>,
    conditions: Mutex<VecDeque<Option<NodeCondition>>>,
    rival: Mutex<Option<Value>>,
    budget: Mutex<Option<String>>,
    unready: Mutex<Vec<SocketAddr>>,
    documents: Mutex<BTreeMap<String, String>>,
}

impl FakeCluster {
    /// Sets whether it refuses connections.
    pub fn down(&self, down: bool) {
        *self.down.lock().unwrap() = down;
    }

    /// Refuses the object of this name, or lists of this kind, from now on.
    pub fn refuse(&self, name: &str, why: &str) {
        let mut refuses = self.refuses.lock().unwrap();
        refuses.insert(name.to_owned(), why.to_owned());
    }

    /// Accepts all objects again.
    pub fn accept(&self) {
        self.refuses.lock().unwrap().clear();
    }

    /// Answers `/readyz` with ok only after this many requests.
    pub fn ready_after(&self, asked: usize) {
        *self.ready_after.lock().unwrap() = asked;
    }

    /// Sets which API servers are not ready when asked at their own addresses.
    pub fn unready(&self, servers: impl IntoIterator<Item = SocketAddr>) {
        *self.unready.lock().unwrap() = servers.into_iter().collect();
    }

    /// Sets every node's condition for each request in turn; the last one stays.
    pub fn node_conditions(&self, conditions: impl IntoIterator<Item = Option<NodeCondition>>) {
        *self.conditions.lock().unwrap() = conditions.into_iter().collect();
    }

    /// Sets what has not rolled out for each request in turn; afterwards all has.
    pub fn rollouts(&self, missing: impl IntoIterator<Item = Vec<String>>) {
        *self.rollouts.lock().unwrap() = missing.into_iter().collect();
    }

    /// All calls of apply so far.
    pub fn applied(&self) -> Vec<Applied> {
        self.applied.lock().unwrap().clone()
    }

    /// All objects by name, such as `ConfigMap kube-system/x`.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        self.objects.lock().unwrap().clone()
    }

    /// Creates or replaces an object.
    pub fn put(&self, object: Value) {
        let key = ObjectRef::of(&object).to_string();
        self.objects.lock().unwrap().insert(key, object);
    }

    /// Another client writes this object just before the next [`Cluster::compare_and_set`].
    pub fn meanwhile(&self, object: Value) {
        *self.rival.lock().unwrap() = Some(object);
    }

    /// A disruption budget that refuses every eviction with this message; `None` allows all.
    pub fn budget(&self, says: Option<&str>) {
        *self.budget.lock().unwrap() = says.map(str::to_owned);
    }

    /// Serves this document at a path from now on.
    pub fn serve(&self, path: &str, document: &str) {
        let mut documents = self.documents.lock().unwrap();
        documents.insert(path.to_owned(), document.to_owned());
    }

    fn up(&self) -> Result<()> {
        if *self.down.lock().unwrap() {
            return Err(Error::failed("connection refused"));
        }
        Ok(())
    }
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn ready(&self) -> Result<bool> {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        self.up()?;
        Ok(*asked > *self.ready_after.lock().unwrap())
    }

    async fn ready_at(&self, server: SocketAddr) -> Result<bool> {
        Ok(!self.unready.lock().unwrap().contains(&server))
    }

    async fn document(&self, path: &str) -> Result<String> {
        self.up()?;
        let found = self.documents.lock().unwrap().get(path).cloned();
        found.ok_or_else(|| Error::failed(format!("GET {path}: not found (404)")))
    }

    async fn apply(&self, owner: &str, objects: &[Value], _served_within: Duration) -> Result<()> {
        self.up()?;
        for object in objects {
            let name = ObjectRef::of(object).name;
            if let Some(why) = self.refuses.lock().unwrap().get(&name) {
                return Err(Error::refused(format!("apply {name}: {why}")));
            }
            let mut object = object.clone();
            object["metadata"]["labels"][OWNER_LABEL] = owner.into();
            self.put(object);
        }
        let applied = (owner.to_owned(), objects.to_vec());
        self.applied.lock().unwrap().push(applied);
        Ok(())
    }

    async fn applied(&self, _api_version: &str, kind: &str, namespace: &str) -> Result<Vec<Value>> {
        self.up()?;
        let start = format!("{kind} {namespace}/");
        let mut objects = self.objects();
        objects.retain(|key, object| {
            key.starts_with(&start) && object["metadata"]["labels"].is_object()
        });
        Ok(objects.into_values().collect())
    }

    async fn list(
        &self,
        _api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>> {
        self.up()?;
        if let Some(why) = self.refuses.lock().unwrap().get(kind) {
            return Err(Error::refused(format!("list {kind}: {why}")));
        }
        let mut objects = self.objects();
        objects.retain(|_, object| {
            object["kind"] == kind
                && namespace.is_none_or(|name| object["metadata"]["namespace"] == name)
        });
        Ok(objects.into_values().collect())
    }

    async fn delete_seen(&self, object: &Value) -> Result<bool> {
        self.up()?;
        let key = ObjectRef::of(object).to_string();
        let mut objects = self.objects.lock().unwrap();
        let same = |there: &Value| there["metadata"]["uid"] == object["metadata"]["uid"];
        let there = objects.get(&key).is_some_and(same);
        if there {
            objects.remove(&key);
        }
        Ok(there)
    }

    async fn delete(&self, owner: &str, object: &ObjectRef) -> Result<bool> {
        self.up()?;
        let key = object.to_string();
        let mut objects = self.objects.lock().unwrap();
        let there = objects.get(&key);
        let ours = there.is_some_and(|object| object["metadata"]["labels"][OWNER_LABEL] == owner);
        if ours {
            objects.remove(&key);
        }
        Ok(ours)
    }

    async fn compare_and_set(&self, object: &Value) -> Result<bool> {
        self.up()?;
        if let Some(rival) = self.rival.lock().unwrap().take() {
            self.put(rival);
        }
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_i64();
        let there = self.get(&ObjectRef::of(object)).await?;
        let there = there.as_ref().and_then(version);
        if there != version(object) {
            return Ok(false);
        }
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = (there.unwrap_or_default() + 1).into();
        self.put(object);
        Ok(true)
    }

    async fn patch(&self, object: &ObjectRef, _part: Part, change: &Value) -> Result<()> {
        self.up()?;
        let mut objects = self.objects.lock().unwrap();
        let there = objects.get_mut(&object.to_string());
        let there = there.ok_or_else(|| Error::failed(format!("no {object} (404)")))?;
        // The only list, of conditions, has one item in tests, so that this equals a strategic
        // merge.
        json_patch::merge(there, change);
        Ok(())
    }

    async fn pods_on(&self, node: &str) -> Result<Vec<Value>> {
        self.up()?;
        let mut objects = self.objects();
        objects.retain(|_, o| o["kind"] == "Pod" && o["spec"]["nodeName"] == node);
        Ok(objects.into_values().collect())
    }

    async fn evict(&self, pod: &ObjectRef) -> Result<Eviction> {
        self.up()?;
        if let Some(says) = self.budget.lock().unwrap().clone() {
            return Ok(Eviction::Held(says));
        }
        let gone = self.objects.lock().unwrap().remove(&pod.to_string());
        Ok(gone.map_or(Eviction::Gone, |_| Eviction::Begun))
    }

    async fn not_rolled_out(&self, _objects: &[Value]) -> Result<Vec<String>> {
        Ok(self
            .rollouts
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or_default())
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Value>> {
        self.up()?;
        let objects = self.objects.lock().unwrap();
        Ok(objects.get(&object.to_string()).cloned())
    }

    async fn node_ready(&self, _name: &str) -> Result<Option<NodeCondition>> {
        self.up()?;
        let mut conditions = self.conditions.lock().unwrap();
        Ok(if conditions.len() > 1 {
            conditions.pop_front().unwrap()
        } else {
            conditions.front().cloned().flatten()
        })
    }
}
