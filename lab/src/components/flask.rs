//! The image of the application's Flask twin, for the bench only: the same as from
//! bench/flask/Dockerfile, but with Debian's Python and wheels and without a container engine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cache::{Cache, Stamp};
use super::command::{nice, run};
use super::debian::{self, Debian, with_libraries};
use super::image::{self, Image, Node};
use super::registry::Storage;

/// Its name in bench/flask.yaml. No public registry has it.
pub const FLASK: &str = "docker.io/lab/visits-flask:1";
/// Debian's Python, and the name of its library folder under /usr/lib.
const PYTHON: &str = "python3.11";
/// Where that Python looks for packages that are not Debian's.
const WHEELS: &str = "usr/local/lib/python3.11/dist-packages";
/// The folder of the application's files in the image.
const FOLDER: &str = "srv";
/// As in bench/flask/Dockerfile.
const USER: &str = "65532:65532";
/// As in bench/flask/Dockerfile.
const PORT: u16 = 8080;
/// As in bench/flask/Dockerfile.
const ENTRYPOINT: [&str; 6] = [
    "python3",
    "-m",
    "gunicorn",
    "--config",
    "/srv/gunicorn.conf.py",
    "app:app",
];

/// Increased when `built` below changes its result for the same inputs.
const RECIPE: &str = "1";

/// The folder with Python's library and the compiled wheels, as in the image: half a minute, once
/// per list of requirements.
///
/// # Errors If the package index does not answer, or a wheel does not fit Debian's Python.
pub fn built(cache: &Cache, repository: &Path, debian: &Debian) -> Result<PathBuf> {
    let list = source(repository).join("requirements.txt");
    let requirements = fs::read(&list).with_context(|| format!("read {}", list.display()))?;
    let programs = debian::programs_stamp();
    let stamp = Stamp::of([
        ("recipe", RECIPE.as_bytes()),
        ("requirements", requirements.as_slice()),
        ("debian", programs.as_bytes()),
    ]);
    cache.component("flask", &stamp, |folder, log| {
        let library = folder.join("usr/lib");
        let wheels = folder.join(WHEELS);
        fs::create_dir_all(&library)?;
        fs::create_dir_all(&wheels)?;
        let debian_s = debian.tools.join("usr/lib").join(PYTHON);
        run(nice("cp").arg("--archive").arg(debian_s).arg(&library), log)?;
        install(&list, &wheels, folder, log)?;
        compile(folder, &debian.tools, log)
    })
}

/// Stores the image in the registry's folder. The application's files change more often than their
/// base, so they are read each time.
///
/// # Errors If one of its files cannot be read.
pub fn store(
    folder: &Path,
    repository: &Path,
    debian: &Debian,
    registry: &Path,
    work: &Path,
) -> Result<()> {
    let blobs = image::build(&of(folder, repository, debian)?, work)?;
    let (_, name, tag) = image::parse(FLASK)?;
    Storage::new(registry).add(name, tag, &blobs, work)
}

fn source(repository: &Path) -> PathBuf {
    repository.join("bench/flask")
}

fn install(requirements: &Path, wheels: &Path, folder: &Path, log: &Path) -> Result<()> {
    let environment = folder.join(".pip");
    run(nice("python3").args(["-m", "venv"]).arg(&environment), log)
        .context("make an environment for pip: is python3-venv installed?")?;
    // For the image's Python, not for this machine's, which may be a different version.
    let mut pip = nice(&environment.join("bin/pip").to_string_lossy());
    pip.args(["install", "--quiet", "--no-compile", "--no-deps"])
        .args(["--only-binary=:all:", "--implementation=cp"])
        .args(["--python-version=3.11", "--abi=cp311"])
        .arg(format!(
            "--platform=manylinux2014_{}",
            std::env::consts::ARCH
        ))
        .arg("--target")
        .arg(wheels)
        .arg("--requirement")
        .arg(requirements);
    run(&mut pip, log).context("fetch the wheels")?;
    fs::remove_dir_all(environment)?;
    Ok(())
}

