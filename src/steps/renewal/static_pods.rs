//! The static pods that read certificates only when they start.
//!
//! etcd reads its certificates at each handshake and the API server watches its files; the
//! controller manager and the scheduler read their kubeconfigs once. The API server is still
//! restarted with its serving certificate, because the certificate that it keeps in memory for
//! calls to itself ends three years after its start.
//!
//! The digest of what a part reads is in an annotation of its manifest. Writing it restarts the
//! part: a static pod with a changed manifest is another pod. So the annotation always shows
//! whether a part runs with the current files, also after an interruption.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    error::{Context, Error, Result},
    kubernetes::{node::is_ready, paths},
    ports::{Host, ObjectRef, World},
};

/// The digest of what the part read when it started.
const ANNOTATION: &str = "k8s-bootstrap.io/certificates";

/// A static pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The pod's name, which is also its manifest's.
    pub name: &'static str,
    /// The certificate that it reads when it starts, by its source's name.
    pub reads: &'static str,
    file: &'static str,
}

/// The order of restarts; the parts of one round restart together.
pub const ROUNDS: [&[Part]; 2] = [
    &[PARTS[0]],
    // Both exit if they cannot reach their API server for ten seconds: they restart after it is
    // back, and need not wait for each other.
    &[PARTS[1], PARTS[2]],
];

/// All of them.
pub const PARTS: [Part; 3] = [
    Part {
        name: "kube-apiserver",
        reads: "apiserver",
        file: paths::API_SERVER,
    },
    Part {
        name: "kube-controller-manager",
        reads: "controller-manager.conf",
        file: "/etc/kubernetes/controller-manager.conf",
    },
    Part {
        name: "kube-scheduler",
        reads: "scheduler.conf",
        file: "/etc/kubernetes/scheduler.conf",
    },
];

impl Part {
    fn manifest(self) -> PathBuf {
        Path::new(paths::MANIFESTS).join(format!("{}.yaml", self.name))
    }

    /// The digest of what it would read now; `None` if the file does not exist.
    async fn digest(self, host: &dyn Host) -> Result<Option<String>> {
        let content = host.read(Path::new(self.file)).await?;
        Ok(content.map(|content| hex::encode(&Sha256::digest(content)[..16])))
    }

    /// Whether it runs with an older file than the current one. A manifest without the annotation
    /// is as kubeadm made it; then it is stale if its certificate was `renewed` since.
    pub async fn is_stale(self, host: &dyn Host, renewed: bool) -> Result<bool> {
        let Some(manifest) = host.read(&self.manifest()).await? else {
            return Ok(false);
        };
        let Some(wanted) = self.digest(host).await? else {
            return Ok(false);
        };
        // An incomplete manifest is left for kubeadm to write again.
        Ok(parse(&manifest).is_some_and(|pod| match said(&pod) {
            Some(said) => said != wanted,
            None => renewed,
        }))
    }

    /// Makes the kubelet restart it.
    pub async fn restart(self, host: &dyn Host) -> Result<()> {
        let path = self.manifest();
        let unreadable = || format!("{} is not a complete pod manifest", path.display());
        let (Some(manifest), Some(wanted)) = (host.read(&path).await?, self.digest(host).await?)
        else {
            return Err(Error::failed(format!("{} does not exist", path.display())));
        };
        let mut pod = parse(&manifest).ok_or_else(|| Error::failed(unreadable()))?;
        pod["metadata"]["annotations"][ANNOTATION] = wanted.into();
        let text = serde_saphyr::to_string(&pod).attempting(unreadable)?;
        host.write(&path, text.as_bytes(), 0o600).await
    }

