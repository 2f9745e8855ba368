//! The files that the lab serves instead of the release sites: one folder per host with the site's
//! own paths, so that the agent needs only a mirror's prefix.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::archive::{digest_of, pack};
use super::cache::{Cache, Stamp};
use super::families::{CNI, CONTAINERD, KUBERNETES, RUNC};
use super::golang::Family;
use super::manifests::ADDONS;
use super::official::Official;
use super::pins::{Defaults, Provided, text};
use super::platform;
use super::www::{place_of, prepared};

/// Increased when `build` below changes its result for the same inputs.
const RECIPE: &str = "4";

/// The served files and the agent's settings for them.
pub struct Site {
    /// One folder per host.
    pub www: PathBuf,
    /// TOML to merge into the agent's defaults.
    pub pins: String,
    /// The images in the manifests among the files.
    pub images: Vec<String>,
    /// kubectl among the files.
    pub kubectl: PathBuf,
}

/// How to build a pin's file if its official release cannot be reached.
#[derive(Clone, Copy)]
enum Make {
    /// A program of the family.
    Program(&'static str),
    /// An archive with all of the family's programs in the folder `bin`.
    PackInBin,
    /// An archive with all of the family's programs.
    Pack,
}

fn recipe(pin: &str) -> Option<(&'static Family, Make)> {
    Some(match pin {
        "kubeadm" => (&KUBERNETES, Make::Program("kubeadm")),
        "kubelet" => (&KUBERNETES, Make::Program("kubelet")),
        "kubectl" => (&KUBERNETES, Make::Program("kubectl")),
        "containerd" => (&CONTAINERD, Make::PackInBin),
        "runc" => (&RUNC, Make::Program("runc")),
        "cni-plugins" => (&CNI, Make::Pack),
        _ => return None,
    })
}

/// The stamp of the site's inputs.
pub fn stamp(defaults: &Defaults) -> Stamp {
    let mut inputs = vec![("recipe".to_owned(), RECIPE.as_bytes().to_vec())];
    for (name, pin) in &defaults.pins {
        let sha256 = pin.sha256.get(platform::ARCH).cloned().unwrap_or_default();
        let content = format!("{} {} {sha256}", pin.version, pin.url);
        inputs.push((name.clone(), content.into_bytes()));
        if let Some((family, _)) = recipe(name) {
            inputs.push((name.clone(), family.stamp().as_bytes().to_vec()));
        }
    }
    for buildable in ADDONS {
        let name = buildable.addon.to_owned();
        let content = format!("{:?}", defaults.addons.get(&name));
        inputs.push((name.clone(), content.into_bytes()));
        inputs.push((name, buildable.family.stamp().as_bytes().to_vec()));
    }
    Stamp::of(
        inputs
            .iter()
            .map(|(name, content)| (name.as_str(), content.as_slice())),
    )
}

/// The site, built if needed.
///
/// # Errors If a file can be neither downloaded nor built.
pub fn built(cache: &Cache, defaults: &Defaults, official: &Official) -> Result<Site> {
    let folder = cache.component("www", &stamp(defaults), |folder, log| {
        build(cache, defaults, official, folder, log)
    })?;
    let www = folder.join("site");
    let pins = fs::read_to_string(folder.join("pins.toml"))?;
    let images = fs::read_to_string(folder.join("images"))?;
    let kubectl = fs::read_to_string(folder.join("kubectl"))?;
    Ok(Site {
        kubectl: www.join(kubectl),
        www,
        pins,
        images: images.lines().map(str::to_owned).collect(),
    })
}

fn build(
    cache: &Cache,
    defaults: &Defaults,
    official: &Official,
    folder: &Path,
    log: &Path,
) -> Result<()> {
    let www = folder.join("site");
    let mut provided = BTreeMap::new();
    for (name, pin) in &defaults.pins {
        let url = pin.url(&pin.version);
        let known = pin.sha256.get(platform::ARCH);
        let pin = if let Some(sha256) = known.filter(|_| official.answers(&url)) {
            Official::fetch(&url, sha256, &prepared(&www, &url)?, log)?;
            Provided {
                version: pin.version.clone(),
                sha256: sha256.clone(),
            }
        } else {
            let Some((family, make)) = recipe(name) else {
                bail!("{url} does not answer, and the lab has no recipe to build {name}");
            };
            let file = prepared(&www, &pin.url(family.version))?;
            make_file(
                &family.built(cache)?,
                make,
                &file,
                &folder.join("packing"),
                log,
            )?;
            Provided {
                version: family.version.to_owned(),
                sha256: digest_of(&file)?,
            }
        };
        provided.insert(name.clone(), pin);
    }
    if let (Some(pin), Some(kubectl)) = (defaults.pins.get("kubectl"), provided.get("kubectl")) {
        let place = place_of(Path::new(""), &pin.url(&kubectl.version));
        fs::write(folder.join("kubectl"), place.as_os_str().as_encoded_bytes())?;
    }
    let mut addons = BTreeMap::new();
    for buildable in ADDONS {
        let default = buildable.default(&defaults.addons)?;
        let addon = buildable.provide(cache, default, official, &www, log)?;
        addons.insert(buildable.addon, addon);
    }
    let images: Vec<&str> = addons
        .values()
        .flat_map(|addon| addon.images.iter().map(String::as_str))
        .collect();
    fs::write(folder.join("images"), images.join("\n"))?;
    fs::write(
        folder.join("pins.toml"),
        text(defaults, &provided, &addons)?,
    )?;
    Ok(())
}

fn make_file(programs: &Path, make: Make, file: &Path, work: &Path, log: &Path) -> Result<()> {
    let (prefix, folder) = match make {
        Make::Program(name) => {
            // Linked, not copied: neither is written again.
            return fs::hard_link(programs.join(name), file)
                .with_context(|| format!("take {name} from {}", programs.display()));
        }
        Make::PackInBin => ("bin", work.join("bin")),
        Make::Pack => (".", work.to_owned()),
    };
    fs::create_dir_all(&folder)?;
    let mut members = Vec::new();
    for entry in fs::read_dir(programs)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            fs::hard_link(entry.path(), folder.join(&name))?;
            members.push(format!("{prefix}/{name}"));
        }
    }
    members.sort();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    pack(work, &members, file, log)?;
    fs::remove_dir_all(work)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_pin_of_the_agent_can_be_built() {
        let defaults = Defaults::read().unwrap();
        assert!(!defaults.pins.is_empty());
        for name in defaults.pins.keys() {
            assert!(recipe(name).is_some(), "{name}");
        }
        assert_eq!(defaults.kubernetes.version, KUBERNETES.version);
    }

    #[test]
    fn a_release_archive_has_the_members_of_the_official_one() {
        let dir = tempfile::tempdir().unwrap();
        let programs = dir.path().join("programs");
        fs::create_dir(&programs).unwrap();
        for name in ["ctr", "containerd", ".stamp"] {
            fs::write(programs.join(name), name).unwrap();
        }
        let members = |make| {
            let file = dir.path().join("archive.tgz");
            let work = dir.path().join("packing");
            make_file(&programs, make, &file, &work, &dir.path().join("log")).unwrap();
            assert!(!work.exists());
            let unpacked = flate2::read::GzDecoder::new(fs::File::open(file).unwrap());
            let mut archive = tar::Archive::new(unpacked);
            let entries = archive.entries().unwrap();
            entries
                .map(|entry| entry.unwrap().path_bytes().to_vec())
                .map(|path| String::from_utf8(path).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(members(Make::PackInBin), ["bin/containerd", "bin/ctr"]);
        assert_eq!(members(Make::Pack), ["./containerd", "./ctr"]);
    }
}
