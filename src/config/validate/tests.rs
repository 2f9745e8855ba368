#![allow(clippy::unwrap_used)]

use crate::config::{Fragment, load};

#[test]
fn dns_settings_are_checked_only_if_dns_is_enabled() {
    for text in [
        "dns = { enabled = true, zone = 'Z0123456789ABC', name = 'www.example.com.' }",
        "dns = { enabled = false, zone = 'none', name = '?' }",
    ] {
        load(&[Fragment::parse("c", text).unwrap()]).unwrap();
    }
}

#[test]
fn contradictions_are_refused_with_place_and_remedy() {
    for (text, expected) in [
        (
            "cluster.pod_cidr = '10.0.0.0'",
            "cluster.pod_cidr: `10.0.0.0` is not an IPv4 network",
        ),
        (
            "cluster.pod_cidr = '10.100.0.0/16'",
            "cluster.pod_cidr 10.100.0.0/16 and cluster.service_cidr 10.96.0.0/12 overlap",
        ),
        (
            "kubernetes.version = '1.36.4'",
            "kubernetes.version is 1.36.4, but pins.kubeadm.version is 1.36.3",
        ),
        (
            "cluster.endpoint = 'api.example.com'",
            "neither `local` nor `host:port`",
        ),
        (
            "addons.ingress-traefik.enabled = true",
            "ingress-nginx and ingress-traefik are both enabled",
        ),
        (
            "dns = { enabled = true, name = 'www.example.com' }",
            "dns.zone: `` is not the id of a hosted zone",
        ),
        (
            "dns = { enabled = true, zone = '/hostedzone/Z1', name = 'www.example.com' }",
            "dns.zone: `/hostedzone/Z1` is not",
        ),
        (
            "dns = { enabled = true, zone = 'Z1', name = 'www' }",
            "dns.name: `www` is not a full domain name",
        ),
        (
            "dns = { enabled = true, zone = 'Z1', name = 'a b.example.com' }",
            "dns.name: `a b.example.com` is not",
        ),
        (
            "dns = { enabled = true, zone = 'Z1', name = 'www.example.com', ttl = 0 }",
            "dns.ttl: 0 is not between",
        ),
        ("addons.visits.enabled = true", "`make image` builds"),
        (
            "addons.visits = { enabled = true, values = { image = 'visits:1' } }",
            "addons.visits.values.image: `visits:1` does not name its registry's host",
        ),
        (
            "addons.storage.image_overrides = { busybox = 'mirror/busybox' }",
            "addons.storage.image_overrides: `mirror/busybox`, for `busybox`, does not name",
        ),
        (
            "addons.storage.values = { size = [1] }",
            "addons.storage.values.size: only text, a number, true or false",
        ),
        (
            "addons.storage.values = { size = '' }",
            "addons.storage.values.size: is empty",
        ),
        (
            "addons.storage.sources = [{}]",
            "addons.storage.sources[0]: exactly one of `url` and `inline`",
        ),
        (
            "addons.storage.sources = [{ url = 'file:///a', inline = 'kind: A' }]",
            "addons.storage.sources[0]: exactly one of `url` and `inline`",
        ),
        (
            "addons.storage.sources = [{ inline = 'kind: A', sha256 = '00' }]",
            "addons.storage.sources[0].sha256: only a download has one, not manifests in the settings",
        ),
        (
            "leaving.deadline = 121",
            "leaving.deadline: 121 exceeds the 120 seconds",
        ),
        (
            "etcd.quota_bytes = 33554431",
            "etcd.quota_bytes: 33554431 is too little",
        ),
        ("downloads.parallel = 0", "downloads.parallel: 0"),
        (
            "certificates.lifetime = 599",
            "certificates.lifetime: 599 is not between",
        ),
        (
            "certificates.kubelet_lifetime = 0",
            "certificates.kubelet_lifetime: 0 is not between",
        ),
        (
            "certificates.ca_lifetime = 31_535_999",
            "certificates.ca_lifetime: 31535999 is shorter",
        ),
        (
            "snapshots.to = 's3://bucket//x'",
            "snapshots.to: `s3://bucket//x` is not a destination",
        ),
        (
            "snapshots = { to = 'file:///b', every = 59 }",
            "snapshots.every: 59 s",
        ),
        (
            "snapshots = { to = 'file:///b', keep = 0 }",
            "snapshots.keep: 0",
        ),
        (
            "snapshots = { to = 'file:///b', kms_key = 'alias/x' }",
            "snapshots.kms_key: `alias/x` is not a KMS key",
        ),
        (
            "snapshots = { to = 's3://bucket', kms_key = 'a b' }",
            "snapshots.kms_key: `a b` is not a KMS key",
        ),
        (
            "images.logins = { 'registry' = 'ssm:/a' }",
            "images.logins: `registry` is not the host of a registry",
        ),
        (
            "images.logins = { 'r.example.com' = 'user:password' }",
            "images.logins.\"r.example.com\" is neither ssm:NAME nor file:///PATH",
        ),
        (
            "images.logins = { 'r.example.com' = 'file://etc/login' }",
            "images.logins.\"r.example.com\" is neither",
        ),
        (
            "bundle.url = 'ftp://host/bundle.tar'",
            "bundle.url: `ftp://host/bundle.tar` is neither an https:// URL nor s3://BUCKET/KEY",
        ),
        (
            "bundle.url = 's3://bucket'",
            "bundle.url: `s3://bucket` is neither",
        ),
        (
            "bundle.url = 'https://host/{flavour}.tar'",
            "bundle.url: `https://host/{flavour}.tar` is neither",
        ),
        (
            "bundle.url = 'https://host/bundle.tar'",
            "bundle.sha256: no architecture has a sha256",
        ),
        (
            "bundle = { url = 'file:///b.tar', sha256 = { amd64 = '00' } }",
            "bundle.sha256.amd64: `00` is not a sha256",
        ),
        (
            "bundle.sha256 = { amd64 = '00' }",
            "bundle.sha256: there is no bundle.url",
        ),
        ("join.port = 0", "join.port: 0 is not a valid port"),
        (
            "store.kind = 'none'",
            "store.control_planes: 0 does not match",
        ),
        (
            "store.control_planes = 3",
            "store.control_planes: 3 does not match",
        ),
        ("store.kind = 's3'", "store.bucket: `` does not match"),
        (
            "store = { kind = 's3', bucket = 's3://b' }",
            "store.bucket: `s3://b` does not match",
        ),
        (
            "store.bucket = 'my-bucket'",
            "store.bucket: `my-bucket` does not match",
        ),
        ("store.prefix = 'x'", "store.prefix: `x` must start"),
        (
            "pins.runc.sha256.amd64 = 'abc'",
            "pins.runc.sha256.amd64: `abc` is not a sha256",
        ),
        (
            "addons.mine = { enabled = true, sources = [{ url = 'https://example.com/x.yaml' }] }",
            "addons.mine.sources[0].sha256: `` is not a sha256",
        ),
        (
            "addons.mine = { enabled = true, sources = [] }",
            "addons.mine.sources: the list is empty",
        ),
        (
            "addons.mine = { enabled = true, sources = [{ url = 'embedded:redis' }, { url = 'embedded:nowhere' }] }",
            "addons.mine.sources[1].url: `embedded:nowhere` is not a manifest source",
        ),
        (
            "addons.mine = { enabled = true, sources = [{ url = 'file:manifests' }] }",
            "addons.mine.sources[0].url: `file:manifests` is not a manifest source",
        ),
        (
            "addons.mine = { enabled = true, sources = [{ url = 'file:///x.yaml', sha256 = 'a' }] }",
            "addons.mine.sources[0].sha256: only a download has one",
        ),
        (
            "addons.calico.patches = [{ kind = 'DaemonSet' }]",
            "addons.calico.patches[0]: exactly one of",
        ),
    ] {
        let error = load(&[Fragment::parse("c", text).unwrap()]).unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert_eq!(error.kind().exit_code(), 3, "{text}");
    }
}