    /// What is missing until the API shows the restarted pod as Ready; `None` if nothing is.
    pub async fn not_ready(self, world: &World, node: &str) -> Result<Option<String>> {
        let Some(wanted) = self.digest(world.host.as_ref()).await? else {
            return Ok(Some(format!("{} does not exist", self.file)));
        };
        let pod = ObjectRef {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: Some("kube-system".to_owned()),
            name: format!("{}-{node}", self.name),
        };
        let Some(found) = world.cluster.get(&pod).await? else {
            return Ok(Some(format!("{pod} does not exist")));
        };
        if said(&found) != Some(&wanted) {
            return Ok(Some(format!("{pod} has not been restarted yet")));
        }
        Ok((!is_ready(&found)).then(|| format!("{pod} is not Ready")))
    }
}

fn said(pod: &Value) -> Option<&str> {
    pod["metadata"]["annotations"][ANNOTATION].as_str()
}

fn parse(manifest: &[u8]) -> Option<Value> {
    let pod: Value = serde_saphyr::from_str(std::str::from_utf8(manifest).ok()?).ok()?;
    pod["spec"]["containers"][0]["image"]
        .is_string()
        .then_some(pod)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing::FakeWorld;

    /// A manifest as kubeadm writes it, shortened. Which numbers are quoted matters.
    const MANIFEST: &str = r#"apiVersion: v1
kind: Pod
metadata:
  labels:
    component: kube-scheduler
    tier: control-plane
  name: kube-scheduler
  namespace: kube-system
spec:
  containers:
  - command:
    - kube-scheduler
    - --authentication-kubeconfig=/etc/kubernetes/scheduler.conf
    - --leader-elect=true
    - "10259"
    - "true"
    - "null"
    - "1e3"
    image: registry.k8s.io/kube-scheduler:v1.36.3
    livenessProbe:
      failureThreshold: 8
      httpGet:
        host: 127.0.0.1
        path: /livez
        port: probe-port
        scheme: HTTPS
    name: kube-scheduler
    resources:
      requests:
        cpu: 100m
  hostNetwork: true
  priority: 2000001000
  securityContext:
    seccompProfile:
      type: RuntimeDefault
  volumes:
  - hostPath:
      path: /etc/kubernetes/scheduler.conf
      type: FileOrCreate
    name: kubeconfig
status: {}
"#;

    const FILE: &str = "/etc/kubernetes/manifests/kube-scheduler.yaml";

    fn value(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap()
    }

    #[tokio::test]
    async fn a_restart_adds_one_annotation_and_changes_nothing_else() {
        let fake = FakeWorld::new();
        let host = fake.host.as_ref();
        let part = PARTS[2];
        fake.files.put(FILE, MANIFEST);
        fake.files.put("/etc/kubernetes/scheduler.conf", "one");
        part.restart(host).await.unwrap();
        let mut after = value(&fake.files.get(FILE).unwrap());
        let annotations = after["metadata"].as_object_mut().unwrap();
        let annotation = annotations.remove("annotations").unwrap();
        assert_eq!(annotation[ANNOTATION].as_str().unwrap().len(), 32);
        assert_eq!(after, value(MANIFEST));
        assert_eq!(fake.files.mode(FILE), 0o600);
    }

    #[tokio::test]
    async fn a_part_is_stale_from_the_renewal_to_its_restart() {
        let fake = FakeWorld::new();
        let host = fake.host.as_ref();
        let part = PARTS[2];
        assert!(!part.is_stale(host, true).await.unwrap(), "no manifest");
        fake.files.put(FILE, MANIFEST);
        assert!(!part.is_stale(host, true).await.unwrap(), "no kubeconfig");
        fake.files.put("/etc/kubernetes/scheduler.conf", "one");
        assert!(
            !part.is_stale(host, false).await.unwrap(),
            "as kubeadm made it"
        );
        assert!(part.is_stale(host, true).await.unwrap(), "renewed");
        part.restart(host).await.unwrap();
        assert!(!part.is_stale(host, true).await.unwrap(), "restarted");
        // A person renewed the certificate and restarted nothing.
        fake.files.put("/etc/kubernetes/scheduler.conf", "two");
        assert!(part.is_stale(host, false).await.unwrap());
        fake.files.put(FILE, &MANIFEST[..200]);
        assert!(!part.is_stale(host, true).await.unwrap(), "left to kubeadm");
    }
}
