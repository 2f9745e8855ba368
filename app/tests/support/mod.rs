//! A Redis, the program and a client of it, each ended when dropped.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{BufRead, BufReader, Error, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Far above anything that a slow machine needs; reaching it is a failure.
const DEADLINE: Duration = Duration::from_mins(1);

/// Asks until `holds`.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether `program` is there. Without it a test is skipped, but not where CI runs.
pub fn installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        let said = format!("skipped: no {program} in PATH; app/packages.sh installs it");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{said}");
        eprintln!("{said}");
    }
    found
}

/// A server with an append-only file, on a port of its own.
pub struct Redis {
    port: u16,
    folder: TempDir,
    child: Child,
}

impl Redis {
    /// Starts one, or says that it is skipped.
    pub fn start() -> Option<Self> {
        if !installed("redis-server") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // Another program may take the port before Redis does; then the next is tried.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let mut child = Self::spawn(port, &folder);
            if Self::answers(port, &mut child) {
                return Some(Self {
                    port,
                    folder,
                    child,
                });
            }
        }
        panic!("redis-server finds no port");
    }

    fn spawn(port: u16, folder: &TempDir) -> Child {
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--appendonly", "yes", "--appendfsync", "everysec"])
            .args(["--save", "", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn answers(port: u16, child: &mut Child) -> bool {
        let end = Instant::now() + DEADLINE;
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if pong(port).is_ok_and(|pong| pong) {
                return true;
            }
            assert!(Instant::now() < end, "redis-server does not answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// As in `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it without a chance to save anything.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it on the same port and file.
    pub fn run_again(&mut self) {
        self.child = Self::spawn(self.port, &self.folder);
        assert!(Self::answers(self.port, &mut self.child));
    }
}

fn pong(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG\r\n")
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The program, on a port of its own.
pub struct App {
    /// Where it answers.
    pub address: SocketAddr,
    child: std::sync::Mutex<Child>,
}

impl App {
    fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_visits"));
        command
            .env_clear()
            .env("LISTEN", "127.0.0.1:0")
            .env("POD_NAME", "pod-under-test")
            .env("NODE_NAME", "node-under-test")
            .env("DRAIN_SECONDS", "2")
            .stderr(Stdio::piped());
        command
    }

    /// Starts one and waits until it listens.
    pub fn start(redis: &str) -> Self {
        let mut child = Self::command().env("REDIS_URL", redis).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended at once");
            if let Some((_, rest)) = line.split_once("address=") {
                break rest.split(' ').next().unwrap().parse().unwrap();
            }
        };
        // A full pipe would stop it.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        Self {
            address,
            child: std::sync::Mutex::new(child),
        }
    }

    /// How it ends with these settings, and what it says.
    pub fn refuses(settings: &[(&str, &str)]) -> (ExitStatus, String) {
        let output = Self::command()
            .envs(settings.iter().copied())
            .output()
            .unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// Waits for /readyz.
    pub fn becomes_ready(&self) {
        eventually("/readyz is 200", || self.get("/readyz").status == 200);
    }

    /// One page over a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        Connection::open(self.address).get(path).unwrap()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.lock().unwrap().id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }

    /// Waits for its end.
    pub fn ends(&self) -> ExitStatus {
        eventually("it ends", || {
            self.child.lock().unwrap().try_wait().unwrap().is_some()
        });
        self.child.lock().unwrap().wait().unwrap()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ended = child.kill();
        let _reaped = child.wait();
    }
}

/// An HTTP/1.1 connection that is kept open.
pub struct Connection(BufReader<TcpStream>);

/// What came back.
pub struct Answer {
    pub status: u16,
    /// Whether the server closes the connection after this answer.
    pub closes: bool,
    pub body: String,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn get(&mut self, path: &str) -> Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: visits\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut status = None;
        let mut length = 0;
        let mut closes = false;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(Error::other(format!("closed instead of answering {path}")));
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            match line.split_once(": ") {
                None => status = line.split(' ').nth(1).and_then(|code| code.parse().ok()),
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("connection", value)) => closes = value == "close",
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Answer {
            status: status.unwrap(),
            closes,
            body: String::from_utf8(body).unwrap(),
        })
    }
}

impl Answer {
    /// The value of the page's `<data>` element of this id.
    pub fn number(&self, id: &str) -> Option<u64> {
        let (_, rest) = self
            .body
            .split_once(&format!("<data id=\"{id}\" value=\""))?;
        rest.split('"').next()?.parse().ok()
    }
}
