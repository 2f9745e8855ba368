//! The cache of built components. A component is a folder with a stamp, the hash of all its inputs,
//! which is written last: without the right stamp the component is not built, however complete it
//! looks.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

/// The file in a component's folder with the stamp of its inputs.
const STAMP: &str = ".stamp";

/// The hash of all inputs of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(String);

impl Stamp {
    /// The stamp of a component made from `inputs`, each a name and its content. Moving bytes from
    /// a name to its content changes the stamp too.
    pub fn of<'a>(inputs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut hash = Sha256::new();
        for (name, content) in inputs {
            hash.update(name.len().to_le_bytes());
            hash.update(name);
            hash.update(content.len().to_le_bytes());
            hash.update(content);
        }
        Self(hex::encode(hash.finalize()))
    }

    /// The stamp as an input of another component.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The folder of components, locked while it is used to build.
pub struct Cache {
    root: PathBuf,
    progress: MultiProgress,
    ready: fn() -> Result<()>,
    _lock: Flock<fs::File>,
}

impl Cache {
    /// Opens the cache in the folder `root`, which is created if needed. Waits while another
    /// process builds there: both want the same components. `ready` checks before the first build
    /// whether this machine can build.
    ///
    /// # Errors If the folder or its lock cannot be created.
    pub fn open(root: &Path, progress: MultiProgress, ready: fn() -> Result<()>) -> Result<Self> {
        fs::create_dir_all(root.join("logs"))
            .with_context(|| format!("make the component cache {}", root.display()))?;
        let root = root.canonicalize()?;
        let path = root.join(".lock");
        let file = fs::File::create(&path)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                let waiting = step(&progress, "components");
                waiting.set_message("another process builds them; waiting for it");
                let lock = Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, error)| error)
                    .with_context(|| format!("lock {}", path.display()))?;
                waiting.finish_and_clear();
                lock
            }
            Err((_, error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        };
        Ok(Self {
            root,
            progress,
            ready,
            _lock: lock,
        })
    }

    /// The folder of the component `name`, if it was built from `stamp`'s inputs.
    pub fn built(&self, name: &str, stamp: &Stamp) -> Option<PathBuf> {
        let path = self.root.join(name);
        let found = fs::read_to_string(path.join(STAMP)).ok()?;
        (found == stamp.0).then_some(path)
    }

    /// The component's folder, built with `build` unless it was built before from the same inputs.
    /// `build` gets an empty folder and the path of a log.
    ///
    /// # Errors
    /// Those of `build`, and of the file system.
    pub fn component(
        &self,
        name: &str,
        stamp: &Stamp,
        build: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(path) = self.built(name, stamp) {
            return Ok(path);
        }
        (self.ready)()?;
        let started = Instant::now();
        let bar = step(&self.progress, name);
        bar.set_message("building");
        if self.progress.is_hidden() {
            tracing::info!(component = name, "building");
        }
        let path = self.make(name, stamp, build).with_context(|| {
            bar.finish_with_message("failed");
            format!("build the lab's component {name}")
        })?;
        let took = started.elapsed();
        bar.finish_with_message(format!("built in {:.1} s", took.as_secs_f64()));
        if self.progress.is_hidden() {
            tracing::info!(component = name, seconds = took.as_secs_f64(), "built");
        }
        Ok(path)
    }

    /// Runs `add`, which adds to the component in `folder` and decides itself whether there is
    /// anything to do. It gets a temporary empty folder on the same file system as `folder`, and
    /// the path of a log.
    ///
    /// # Errors
    /// Those of `add`, and of the file system.
    pub fn added(
        &self,
        name: &str,
        folder: &Path,
        add: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<()> {
        let work = folder.join(format!(".adding-{name}"));
        let log = self.root.join("logs").join(format!("{name}.log"));
        remove(&work)?;
        remove(&log)?;
        fs::create_dir(&work)?;
        let bar = step(&self.progress, name);
        add(&work, &log).with_context(|| format!("add {name} to {}", folder.display()))?;
        bar.finish_and_clear();
        remove(&work)
    }

    fn make(
        &self,
        name: &str,
        stamp: &Stamp,
        build: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.root.join(name);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if is_mounted(&path, &mounts) {
            bail!(
                "machines still run from {}, which must be rebuilt: stop them first with \
                 `cargo run -p lab -- down`",
                path.display()
            );
        }
        let unfinished = self.root.join(format!(".unfinished-{name}"));
        let log = self.root.join("logs").join(format!("{name}.log"));
        remove(&unfinished)?;
        remove(&log)?;
        fs::create_dir(&unfinished)?;
        build(&unfinished, &log)?;
        fs::write(unfinished.join(STAMP), &stamp.0)?;
        // Renamed before it is removed: a half-removed component would still have its stamp.
        let outdated = self.root.join(format!(".outdated-{name}"));
        remove(&outdated)?;
        if path.exists() {
            fs::rename(&path, &outdated)?;
        }
        fs::rename(&unfinished, &path)?;
        remove(&outdated)?;
        Ok(path)
    }
}

