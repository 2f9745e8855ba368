//! The application's image: only the static binary, as in app/Dockerfile, but built without a
//! container engine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::command::{nice, run};
use super::image::{self, Image, Node};
use super::registry::Storage;

/// Its name in the lab's registry. No public registry has it.
pub const VISITS: &str = "docker.io/lab/visits:1";
/// Maximum size of the image in bytes.
const LARGEST: u64 = 10_000_000;
/// As in app/Dockerfile.
const USER: &str = "65532:65532";
/// As in app/Dockerfile.
const PORT: u16 = 8080;

/// The release binary: `LAB_VISITS`, else built here, which takes a fraction of a second if nothing
/// changed. A stale one would hide recent changes of the code.
///
/// # Errors If it does not build.
pub fn binary(repository: &Path, log: &Path) -> Result<PathBuf> {
    if let Some(named) = env::var_os("LAB_VISITS") {
        return Ok(named.into());
    }
    // The cargo that started the lab, if one did.
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = nice(&cargo);
    build
        .args(["build", "--release", "--locked", "--package", "visits"])
        .current_dir(repository);
    run(&mut build, log).context("build the application")?;
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    Ok(repository
        .join("target")
        .join(triple)
        .join("release/visits"))
}

/// Stores the image of `binary` in the registry's folder.
///
/// # Errors If the binary does not exist, is too large or is not linked statically.
pub fn store(binary: &Path, registry: &Path, work: &Path) -> Result<()> {
    let bytes = fs::read(binary)
        .with_context(|| format!("read the application's binary {}", binary.display()))?;
    let length = bytes.len() as u64;
    if length > LARGEST {
        bail!(
            "{} has {length} bytes, and the application's image may have {LARGEST}: \
             is it a release build?",
            binary.display()
        );
    }
    let blobs = image::build(&of(binary), work)?;
    let (_, repository, tag) = image::parse(VISITS)?;
    Storage::new(registry).add(repository, tag, &blobs, work)
}

/// Writes the image of `binary` as an archive.
///
/// # Errors If the binary does not exist, or the archive cannot be written.
pub fn archive(binary: &Path, output: &Path) -> Result<()> {
    image::archive(&of(binary), output)
}

fn of(binary: &Path) -> Image {
    let mut image = Image::scratch(VISITS)
        .with("visits", Node::Program(binary.to_owned()))
        .run_by("/visits");
    USER.clone_into(&mut image.user);
    image.ports = vec![PORT];
    image
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_image_is_what_the_dockerfile_makes() {
        let dockerfile = include_str!("../../../app/Dockerfile");
        let (_, last) = dockerfile.split_once("\nFROM scratch\n").unwrap();
        let argument = |instruction: &str| {
            let line = last.lines().find(|line| line.starts_with(instruction));
            line.unwrap().rsplit(' ').next().unwrap().to_owned()
        };
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("binary");
        fs::write(&binary, "binary").unwrap();
        let image = of(&binary);
        assert_eq!(
            image.files.keys().collect::<Vec<_>>(),
            [argument("COPY").trim_start_matches('/')]
        );

        let blobs = image::build(&image, dir.path()).unwrap();
        let config = fs::read(dir.path().join(&blobs.digests[0])).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let config = &config["config"];
        assert_eq!(config["User"], argument("USER").as_str());
        let entrypoint: Value = serde_json::from_str(&argument("ENTRYPOINT")).unwrap();
        assert_eq!(config["Entrypoint"], entrypoint);
        let port = format!("{}/tcp", argument("EXPOSE"));
        let ports = config["ExposedPorts"].as_object().unwrap();
        assert_eq!(ports.keys().collect::<Vec<_>>(), [&port]);
    }

    #[test]
    fn the_archive_is_one_that_registries_are_filled_from() {
        let dir = tempfile::tempdir().unwrap();
        let (binary, output) = (dir.path().join("binary"), dir.path().join("visits.tar"));
        fs::write(&binary, "binary").unwrap();
        archive(&binary, &output).unwrap();
        let first = fs::read(&output).unwrap();
        archive(&binary, &output).unwrap();
        assert_eq!(fs::read(&output).unwrap(), first, "not reproducible");
        let skopeo = std::process::Command::new("skopeo")
            .arg("inspect")
            .arg(format!("oci-archive:{}", output.display()))
            .output()
            .expect("skopeo, which lab/packages.sh installs");
        assert!(skopeo.status.success(), "{skopeo:?}");
        let shown: Value = serde_json::from_slice(&skopeo.stdout).unwrap();
        assert_eq!(shown["Os"], "linux");
        assert_eq!(shown["Layers"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_binary_beyond_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("visits");
        let file = fs::File::create(&binary).unwrap();
        file.set_len(LARGEST + 1).unwrap();
        let error = store(&binary, dir.path(), dir.path()).unwrap_err();
        assert!(error.to_string().contains("release build"), "{error}");
    }
}
