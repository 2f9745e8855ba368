//! Certificates of the simulated control planes, and how they are renewed.
//!
//! The agent's own code decides when and in which order to renew, and what to restart. Simulated
//! are kubeadm, which signs, and the kubelet, which restarts a static pod when its manifest
//! changes. A control plane has two certificates here: the API server's, in two files, and the
//! controller manager's, in its kubeconfig.

use std::{ops::Range, path::Path, sync::LazyLock, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    etcd::Quorum,
    laws::Law,
    place::Place,
    scene::{Scene, time},
};
use crate::{
    error::{Error, Result},
    kubernetes::paths,
    ports::{Clock, Host, ObjectRef},
    steps::renewal::NOTES,
};

/// A CA's certificate, the template for all others.
const TEMPLATE: &str = include_str!("ca.pem");

/// The start of every CA's validity, as a certificate encodes it.
const MADE: &str = "260101000000Z";

/// The public points of the P-256 keys whose secrets are the numbers 1 and 2.
const KEYS: [&str; 2] = [
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    "7cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc4766997807775510db8ed040293d9ac69f7430dbba7dade63ce982299e04b79d227873d1",
];

/// PKCS#8 of a private key: the bytes before the secret, and between secret and public point.
const PKCS8: [&str; 2] = [
    "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420",
    "a14403420004",
];

const CONTROLLER_MANAGER: &str = "/etc/kubernetes/controller-manager.conf";

/// The static pods that read a certificate when they start.
const PODS: [&str; 2] = ["kube-apiserver", "kube-controller-manager"];

/// How long a static pod takes to be Ready again.
const STARTS: Duration = Duration::from_secs(20);

/// How long a certificate signed by kubeadm is valid.
pub const LIFETIME: Duration = Duration::from_hours(10);

/// A certificate valid for longer needs no renewal yet, even if a clock is wrong.
const SOON: Duration = Duration::from_hours(5);

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap_or_default()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn der(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with('-'));
    BASE64_STANDARD
        .decode(lines.collect::<String>())
        .unwrap_or_default()
}

/// Overwrites the bytes right after the first occurrence of `after`.
fn put(der: &mut [u8], after: &[u8], bytes: &[u8]) {
    let place = der.windows(after.len()).position(|there| there == after);
    if let Some(place) = place {
        let begin = place + after.len();
        der[begin..begin + bytes.len()].copy_from_slice(bytes);
    }
}

/// A certificate with this public key (an uncompressed point). Its signature is never verified.
pub fn authority(key: &[u8]) -> String {
    let mut der = der(TEMPLATE);
    put(&mut der, &[3, 0x42, 0, 4], key);
    put(&mut der, b"\x17\x0d", MADE.as_bytes());
    pem("CERTIFICATE", &der)
}

/// The position of the end of validity in every certificate. It is found in the template, since
/// a serial number can contain the bytes that mark it.
static END: LazyLock<Range<usize>> = LazyLock::new(|| {
    let marked = der(TEMPLATE)
        .windows(2)
        .position(|there| there == b"\x18\x0f");
    let begin = marked.map_or(0, |place| place + 2);
    begin..begin + 15
});

/// A certificate and its key. A key of one serial number does not match the next certificate.
fn leaf(serial: u32, until: Timestamp) -> (String, String) {
    let which = serial as usize % KEYS.len();
    let point = hex(KEYS[which]);
    let mut certificate = der(&authority(&point));
    put(&mut certificate, &[2, 0x14, 0x3d], &serial.to_be_bytes());
    let end = until.strftime("%Y%m%d%H%M%SZ").to_string();
    certificate[END.clone()].copy_from_slice(end.as_bytes());
    let mut secret = [0; 32];
    secret[31] = if which == 0 { 1 } else { 2 };
    let key = [&hex(PKCS8[0]), &secret[..], &hex(PKCS8[1]), &point].concat();
    (pem("CERTIFICATE", &certificate), pem("PRIVATE KEY", &key))
}