/// Whether something in the folder `path` is mounted, or is the lower folder of an overlay,
/// according to the kernel's list of mounts (proc(5), mountinfo).
fn is_mounted(path: &Path, mountinfo: &str) -> bool {
    let inside = format!("{}/", path.display());
    mountinfo.lines().any(|mount| mount.contains(&inside))
}

fn step(progress: &MultiProgress, name: &str) -> ProgressBar {
    let bar = progress.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:18} {elapsed:>4} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use indicatif::ProgressDrawTarget;

    use super::*;

    fn cache(root: &Path) -> Cache {
        let hidden = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Cache::open(root, hidden, || Ok(())).unwrap()
    }

    fn stamp(content: &str) -> Stamp {
        Stamp::of([("recipe", content.as_bytes())])
    }

    #[test]
    fn a_component_is_built_once_for_the_same_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let mut builds = 0;
        for content in ["one", "one", "two"] {
            let path = cache
                .component("etcd", &stamp(content), |folder, _| {
                    builds += 1;
                    fs::write(folder.join("etcd"), content)?;
                    Ok(())
                })
                .unwrap();
            assert_eq!(fs::read_to_string(path.join("etcd")).unwrap(), content);
        }
        assert_eq!(builds, 2);
        assert!(!dir.path().join(".outdated-etcd").exists());
    }

    #[test]
    fn an_interrupted_build_is_not_taken_for_done() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let interrupted = cache.component("rootfs", &stamp("x"), |folder, _| {
            fs::write(folder.join("half"), "")?;
            bail!("killed")
        });
        let error = format!("{:#}", interrupted.unwrap_err());
        assert_eq!(error, "build the lab's component rootfs: killed");
        assert_eq!(cache.built("rootfs", &stamp("x")), None);

        // What it left behind does not end up in the next build either.
        let path = cache
            .component("rootfs", &stamp("x"), |_, _| Ok(()))
            .unwrap();
        assert!(!path.join("half").exists());
    }

    #[test]
    fn a_failed_rebuild_keeps_what_was_built_before() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache
            .component("runc", &stamp("old"), |_, _| Ok(()))
            .unwrap();
        cache
            .component("runc", &stamp("new"), |_, _| bail!("no compiler"))
            .unwrap_err();
        assert!(cache.built("runc", &stamp("old")).is_some());
        assert_eq!(cache.built("runc", &stamp("new")), None);
    }

    #[test]
    fn a_component_under_running_machines_is_seen() {
        let mounts = "70 30 0:50 / /run/lab/w1 rw - overlay overlay rw,lowerdir=/c/debian/machine,upperdir=/u";
        assert!(is_mounted(Path::new("/c/debian"), mounts));
        assert!(!is_mounted(Path::new("/c/deb"), mounts));
        assert!(!is_mounted(Path::new("/c/registry"), mounts));
    }

    #[test]
    fn content_moved_between_inputs_changes_the_stamp() {
        let one: [(&str, &[u8]); 2] = [("a", b"bc"), ("d", b"")];
        let other: [(&str, &[u8]); 2] = [("ab", b"c"), ("d", b"")];
        assert_ne!(Stamp::of(one), Stamp::of(other));
    }
}