/// Compiles the sources ahead, because the image's file system is read-only. Marked by hash and not
/// by time, because all files in the image have the same time.
fn compile(folder: &Path, root: &Path, log: &Path) -> Result<()> {
    let script = "mount --bind \"$1\" \"$2/mnt\"
        exec chroot \"$2\" \"$3\" -m compileall -q -f -x 'lib2to3/tests' \
            --invalidation-mode unchecked-hash /mnt";
    let mut python = nice("unshare");
    python
        .args(["--mount", "--propagation", "private", "sh", "-euc", script])
        .arg("compile")
        .arg(folder)
        .arg(root)
        .arg(PYTHON);
    run(&mut python, log).context("compile Python's sources")
}

fn of(folder: &Path, repository: &Path, debian: &Debian) -> Result<Image> {
    let mut programs = vec![format!("/usr/bin/{PYTHON}")];
    let dynamic = format!("usr/lib/{PYTHON}/lib-dynload");
    for entry in fs::read_dir(debian.tools.join(&dynamic)).context("list Python's modules")? {
        let name = entry?.file_name();
        programs.push(format!("/{dynamic}/{}", name.to_string_lossy()));
    }
    programs.sort();
    let mut image = Image::new(FLASK)
        .with_all(with_libraries(&debian.tools, &programs)?)
        .with("usr/bin/python3", Node::Symlink(PYTHON.to_owned()));
    for (path, file) in files(&folder.join("usr"))? {
        image = image.with(&format!("usr/{path}"), Node::Program(file));
    }
    application(image, repository)
}

/// The image with the application's files.
fn application(mut image: Image, repository: &Path) -> Result<Image> {
    let mut texts = vec![];
    for name in ["app.py", "gunicorn.conf.py"] {
        texts.push((name.to_owned(), source(repository).join(name)));
    }
    for (name, file) in files(&repository.join("app/templates"))? {
        texts.push((format!("templates/{name}"), file));
    }
    for (name, file) in texts {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        image = image.with(&format!("{FOLDER}/{name}"), Node::Text(text, 0o644));
    }
    image.entrypoint = ENTRYPOINT.map(str::to_owned).to_vec();
    USER.clone_into(&mut image.user);
    image.ports = vec![PORT];
    Ok(image)
}

/// The files below `folder`, each with its relative path.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = fs::read_dir(&next).with_context(|| format!("list {}", next.display()))?;
        for entry in entries {
            let path = entry?.path();
            // Debian links a module to a configuration file that the image does not have.
            if fs::read_link(&path).is_ok_and(|target| target.is_absolute()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(name) = path.strip_prefix(folder) {
                found.push((name.to_string_lossy().into_owned(), path));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::Value;

    use super::*;

    fn repository() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn the_image_is_what_the_dockerfile_makes() {
        let dockerfile = fs::read_to_string(source(repository()).join("Dockerfile")).unwrap();
        let argument = |instruction: &str| {
            let line = dockerfile
                .lines()
                .find(|line| line.starts_with(instruction));
            line.unwrap().split_once(' ').unwrap().1.to_owned()
        };
        let image = application(Image::scratch(FLASK), repository()).unwrap();
        assert_eq!(image.user, argument("USER"));
        assert_eq!(
            format!("{:?}", image.ports),
            format!("[{}]", argument("EXPOSE"))
        );
        let entrypoint: Value = serde_json::from_str(&argument("ENTRYPOINT")).unwrap();
        assert_eq!(serde_json::json!(image.entrypoint), entrypoint);
        assert!(argument("FROM").contains("python:3.11-"));
        assert!(image.files.contains_key("srv/app.py"));
        assert!(image.files.contains_key("srv/gunicorn.conf.py"));
    }

    #[test]
    fn the_twin_has_the_application_s_own_templates() {
        let image = application(Image::scratch(FLASK), repository()).unwrap();
        for name in ["index.html", "base.html"] {
            let ours = fs::read_to_string(repository().join("app/templates").join(name)).unwrap();
            let theirs = &image.files[&format!("srv/templates/{name}")];
            assert_eq!(theirs, &Node::Text(ours, 0o644), "{name}");
        }
    }

    #[test]
    fn every_requirement_is_pinned() {
        let list = fs::read_to_string(source(repository()).join("requirements.txt")).unwrap();
        let pins: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(pins.len() >= 3);
        assert!(pins.iter().all(|pin| pin.contains("==")), "{pins:?}");
    }
}
