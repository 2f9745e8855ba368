//! Commands inside a virtual machine, through QEMU's guest agent: they work without a network.
//! Protocol: <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// How long the guest agent may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How often to ask whether a command has ended: the guest agent sends no events.
const LOOK: Duration = Duration::from_millis(100);

/// Sends one request on a connection of its own, and returns the answer: the socket serves one
/// client at a time.
pub fn request(socket: &Path, name: &str, arguments: &Value) -> Result<Value> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    // An earlier client may have left before its answer came, so everything before the answer with
    // this request's number is skipped.
    let id = std::process::id();
    let sync = json!({"execute": "guest-sync-delimited", "arguments": {"id": id}});
    send(&mut writer, &sync)?;
    while receive(&mut reader)?["return"] != id {}
    send(
        &mut writer,
        &json!({"execute": name, "arguments": arguments}),
    )?;
    let answer = receive(&mut reader)?;
    if answer["error"].is_object() {
        bail!("{name}: {}", answer["error"]["desc"]);
    }
    Ok(answer["return"].clone())
}

fn send(writer: &mut impl Write, message: &Value) -> Result<()> {
    writer
        .write_all(format!("{message}\n").as_bytes())
        .context("the guest agent's socket closed")
}

/// Reads a line that is JSON. The answer to a sync begins with the byte 0xff, and what comes before
/// may be cut off.
fn receive(reader: &mut impl BufRead) -> Result<Value> {
    loop {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line);
        if read.context("the guest agent does not answer")? == 0 {
            bail!("the guest agent's socket closed");
        }
        let start = line.iter().rposition(|byte| *byte == 0xff);
        let message = line.get(start.map_or(0, |at| at + 1)..).unwrap_or_default();
        if let Ok(value) = serde_json::from_slice(message) {
            return Ok(value);
        }
    }
}

/// Whether the guest agent answers.
pub fn is_up(socket: &Path) -> bool {
    request(socket, "guest-ping", &json!({})).is_ok()
}

/// Runs a command and collects what it prints.
pub fn output(socket: &Path, words: &[&str], environment: &[&str]) -> Result<Output> {
    let started = json!({
        "path": "/usr/bin/env",
        "arg": words,
        "env": environment,
        "capture-output": true,
    });
    let started = request(socket, "guest-exec", &started)?;
    loop {
        let status = request(socket, "guest-exec-status", &json!({"pid": started["pid"]}))?;
        if status["exited"] == true {
            return ended(&status);
        }
        std::thread::sleep(LOOK);
    }
}

fn ended(status: &Value) -> Result<Output> {
    let text = |key: &str| -> Result<Vec<u8>> {
        let text = status[key].as_str().unwrap_or_default();
        STANDARD
            .decode(text)
            .with_context(|| format!("the guest agent's {key} is not base64"))
    };
    let number = |key: &str| status[key].as_i64().and_then(|n| i32::try_from(n).ok());
    let status = match (number("exitcode"), number("signal")) {
        (Some(code), _) => ExitStatus::from_raw(code << 8),
        (None, Some(signal)) => ExitStatus::from_raw(signal),
        (None, None) => {
            return Err(anyhow!(
                "the guest agent does not report whether the command has ended: {status}"
            ));
        }
    };
    Ok(Output {
        status,
        stdout: text("out-data")?,
        stderr: text("err-data")?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A guest agent that answers with these bytes, one element per request.
    fn agent(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("guest.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let sync: Value = serde_json::from_str(&line).unwrap();
                // First comes the rest of an answer that nobody has read.
                stream.write_all(b"\"pid\": 7}}\n\xff").unwrap();
                let id = &sync["arguments"]["id"];
                writeln!(stream, "{}", json!({"return": id})).unwrap();
                reader.read_line(&mut line).unwrap();
                stream.write_all(&answer).unwrap();
                stream.write_all(b"\n").unwrap();
            }
        });
        (folder, socket)
    }

    #[test]
    fn a_command_s_status_and_output_are_those_in_the_guest() {
        let out = STANDARD.encode("6.1\n");
        let answers = [
            json!({"return": {"pid": 7}}),
            json!({"return": {"exited": false}}),
            json!({"return": {"exited": true, "exitcode": 3, "out-data": out}}),
        ];
        let (_folder, socket) = agent(answers.map(|a| a.to_string().into_bytes()).to_vec());
        let output = output(&socket, &["uname", "-r"], &[]).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"6.1\n");
        assert_eq!(output.stderr, b"");
    }

    #[test]
    fn an_error_of_the_guest_agent_is_named_with_its_request() {
        let answer = json!({"error": {"class": "GenericError", "desc": "no such program"}});
        let (_folder, socket) = agent(vec![answer.to_string().into_bytes()]);
        let error = output(&socket, &["x"], &[]).unwrap_err().to_string();
        assert!(error.contains("guest-exec"), "{error}");
        assert!(error.contains("no such program"), "{error}");
    }
}
