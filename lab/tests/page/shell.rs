//! A shell whose AWS is moto.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

use lab::{ec2::moto, layout::Layout, userdata::agent_binary};
use tempfile::TempDir;
use tokio::process::Child;

/// The longest statement, in seconds; most take one.
const DEADLINE: &str = "120";

/// `skopeo login` without a registry: it must get a password.
const SKOPEO: &str = "#!/bin/sh\ntest -n \"$(cat)\"\n";

/// A folder in which statements run one after the other, as in one terminal.
pub struct Shell {
    folder: TempDir,
    path: String,
    endpoint: String,
    _moto: Child,
}

impl Shell {
    /// Starts a moto of its own, which ends with this value. The folder has what `make dist` makes.
    pub async fn start(layout: &Layout) -> Self {
        moto::install(layout).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let moto = moto::serve(layout, port, &at("moto.log")).await.unwrap();
        fs::create_dir_all(at("target/dist")).unwrap();
        let agent = agent_binary(layout).unwrap();
        symlink(agent, at("target/dist/k8s-bootstrap-linux-amd64")).unwrap();
        fs::create_dir(at("bin")).unwrap();
        fs::write(at("bin/skopeo"), SKOPEO).unwrap();
        fs::set_permissions(at("bin/skopeo"), fs::Permissions::from_mode(0o755)).unwrap();
        let programs = moto::programs(layout);
        Self {
            path: format!(
                "{}:{}:/usr/bin:/bin",
                at("bin").display(),
                programs.display()
            ),
            endpoint: format!("http://127.0.0.1:{port}"),
            folder,
            _moto: moto,
        }
    }

    /// Where statements run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a statement with the variables of those before it. Of a pipe each part must succeed.
    /// A region is not set: that is left to the statements.
    pub fn run(&self, statement: &str) -> Output {
        let script = format!(
            "set -o pipefail -o allexport\n[ ! -e variables ] || . ./variables\n{statement}\n\
             _status=$?; export -p > variables; exit $_status"
        );
        Command::new("timeout")
            .args(["--kill-after=5", DEADLINE, "bash", "-c", &script])
            .current_dir(self.folder())
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", self.folder())
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            // What moto cannot do it cannot do the fifth time either.
            .env("AWS_MAX_ATTEMPTS", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What a statement of the test itself prints; it must succeed.
    pub fn ask(&self, statement: &str) -> Result<String, String> {
        let output = self.run(statement);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("the test's own `{statement}`: {said}"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
