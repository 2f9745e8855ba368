//! Checks of settings that types cannot express.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Addon, EMBEDDED, Network, Settings, embedded, known, names_its_registry, proxy,
    service_accounts,
    settings::{
        Bundle, Certificates, Dns, Downloads, Etcd, Images, Join, Leaving, LoginPlace, Pin,
        Snapshots, Source, Store, StoreKind,
    },
};
use crate::{
    error::{Error, Result},
    ports::{Place, is_bucket, is_sha256},
};

/// Refuses settings that contradict themselves or that no cluster could run with.
pub fn validate(settings: &Settings) -> Result<()> {
    ranges(&settings.cluster.pod_cidr, &settings.cluster.service_cidr)?;
    endpoint(&settings.cluster.endpoint)?;
    downloads(&settings.downloads)?;
    join(&settings.join)?;
    store(&settings.store)?;
    etcd(&settings.etcd)?;
    leaving(&settings.leaving)?;
    certificates(&settings.certificates)?;
    service_accounts::validate(&settings.service_accounts)?;
    logins(&settings.images)?;
    bundle(&settings.bundle)?;
    proxy::validate(&settings.proxy)?;
    dns(&settings.dns)?;
    snapshots(&settings.snapshots)?;
    one_version(settings)?;
    known::validate(settings)?;
    pins(&settings.pins)?;
    one_ingress(settings)?;
    for (name, addon) in settings.addons.iter().filter(|(_, addon)| addon.enabled) {
        self::addon(name, addon)?;
    }
    Ok(())
}

fn endpoint(endpoint: &str) -> Result<()> {
    if endpoint == "local" || is_host_and_port(endpoint) {
        return Ok(());
    }
    Err(Error::refused(format!(
        "cluster.endpoint: `{endpoint}` is neither `local` nor `host:port`"
    ))
    .hint("example: endpoint = \"api.example.com:6443\""))
}

fn downloads(downloads: &Downloads) -> Result<()> {
    if downloads.parallel == 0 {
        return Err(
            Error::refused("downloads.parallel: 0 would never download anything")
                .hint("the default is 4"),
        );
    }
    Ok(())
}

fn logins(images: &Images) -> Result<()> {
    for host in images.logins.keys() {
        if !names_its_registry(&format!("{host}/image")) {
            return Err(Error::refused(format!(
                "images.logins: `{host}` is not the host of a registry"
            ))
            .hint("use the host that images name, such as registry.example.com or host:5000"));
        }
        let usable = match images.login(host) {
            Some(LoginPlace::Parameter(name)) => {
                let mut allowed = name.bytes();
                !name.is_empty()
                    && allowed.all(|b| b.is_ascii_alphanumeric() || b"/_.-".contains(&b))
            }
            Some(LoginPlace::File(path)) => path.is_absolute(),
            None => false,
        };
        if !usable {
            return Err(Error::refused(format!(
                "images.logins.\"{host}\" is neither ssm:NAME nor file:///PATH"
            ))
            .hint("put USER:PASSWORD into a parameter of type SecureString and name it here; user-data is no place for a password"));
        }
    }
    Ok(())
}

fn bundle(bundle: &Bundle) -> Result<()> {
    let Bundle { url, sha256 } = bundle;
    if url.is_empty() {
        return if sha256.is_empty() {
            Ok(())
        } else {
            Err(Error::refused("bundle.sha256: there is no bundle.url")
                .hint("say where nodes download the bundle, or remove [bundle]"))
        };
    }
    let example = "example: url = \"s3://BUCKET/bundle-{arch}.tar\"";
    let plain = url.replace("{arch}", "arch");
    let usable = match plain.split_once("://") {
        Some(("http" | "https", _)) => url::Url::parse(&plain).is_ok(),
        Some(("s3", rest)) => {
            rest.contains('/') && !rest.ends_with('/') && Place::parse(&plain).is_ok()
        }
        Some(("file", path)) => path.starts_with('/') && !path.ends_with('/'),
        _ => false,
    };
    if !usable || plain.contains(['{', '}']) {
        return Err(Error::refused(format!(
            "bundle.url: `{url}` is neither an https:// URL nor s3://BUCKET/KEY nor file:///PATH"
        ))
        .hint(example));
    }
    if sha256.is_empty() {
        return Err(
            Error::refused("bundle.sha256: no architecture has a sha256")
                .hint("`k8s-bootstrap bundle` prints it with the setting's name"),
        );
    }
    for (arch, digest) in sha256 {
        self::sha256(&format!("bundle.sha256.{arch}"), digest)?;
    }
    Ok(())
}