/// When a certificate expires.
fn end(certificate: &[u8]) -> Option<Timestamp> {
    let der = der(std::str::from_utf8(certificate).ok()?);
    let text = std::str::from_utf8(der.get(END.clone())?).ok()?;
    let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()
}

/// The files of the certificate that kubeadm knows by this name, in the order in which kubeadm
/// writes them: the key first.
fn files(name: &str, serial: u32, until: Timestamp) -> Result<Vec<(&'static str, String)>> {
    let (certificate, key) = leaf(serial, until);
    match name {
        "apiserver" => Ok(vec![
            (paths::API_SERVER_KEY, key),
            (paths::API_SERVER, certificate),
        ]),
        "controller-manager.conf" | "controller-manager" => {
            let conf = json!({"users": [{"user": {
                "client-certificate-data": BASE64_STANDARD.encode(certificate),
                "client-key-data": BASE64_STANDARD.encode(key),
            }}]});
            Ok(vec![(CONTROLLER_MANAGER, conf.to_string())])
        }
        _ => Err(Error::failed(format!(
            "kubeadm has no certificate {name} in the simulation"
        ))),
    }
}

fn manifest(pod: &str) -> std::path::PathBuf {
    Path::new(paths::MANIFESTS).join(format!("{pod}.yaml"))
}

impl Scene {
    /// Gives a control plane certificates that expire after this time, and pods that read them.
    pub fn issue(&mut self, index: usize, after: Duration) {
        let until = time(self.timeline.now() + after, 0);
        for name in ["apiserver", "controller-manager.conf"] {
            let serial = self.dice.number() >> 1;
            for (path, content) in files(name, serial, until).unwrap_or_default() {
                let disk = &mut self.machines[index].disk;
                disk.insert(path.into(), content.into_bytes());
            }
        }
        for pod in PODS {
            let pod_manifest = json!({
                "metadata": {"name": pod},
                "spec": {"containers": [{"image": pod}]},
            });
            let disk = &mut self.machines[index].disk;
            disk.insert(manifest(pod), pod_manifest.to_string().into_bytes());
        }
    }

    /// Whether clients trust the API server of this machine. True if it has no certificate: then
    /// the simulation does not check it.
    pub fn is_trusted(&self, index: usize) -> bool {
        let machine = &self.machines[index];
        let certificate = machine.disk.get(Path::new(paths::API_SERVER));
        certificate.is_none_or(|certificate| {
            let now = time(self.timeline.now(), 0);
            end(certificate).is_some_and(|end| now < end)
        })
    }

    /// Whether this static pod is Ready after its last restart.
    pub fn has_started(&self, index: usize, pod: &str) -> bool {
        let started = self.machines[index].started.get(pod);
        started.is_none_or(|started| self.timeline.now() >= *started + STARTS)
    }

    /// A manifest was written: the kubelet restarts the pod if the manifest changed.
    pub fn starts_pod(&mut self, by: usize, path: &Path, before: Option<&[u8]>, content: &[u8]) {
        let pod = PODS.into_iter().find(|pod| manifest(pod) == path);
        let Some(pod) = pod.filter(|_| before.is_some_and(|before| before != content)) else {
            return;
        };
        let now = self.timeline.now();
        self.machines[by].started.insert(pod, now);
        self.counts.pods_started += 1;
        self.note_of(by, || format!("restarts {pod}"));
        let uid = self.cluster_of(by).to_owned();
        let others = self.etcd.get(&uid).into_iter().flat_map(Quorum::voters);
        let mut others = others.filter(|seat| seat.owner != by);
        let at_once = others.find(|seat| !self.has_started(seat.owner, pod));
        if let Some(other) = at_once
            && self.laws.renews_in_turn
        {
            let (me, other) = (&self.machines[by], &self.machines[other.owner]);
            let what = format!("{me} restarts {pod} while {other} restarts one");
            self.laws.broke(Law::RenewedInTurn, what);
        }
    }

