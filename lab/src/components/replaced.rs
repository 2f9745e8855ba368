//! Modules that a build replaces by a local folder: unpublished ones, and those with dependencies
//! that the lab does not need.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::command::{nice, output, run};

/// A folder that replaces a module.
pub struct Replaced {
    /// Its name next to go.mod.
    pub folder: &'static str,
    /// `MODULE@VERSION` that it is a copy of; `None` if it contains only the project's files.
    pub origin: Option<&'static str>,
    /// Paths of the copy that are left out.
    pub without: &'static [&'static str],
    /// Files that are written over it: (path, content).
    pub with: &'static [(&'static str, &'static str)],
}

/// The output of `go mod download -json`.
#[derive(Deserialize)]
struct Download {
    #[serde(rename = "Dir")]
    dir: String,
}

impl Replaced {
    /// The folder's sources, as inputs of a stamp.
    pub fn inputs(&self) -> Vec<(&'static str, &'static str)> {
        let mut inputs = vec![(self.folder, self.origin.unwrap_or_default())];
        inputs.extend(self.without.iter().map(|path| ("without", *path)));
        inputs.extend(self.with);
        inputs
    }

    /// Writes the folder into `source`. The copied module must have its digest in `go_sum`. `go`
    /// creates a command of Go.
    ///
    /// # Errors If the module cannot be downloaded or the folder cannot be written.
    pub fn write(
        &self,
        source: &Path,
        go_sum: &str,
        go: impl Fn() -> Command,
        log: &Path,
    ) -> Result<()> {
        let folder = source.join(self.folder);
        if let Some(origin) = self.origin {
            // In a separate module: in the one with the replacement, Go only knows the folder.
            let asking = source.join(format!(".{}", self.folder));
            fs::create_dir(&asking)?;
            fs::write(asking.join("go.mod"), "module lab/origin\n")?;
            fs::write(asking.join("go.sum"), go_sum)?;
            let mut download = go();
            download
                .args(["mod", "download", "-json", origin])
                .current_dir(&asking);
            let answer: Download = serde_json::from_str(&output(&mut download)?)
                .with_context(|| format!("read where Go put {origin}"))?;
            // Without the file modes: files in the module cache are read-only.
            let mut copy = nice("cp");
            copy.args(["--recursive", "--no-preserve=mode", &answer.dir])
                .arg(&folder);
            run(&mut copy, log)?;
            for path in self.without {
                let path = folder.join(path);
                let removed = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.with_context(|| format!("leave {} out", path.display()))?;
            }
        }
        for (path, text) in self.with {
            let path = folder.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Answers as Go does for a module in the folder $MODULE.
    fn go(module: &Path) -> impl Fn() -> Command + use<> {
        let answer = format!(r#"printf '{{"Dir": "{}"}}'"#, module.display());
        move || {
            let mut go = Command::new("sh");
            go.args(["-c", &answer]);
            go
        }
    }

    const PATCHED: Replaced = Replaced {
        folder: "copy",
        origin: Some("example.com/origin@v1.0.0"),
        without: &["dns", "main.go"],
        with: &[("dns/none.go", "package dns"), ("kept.go", "ours")],
    };

    #[test]
    fn a_module_is_copied_without_some_paths_and_with_others() {
        let dir = tempfile::tempdir().unwrap();
        let (module, source) = (dir.path().join("module"), dir.path().join("source"));
        fs::create_dir_all(module.join("dns")).unwrap();
        fs::create_dir(&source).unwrap();
        for file in ["dns/all.go", "main.go", "kept.go", "log.go"] {
            fs::write(module.join(file), "theirs").unwrap();
        }
        PATCHED
            .write(&source, "", go(&module), &dir.path().join("log"))
            .unwrap();

        let copy = source.join("copy");
        let read = |path: &str| fs::read_to_string(copy.join(path)).unwrap_or_default();
        assert_eq!(read("log.go"), "theirs");
        assert_eq!(read("kept.go"), "ours");
        assert_eq!(read("dns/none.go"), "package dns");
        assert!(!copy.join("dns/all.go").exists());
        assert!(!copy.join("main.go").exists());
    }

    #[test]
    fn a_missing_path_to_leave_out_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (module, source) = (dir.path().join("module"), dir.path().join("source"));
        fs::create_dir(&module).unwrap();
        fs::create_dir(&source).unwrap();
        let error = PATCHED
            .write(&source, "", go(&module), &dir.path().join("log"))
            .unwrap_err();
        assert!(error.to_string().contains("leave"), "{error:#}");
    }
}