fn join(join: &Join) -> Result<()> {
    if join.port == 0 {
        return Err(Error::refused("join.port: 0 is not a valid port").hint("the default is 7444"));
    }
    Ok(())
}

fn store(store: &Store) -> Result<()> {
    let Store {
        kind,
        prefix,
        bucket,
        control_planes,
        ..
    } = store;
    if !prefix.starts_with('/') || prefix.ends_with('/') {
        return Err(Error::refused(format!(
            "store.prefix: `{prefix}` must start with `/` and not end with it"
        ))
        .hint("example: prefix = \"/k8s-bootstrap\""));
    }
    let fits = match kind {
        StoreKind::S3 => is_bucket(bucket),
        StoreKind::Ssm | StoreKind::Folder | StoreKind::None => bucket.is_empty(),
    };
    if !fits {
        return Err(Error::refused(format!(
            "store.bucket: `{bucket}` does not match store.kind"
        ))
        .hint("kind \"s3\" needs a bucket's name without s3://, every other kind an empty one"));
    }
    if (*kind == StoreKind::None) != (*control_planes > 0) {
        return Err(Error::refused(format!(
            "store.control_planes: {control_planes} does not match store.kind"
        ))
        .hint("kind \"none\" needs the number of control planes, every other kind 0"));
    }
    Ok(())
}

fn etcd(etcd: &Etcd) -> Result<()> {
    // A newly founded cluster already has several MiB of data.
    if etcd.quota_bytes < 32 << 20 {
        return Err(Error::refused(format!(
            "etcd.quota_bytes: {} is too little for a cluster",
            etcd.quota_bytes
        ))
        .hint("the minimum is 33554432, the default is 8589934592"));
    }
    Ok(())
}

fn leaving(leaving: &Leaving) -> Result<()> {
    // The unit's TimeoutStopSec is larger.
    if leaving.deadline > 120 {
        return Err(Error::refused(format!(
            "leaving.deadline: {} exceeds the 120 seconds that systemd waits",
            leaving.deadline
        ))
        .hint("the default is 90"));
    }
    Ok(())
}

fn pins(pins: &BTreeMap<String, Pin>) -> Result<()> {
    for (name, pin) in pins {
        for (arch, digest) in &pin.sha256 {
            sha256(&format!("pins.{name}.sha256.{arch}"), digest)?;
        }
    }
    Ok(())
}

fn addon(name: &str, addon: &Addon) -> Result<()> {
    if addon.sources.is_empty() {
        return Err(
            Error::refused(format!("addons.{name}.sources: the list is empty"))
                .hint("disable the add-on with `enabled = false`"),
        );
    }
    values(name, addon)?;
    for (index, source) in addon.sources.iter().enumerate() {
        self::source(&format!("addons.{name}.sources[{index}]"), source)?;
    }
    for (index, patch) in addon.patches.iter().enumerate() {
        if patch.merge.is_some() == patch.json.is_some() {
            return Err(Error::refused(format!(
                "addons.{name}.patches[{index}]: exactly one of `merge` and `json` is needed"
            )));
        }
    }
    Ok(())
}

/// Both ingress controllers need the same ports on the same nodes, so the second would never start.
fn one_ingress(settings: &Settings) -> Result<()> {
    let on = |name: &str| settings.addons.get(name).is_some_and(|addon| addon.enabled);
    if on("ingress-nginx") && on("ingress-traefik") {
        return Err(Error::refused(
            "addons: ingress-nginx and ingress-traefik are both enabled, and both need ports 80 and 443 of the workers",
        )
        .hint("disable one: `addons.ingress-nginx.enabled = false`"));
    }
    Ok(())
}