    /// A static pod as the API shows it.
    pub fn pod(&self, uid: &str, object: &ObjectRef) -> Option<Value> {
        let seats = &self.etcd.get(uid)?.seats;
        let owner = seats.iter().map(|seat| seat.owner).find(|owner| {
            let name = &self.machines[*owner].me.node_name;
            object.name.ends_with(name)
        })?;
        let pod = PODS.into_iter().find(|pod| object.name.starts_with(pod))?;
        let content = self.machines[owner].disk.get(&manifest(pod))?;
        let mut shown: Value = serde_saphyr::from_str(std::str::from_utf8(content).ok()?).ok()?;
        let ready = if self.has_started(owner, pod) {
            "True"
        } else {
            "False"
        };
        shown["status"] = json!({"conditions": [{"type": "Ready", "status": ready}]});
        Some(shown)
    }

    /// Whether every control plane has certificates that last, and no renewal is in progress.
    pub fn is_renewed(&self) -> bool {
        let soon = time(self.timeline.now() + SOON, 0);
        let mut living = self.machines.iter().filter(|m| !m.state().is_gone());
        living.all(|machine| {
            let certificate = machine.disk.get(Path::new(paths::API_SERVER));
            let lasts = |pem: &Vec<u8>| end(pem).is_some_and(|end| end > soon);
            let mut files = machine.disk.keys();
            certificate.is_none_or(lasts) && !files.any(|path| path.starts_with(NOTES))
        })
    }
}

impl Place {
    /// kubeadm signs a certificate: it writes first the key, then the certificate.
    pub async fn sign(&self, name: &str) -> Result<()> {
        self.work(1).await;
        let serial = self.scene().dice.number() >> 1;
        for (path, content) in files(name, serial, Clock::now(self) + LIFETIME)? {
            Host::write(self, Path::new(path), content.as_bytes(), 0o600).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;
    use crate::certificates::Inventory;

    #[test]
    fn a_serial_number_may_contain_the_mark_of_the_validity() {
        let until: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        for serial in [0x180f_180f, 0x0018_0f00, 7] {
            let (certificate, _) = leaf(serial, until);
            assert_eq!(end(certificate.as_bytes()), Some(until), "{serial:x}");
        }
    }

    fn on_disk(serials: [u32; 2]) -> Inventory {
        let until = "2027-01-01T00:00:00Z".parse().unwrap();
        let mut disk = BTreeMap::new();
        let [key, certificate] = serials.map(|serial| files("apiserver", serial, until).unwrap());
        disk.insert(paths::CA.into(), authority(&[7; 64]).into_bytes());
        disk.insert(key[0].0.into(), key[0].1.clone().into_bytes());
        disk.insert(
            certificate[1].0.into(),
            certificate[1].1.clone().into_bytes(),
        );
        for (path, content) in files("controller-manager.conf", 9, until).unwrap() {
            disk.insert(path.into(), content.into_bytes());
        }
        Inventory::of(&disk)
    }

    #[test]
    fn the_agent_reads_them_as_it_reads_real_ones() {
        for serial in [4, 5] {
            let inventory = on_disk([serial; 2]);
            let names: Vec<&str> = inventory.certificates.iter().map(|c| c.name).collect();
            assert_eq!(names, ["ca", "apiserver", "controller-manager.conf"]);
            let apiserver = inventory.get("apiserver").unwrap();
            assert_eq!(apiserver.not_before.to_string(), "2026-01-01T00:00:00Z");
            assert_eq!(apiserver.not_after.to_string(), "2027-01-01T00:00:00Z");
            assert!(inventory.broken.is_empty());
        }
        assert_ne!(
            on_disk([4; 2]).get("apiserver").unwrap().serial,
            on_disk([6; 2]).get("apiserver").unwrap().serial
        );
    }

    #[test]
    fn a_new_key_next_to_the_old_certificate_is_broken() {
        assert_eq!(on_disk([5, 4]).broken, ["apiserver"]);
    }
}
