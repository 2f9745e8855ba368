#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::TcpListener, sync::Mutex};

use super::*;
use crate::ports::Output;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn a_write_creates_folders_sets_the_mode_and_leaves_no_temporary_file() {
    let root = tempfile::tempdir().unwrap();
    let host = LocalHost::at(root.path());
    let path = Path::new("/etc/containerd/certs.d/_default/hosts.toml");
    host.write(path, b"one", 0o600).await.unwrap();
    host.write(path, b"two", 0o644).await.unwrap();
    let real = root
        .path()
        .join("etc/containerd/certs.d/_default/hosts.toml");
    assert_eq!(host.read(path).await.unwrap().unwrap(), b"two");
    assert_eq!(mode(&real), 0o644);
    assert_eq!(mode(&root.path().join("etc/containerd")), 0o755);
    assert_eq!(names(real.parent().unwrap()), ["hosts.toml"]);
}

#[tokio::test]
async fn a_write_that_cannot_be_finished_leaves_the_old_file_and_no_other() {
    let root = tempfile::tempdir().unwrap();
    let host = LocalHost::at(root.path());
    // A folder at the target's path makes the last step, the rename, fail.
    fs::create_dir_all(root.path().join("etc/hosts/taken")).unwrap();
    let error = host
        .write(Path::new("/etc/hosts"), b"x", 0o644)
        .await
        .unwrap_err();
    assert!(
        error.one_line().starts_with("cannot write /etc/hosts: "),
        "{error}"
    );
    assert_eq!(names(&root.path().join("etc")), ["hosts"]);
}

#[test]
fn a_full_disk_is_reported_with_what_to_do() {
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .and_then(|mut file| file.write_all(b"x"));
    let error = on_disk(full, Path::new("/usr/local/bin/kubelet")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "error: cannot write /usr/local/bin/kubelet\n  because: No space left on device (os error 28)\n  hint: the disk is full: free some space or give the instance a larger volume"
    );
}

#[tokio::test]
async fn paths_that_could_leave_the_root_are_refused() {
    let host = LocalHost::at("/nowhere");
    for path in ["etc/hosts", "/etc/../../secret"] {
        let error = host.read(Path::new(path)).await.unwrap_err();
        assert!(error.one_line().contains("not an absolute path"), "{error}");
    }
}

#[tokio::test]
async fn an_absent_file_reads_as_none_and_can_be_removed() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "abc").unwrap();
    let host = LocalHost::at(root.path());
    for path in [Path::new("/none"), Path::new("/file/below-a-file")] {
        assert_eq!(host.read(path).await.unwrap(), None);
        assert_eq!(host.sha256(path).await.unwrap(), None);
        assert!(!host.exists(path).await.unwrap());
        host.remove(path).await.unwrap();
    }
    assert_eq!(
        host.sha256(Path::new("/file")).await.unwrap().unwrap(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[tokio::test]
async fn a_parameter_that_the_kernel_lacks_is_an_error_and_not_a_new_file() {
    let root = tempfile::tempdir().unwrap();
    let host = LocalHost::at(root.path());
    let error = host
        .set_kernel_parameter(Path::new("/proc/sys/net/none"), "1")
        .await
        .unwrap_err();
    assert!(
        error
            .one_line()
            .starts_with("cannot set /proc/sys/net/none to 1: "),
        "{error}"
    );
    assert!(names(root.path()).is_empty());
}

#[tokio::test]
async fn a_listening_port_is_seen_and_a_free_one_is_free() {
    let host = LocalHost::new();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else {
            continue; // no IPv6 here
        };
        let port = listener.local_addr().unwrap().port();
        assert!(host.port_in_use(port).await.unwrap(), "{address}");
        drop(listener);
        assert!(!host.port_in_use(port).await.unwrap(), "{address}");
    }
}

#[test]
fn an_established_connection_from_a_port_does_not_count_as_listening() {
    let table =
        "  sl  local_address rem_address   st tx_queue\n   0: 0100007F:192B 0100007F:A1B2 01 0:0\n";
    assert!(!listens(table, 6443));
    assert!(listens(&table.replace(" 01 ", " 0A "), 6443));
}

#[tokio::test]
async fn the_unified_hierarchy_shows_the_cgroup_version() {
    let root = tempfile::tempdir().unwrap();
    let host = LocalHost::at(root.path());
    let facts = host.machine().await.unwrap();
    assert_eq!(facts.cgroup_version, 1);
    assert!(facts.cpus >= 1 && facts.memory_bytes > 1 << 20 && facts.disk_free_bytes > 0);
    fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
    fs::write(root.path().join("sys/fs/cgroup/cgroup.controllers"), "cpu").unwrap();
    assert_eq!(host.machine().await.unwrap().cgroup_version, 2);
}

#[derive(Default)]
struct Recorded(Mutex<Vec<String>>);

#[async_trait]
impl Commands for Recorded {
    async fn run(&self, command: Command) -> Result<Output> {
        self.0.lock().unwrap().push(command.line());
        Ok(Output {
            status: 1,
            stdout: String::new(),
            stderr: "Module not found in directory /lib/modules".to_owned(),
        })
    }
}

#[tokio::test]
async fn a_loaded_module_is_skipped_and_a_missing_one_reports_modprobes_error() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("sys/module/br_netfilter")).unwrap();
    let commands = Arc::new(Recorded::default());
    let host = LocalHost::at(root.path()).with_commands(commands.clone());
    host.load_module("br_netfilter").await.unwrap();
    let error = host.load_module("overlay").await.unwrap_err();
    assert_eq!(*commands.0.lock().unwrap(), ["modprobe -- overlay"]);
    assert!(
        error
            .one_line()
            .starts_with("cannot load the kernel module overlay: `modprobe"),
        "{error}"
    );
    assert!(
        error
            .one_line()
            .ends_with("not found in directory /lib/modules")
    );
}

#[tokio::test]
async fn a_folder_is_listed_in_order_and_anything_else_gives_none() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/m")).unwrap();
    for name in ["b.yaml", "a.yaml"] {
        fs::write(root.path().join("etc/m").join(name), "").unwrap();
    }
    let host = LocalHost::at(root.path());
    let list = async |path: &str| host.list(Path::new(path)).await.unwrap();
    let paths = list("/etc/m").await.unwrap();
    assert_eq!(paths, ["/etc/m/a.yaml", "/etc/m/b.yaml"].map(PathBuf::from));
    assert_eq!(list("/etc/m/a.yaml").await, None);
    assert_eq!(list("/etc/n").await, None);
}