fn dns(dns: &Dns) -> Result<()> {
    if !dns.enabled {
        return Ok(());
    }
    let Dns {
        zone, name, ttl, ..
    } = dns;
    if !(1..=32).contains(&zone.len())
        || !zone
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    {
        return Err(Error::refused(format!(
            "dns.zone: `{zone}` is not the id of a hosted zone"
        ))
        .hint("`aws route53 list-hosted-zones` shows it after /hostedzone/: zone = \"Z0123456789ABCDEFGHIJ\""));
    }
    if !is_domain_name(name) {
        return Err(
            Error::refused(format!("dns.name: `{name}` is not a full domain name"))
                .hint("example: name = \"www.example.com\""),
        );
    }
    if !(1..=86_400).contains(ttl) {
        return Err(
            Error::refused(format!("dns.ttl: {ttl} is not between 1 and 86400 seconds"))
                .hint("the default is 30"),
        );
    }
    Ok(())
}

fn certificates(certificates: &Certificates) -> Result<()> {
    // Kubernetes signs no certificate with a shorter lifetime; a century is as good as for ever.
    const LEAST: u64 = 600;
    const MOST: u64 = 100 * 365 * 86_400;
    let Certificates {
        lifetime,
        ca_lifetime,
        kubelet_lifetime,
    } = *certificates;
    for (name, seconds) in [
        ("lifetime", lifetime),
        ("ca_lifetime", ca_lifetime),
        ("kubelet_lifetime", kubelet_lifetime),
    ] {
        if !(LEAST..=MOST).contains(&seconds) {
            return Err(Error::refused(format!(
                "certificates.{name}: {seconds} is not between {LEAST} and {MOST} seconds"
            ))
            .hint("a year is 31536000"));
        }
    }
    if ca_lifetime < lifetime.max(kubelet_lifetime) {
        return Err(Error::refused(format!(
            "certificates.ca_lifetime: {ca_lifetime} is shorter than the other lifetimes"
        ))
        .hint("the default is 315360000, ten years"));
    }
    Ok(())
}

fn snapshots(snapshots: &Snapshots) -> Result<()> {
    let Snapshots { to, kms_key, .. } = snapshots;
    let is_key = |c: char| c.is_ascii_alphanumeric() || "-_/:".contains(c);
    let fits = to.starts_with("s3://") && kms_key.chars().all(is_key);
    if !kms_key.is_empty() && !fits {
        return Err(Error::refused(format!(
            "snapshots.kms_key: `{kms_key}` is not a KMS key for a bucket"
        ))
        .hint("it needs snapshots.to = \"s3://...\"; example: kms_key = \"alias/backups\", or the key's id or ARN"));
    }
    if snapshots.to.is_empty() {
        return Ok(());
    }
    Place::parse(&snapshots.to).map_err(|error| {
        Error::refused(format!("snapshots.to: {}", error.one_line()))
            .hint(error.remedy().unwrap_or_default())
    })?;
    if snapshots.every < 60 {
        return Err(Error::refused(format!(
            "snapshots.every: {} s is too often",
            snapshots.every
        ))
        .hint("the minimum is 60, the default is 3600"));
    }
    if snapshots.keep == 0 {
        return Err(Error::refused("snapshots.keep: 0 would keep no backup")
            .hint("the minimum is 1, the default is 48"));
    }
    Ok(())
}

/// At least two labels of letters, digits, `-` and `_`; a trailing dot is allowed.
fn is_domain_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let valid = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= 253 && text.contains('.') && text.split('.').all(valid)
}

/// The sample application's name among the add-ons.
const VISITS: &str = "visits";

