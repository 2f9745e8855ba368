//! The checks of kubelet.service before it starts the kubelet, run in a shell on a temporary root.

use std::{fs, path::Path, process::Command};

const UNIT: &str = include_str!("../../systemd/kubelet.service");

/// Whether the unit would start the kubelet on a machine with these files.
fn starts(files: &[(&str, &str)]) -> bool {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let line = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("ExecCondition=/bin/sh -c "));
    let here = root.path().to_str().unwrap();
    let script = ["/etc/kubernetes", "/var/lib"].iter().fold(
        line.unwrap().trim_matches('\'').to_owned(),
        |script, folder| {
            assert!(script.contains(folder), "{script}");
            script.replace(folder, Path::new(here).join(&folder[1..]).to_str().unwrap())
        },
    );
    let status = Command::new("/bin/sh").args(["-c", &script]).status();
    status.unwrap().success()
}

#[test]
fn the_kubelet_starts_no_etcd_that_has_lost_its_data() {
    const MANIFEST: (&str, &str) = ("etc/kubernetes/manifests/etcd.yaml", "");
    const DATA: (&str, &str) = ("var/lib/etcd/member/snap/db", "");
    let journal = |etcd_cluster: &str| {
        let text = format!("{{\n  \"etcd_cluster\": {etcd_cluster},\n  \"phases\": {{}}\n}}\n");
        ("var/lib/k8s-bootstrap/journal.json", text)
    };
    let (known, unknown) = (journal("\"c1\""), journal("null"));
    let (known, unknown) = ((known.0, &*known.1), (unknown.0, &*unknown.1));
    for (case, files, expected) in [
        ("a worker", &[unknown][..], true),
        ("no journal yet", &[MANIFEST], true),
        ("the first boot", &[MANIFEST, unknown], true),
        (
            "a control plane with its data",
            &[MANIFEST, DATA, known],
            true,
        ),
        ("etcd is not wanted", &[known], true),
        (
            "a control plane without its data",
            &[MANIFEST, known],
            false,
        ),
    ] {
        assert_eq!(starts(files), expected, "{case}");
    }
}
