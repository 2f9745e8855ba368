//! The sites and registries that components are published on, if this machine can reach them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use super::archive::digest_of;
use super::command::{nice, run};

/// Remembers which hosts answered, so that a silent host costs its time-out once and not for each
/// of its files.
#[derive(Default)]
pub struct Official {
    answers: Mutex<HashMap<String, bool>>,
}

impl Official {
    /// Whether the host of `url` answers: each host is asked only once.
    pub fn answers(&self, url: &str) -> bool {
        let host = host_of(url).to_owned();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry(host).or_insert_with(|| probe(url))
    }

    /// Downloads `url` to `file`, and resumes an interrupted attempt.
    ///
    /// # Errors If it cannot be downloaded, or its digest is not `sha256`.
    pub fn fetch(url: &str, sha256: &str, file: &Path, log: &Path) -> Result<()> {
        let mut curl = nice("curl");
        curl.args(["-fsSL", "--retry", "4", "--continue-at", "-"])
            .args(["--connect-timeout", "10", "--speed-time", "60"])
            .args(["--speed-limit", "1000", "--output"])
            .arg(file)
            .arg(url);
        run(&mut curl, log).with_context(|| format!("download {url}"))?;
        let found = digest_of(file)?;
        if found != sha256 {
            fs::remove_file(file)?;
            bail!("{url} has the sha256 {found}, but {sha256} was expected");
        }
        // Many of the files are programs.
        fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Copies an image for this architecture into `folder`: manifest.json, and one file per blob,
    /// named by its digest.
    ///
    /// # Errors If the registry does not provide it.
    pub fn pull(image: &str, folder: &Path, log: &Path) -> Result<()> {
        let mut skopeo = nice("skopeo");
        skopeo
            .args(["copy", "--quiet", "--retry-times", "3"])
            .arg(format!("docker://{image}"))
            .arg(format!("dir:{}", folder.display()));
        run(&mut skopeo, log).with_context(|| format!("pull {image}"))
    }
}

/// `host[:port]` of a URL.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

/// Registries first ask for a token (401): that counts as an answer too.
fn probe(url: &str) -> bool {
    let status = Command::new("curl")
        .args(["-sSIL", "--connect-timeout", "3", "--max-time", "15"])
        .args(["--output", "/dev/null", "--write-out", "%{http_code}", url])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let answers = matches!(status.trim(), "200" | "401");
    tracing::debug!(url, status, answers, "asked an official site");
    answers
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers `replies`, one per connection, and ends.
    fn site(replies: Vec<&'static str>) -> (String, thread::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = thread::spawn(move || {
            let mut count = 0;
            for reply in replies {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(reply.as_bytes()).unwrap();
                count += 1;
            }
            count
        });
        (url, served)
    }

    #[test]
    fn a_host_is_asked_once() {
        let (url, served) = site(vec!["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"]);
        let official = Official::default();
        assert!(official.answers(&format!("{url}/one")));
        assert_eq!(served.join().unwrap(), 1);
        // Nothing listens any more: the answer is remembered.
        assert!(official.answers(&format!("{url}/two")));
        assert!(!Official::default().answers(&format!("{url}/one")));
    }

    #[test]
    fn a_file_with_another_digest_is_refused_and_removed() {
        let (url, served) = site(vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfake",
        ]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kubeadm");
        let expected = "a".repeat(64);
        let error = Official::fetch(&url, &expected, &file, &dir.path().join("log"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&expected), "{error}");
        assert!(!file.exists());
        served.join().unwrap();
    }

    #[test]
    fn the_host_of_an_image_and_of_a_url() {
        assert_eq!(host_of("https://dl.k8s.io/release/x"), "dl.k8s.io");
        assert_eq!(host_of("127.0.0.1:5000/v2/"), "127.0.0.1:5000");
    }
}