/// What is filled into an add-on's manifests, and the images that replace theirs.
fn values(name: &str, addon: &Addon) -> Result<()> {
    let in_full =
        "name the registry too, such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com/visits:1";
    for (key, value) in &addon.values {
        let place = format!("addons.{name}.values.{key}");
        if value.is_object() || value.is_array() || value.is_null() {
            return Err(Error::refused(format!(
                "{place}: only text, a number, true or false can be filled in"
            ))
            .hint("use a patch for more"));
        }
        if value != "" {
            continue;
        }
        let hint = if name == VISITS {
            "`make image` builds the application's image as an archive, and \
             `skopeo copy oci-archive:target/visits.tar docker://REGISTRY/visits:1` pushes it"
        } else {
            "set it, since the manifests use it"
        };
        return Err(Error::refused(format!("{place}: is empty")).hint(hint));
    }
    let own = addon.values.get("image").and_then(Value::as_str);
    if let Some(image) = own.filter(|image| name == VISITS && !names_its_registry(image)) {
        return Err(Error::refused(format!(
            "addons.{name}.values.image: `{image}` does not name its registry's host"
        ))
        .hint(in_full));
    }
    for (from, to) in &addon.image_overrides {
        if !names_its_registry(to) {
            return Err(Error::refused(format!(
                "addons.{name}.image_overrides: `{to}`, for `{from}`, does not name its registry's host"
            ))
            .hint(in_full));
        }
    }
    Ok(())
}

fn source(place: &str, source: &Source) -> Result<()> {
    let url = source.url.as_str();
    if url.is_empty() == source.inline.is_empty() {
        return Err(Error::refused(format!(
            "{place}: exactly one of `url` and `inline` is needed"
        )));
    }
    if !source.inline.is_empty() {
        return no_digest(place, source, "manifests in the settings");
    }
    if url.starts_with("https://") || url.starts_with("http://") {
        return sha256(&format!("{place}.sha256"), &source.sha256);
    }
    let known = url.strip_prefix("embedded:").and_then(embedded).is_some();
    let file = url
        .strip_prefix("file://")
        .is_some_and(|path| path.starts_with('/'));
    if !known && !file {
        let names: Vec<&str> = EMBEDDED.iter().map(|(name, _)| *name).collect();
        return Err(
            Error::refused(format!("{place}.url: `{url}` is not a manifest source")).hint(format!(
                "a source is https://..., file:///... with an absolute path, or one of the agent's own: embedded:{}",
                names.join(", embedded:")
            )),
        );
    }
    no_digest(place, source, url)
}

fn no_digest(place: &str, source: &Source, what: &str) -> Result<()> {
    if source.sha256.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "{place}.sha256: only a download has one, not {what}"
    )))
}

fn sha256(place: &str, digest: &str) -> Result<()> {
    if is_sha256(digest) {
        return Ok(());
    }
    Err(Error::refused(format!(
        "{place}: `{digest}` is not a sha256 (64 hexadecimal digits)"
    ))
    .hint("`sha256sum FILE` prints it; nothing unverified is ever used"))
}

fn ranges(pods: &str, services: &str) -> Result<()> {
    let pod_range = network("cluster.pod_cidr", pods)?;
    if pod_range.overlaps(network("cluster.service_cidr", services)?) {
        return Err(Error::refused(format!(
            "cluster.pod_cidr {pods} and cluster.service_cidr {services} overlap"
        ))
        .hint("use separate ranges: the defaults are 192.168.0.0/16 and 10.96.0.0/12"));
    }
    Ok(())
}

fn network(place: &str, text: &str) -> Result<Network> {
    Network::parse(text).ok_or_else(|| {
        Error::refused(format!("{place}: `{text}` is not an IPv4 network"))
            .hint("example: \"10.96.0.0/12\"")
    })
}

/// kubeadm refuses versions other than its own, and uses the kubelet's version for its images.
fn one_version(settings: &Settings) -> Result<()> {
    let version = settings.kubernetes.version.trim_start_matches('v');
    for name in ["kubeadm", "kubelet", "kubectl"] {
        let Some(pin) = settings.pins.get(name).filter(|pin| pin.version != version) else {
            continue;
        };
        return Err(Error::refused(format!(
            "kubernetes.version is {version}, but pins.{name}.version is {}",
            pin.version
        ))
        .hint("another version needs its own pins: version and sha256 of kubeadm, kubelet and kubectl, and the tags in [kubernetes]"));
    }
    Ok(())
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

#[cfg(test)]
mod tests;
