//! Components built from Go modules: one small module per family (see `families`); its `tool` lines
//! name the programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cache::{Cache, Stamp};
use super::command::{nice, output, run};
use super::platform;
use super::replaced::Replaced;

/// Programs that come from one set of Go modules.
pub struct Family {
    /// Its name, also of its folder under `lab/components`.
    pub name: &'static str,
    /// The version that releases and image tags give it.
    pub version: &'static str,
    /// Names the modules and, in its `tool` lines, the programs.
    pub go_mod: &'static str,
    /// The modules' digests.
    pub go_sum: &'static str,
    /// Programs of our own next to go.mod, which its `tool` lines name: (path, content).
    pub sources: &'static [(&'static str, &'static str)],
    /// Value of `GOTOOLCHAIN`: `auto` uses the machine's Go, or the version in go.mod if that is
    /// newer.
    pub toolchain: &'static str,
    /// Link C libraries, statically.
    pub cgo: bool,
    /// String variables that the linker sets.
    pub variables: &'static [(&'static str, &'static str)],
    /// Programs with a name other than their package's: (built, wanted).
    pub renamed: &'static [(&'static str, &'static str)],
    /// Files copied from a module's folder: (module, path in it).
    pub files: &'static [(&'static str, &'static str)],
    /// Folders copied from a module's folder: (module, path in it).
    pub folders: &'static [(&'static str, &'static str)],
    /// Folders next to go.mod that its `replace` lines name.
    pub replaced: &'static [Replaced],
}

/// Increased when `build` below changes its result for the same inputs.
const RECIPE: &str = "1";

impl Family {
    /// The stamp of the family's inputs.
    pub fn stamp(&self) -> Stamp {
        let flags = self.flags().join("\n");
        let mut inputs = vec![
            ("recipe", RECIPE.as_bytes()),
            ("go.mod", self.go_mod.as_bytes()),
            ("go.sum", self.go_sum.as_bytes()),
            ("toolchain", self.toolchain.as_bytes()),
            ("architecture", platform::ARCH.as_bytes()),
            ("flags", flags.as_bytes()),
        ];
        for (name, content) in self.sources.iter().chain(self.renamed).chain(self.files) {
            inputs.push((name, content.as_bytes()));
        }
        for (name, content) in self.replaced.iter().flat_map(Replaced::inputs) {
            inputs.push((name, content.as_bytes()));
        }
        for (module, path) in self.folders {
            inputs.extend([
                ("folder of", module.as_bytes()),
                ("folder", path.as_bytes()),
            ]);
        }
        Stamp::of(inputs)
    }

    /// The folder with the family's programs and files, built if needed.
    ///
    /// # Errors If the modules cannot be downloaded or do not build.
    pub fn built(&self, cache: &Cache) -> Result<PathBuf> {
        cache.component(self.name, &self.stamp(), |folder, log| {
            self.build(folder, log)
        })
    }

    fn build(&self, folder: &Path, log: &Path) -> Result<()> {
        // The user may have a go.work or a vendor folder around the cache: so the module gets its
        // own folder.
        let source = folder.join("source");
        fs::create_dir(&source)?;
        fs::write(source.join("go.mod"), self.go_mod)?;
        fs::write(source.join("go.sum"), self.go_sum)?;
        for (path, content) in self.sources {
            let path = source.join(path);
            fs::create_dir_all(path.parent().context("a source stands in a folder")?)?;
            fs::write(path, content)?;
        }
        for replaced in self.replaced {
            replaced.write(&source, self.go_sum, || self.go(), log)?;
        }

        let mut build = self.go();
        build.arg("build").args(self.flags()).arg("-o");
        // The separator at the end tells go that this is a folder.
        build.arg(folder.join("")).arg("tool").current_dir(&source);
        run(&mut build, log)?;

        for (built, wanted) in self.renamed {
            fs::rename(folder.join(built), folder.join(wanted))?;
        }
        for (module, path) in self.files {
            let from = self.module(module, &source)?.join(path);
            let name = from.file_name().context("a module's file has a name")?;
            // Not fs::copy: files in the module cache are read-only.
            let content = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
            fs::write(folder.join(name), content)?;
        }
        for (module, path) in self.folders {
            let from = self.module(module, &source)?.join(path);
            // Files in the module cache are read-only, and so would be the folders of a copy.
            let mut copy = nice("cp");
            copy.args(["--recursive", "--no-preserve=mode"])
                .arg(from)
                .arg(folder);
            run(&mut copy, log)?;
        }
        fs::remove_dir_all(&source)?;
        Ok(())
    }

    /// The folder of a module that the family needs.
    fn module(&self, module: &str, source: &Path) -> Result<PathBuf> {
        let mut list = self.go();
        list.args(["list", "-mod=mod", "-m", "-f", "{{.Dir}}", module])
            .current_dir(source);
        Ok(PathBuf::from(output(&mut list)?.trim()))
    }

    fn go(&self) -> std::process::Command {
        let mut go = nice("go");
        go.env("GOTOOLCHAIN", self.toolchain)
            .env("GOWORK", "off")
            .env("GOFLAGS", "-buildvcs=false")
            // The compiler spends a fifth of its time on collecting garbage that fits in memory.
            .env("GOGC", "400")
            .env("GOOS", "linux")
            .env("GOARCH", platform::ARCH)
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" });
        go
    }

    fn flags(&self) -> Vec<String> {
        let mut linker = String::from("-s -w");
        for (variable, value) in self.variables {
            linker.extend([" -X ", variable, "=", value]);
        }
        if self.cgo {
            linker.push_str(" -extldflags -static");
        }
        let mut flags = vec![
            // Without this go refuses a go.sum that lacks modules that only other platforms import.
            "-mod=mod".to_owned(),
            "-trimpath".to_owned(),
            // What the linker strips need not be compiled.
            "-gcflags=all=-dwarf=false".to_owned(),
        ];
        if self.cgo {
            flags.push("-tags=seccomp,netgo,osusergo".to_owned());
        }
        flags.push("-ldflags".to_owned());
        flags.push(linker);
        flags
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::families::{COREDNS, RUNC, TRAEFIK};

    #[test]
    fn other_flags_make_another_component() {
        let mut other = RUNC;
        other.cgo = false;
        assert_ne!(RUNC.stamp(), other.stamp());
    }

    #[test]
    fn another_main_makes_another_component() {
        let mut other = COREDNS;
        other.sources = &[];
        assert_ne!(COREDNS.stamp(), other.stamp());
    }

    #[test]
    fn another_stand_in_makes_another_component() {
        let mut other = TRAEFIK;
        other.replaced = &[];
        assert_ne!(TRAEFIK.stamp(), other.stamp());
    }
}
