//! A worker that queries the API through its own balancer, again and again.

use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, until};

/// The service account that asks; its tokens outlive every certificate.
const ACCOUNT: &str = "e2e-asks";

/// A query and how often it is repeated.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Distinguishes several queries of one worker.
    pub name: &'static str,
    /// kubectl's arguments; `$at` is the time in nanoseconds.
    pub words: &'static str,
    /// The pause after each answer, in seconds.
    pub pause: &'static str,
}

/// Reads all nodes.
pub const READ: Question = Question {
    name: "reads",
    words: "get nodes -o name",
    pause: "0.2",
};

/// Writes to a ConfigMap, which [`start`] creates.
pub const WRITE: Question = Question {
    name: "writes",
    words: "patch configmap e2e-writes --type=merge -p \"{\\\"data\\\":{\\\"at\\\":\\\"$at\\\"}}\"",
    pause: "1",
};

/// Asks until it is dropped.
pub struct Asking<'a> {
    stage: &'a Stage,
    worker: &'a str,
    question: Question,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let unit = self.unit();
        let stop = ["exec", self.worker, "--", "systemctl", "stop", &unit];
        let _ = self.stage.try_lab(&stop);
    }
}

/// Returns after the first answer.
pub fn start<'a>(
    stage: &'a Stage,
    worker: &'a str,
    question: Question,
) -> Result<Asking<'a>, Failed> {
    stage.install_kubectl(worker)?;
    let asking = Asking {
        stage,
        worker,
        question,
    };
    for object in [
        &["serviceaccount", ACCOUNT][..],
        &["configmap", "e2e-writes"],
        &[
            "clusterrolebinding",
            ACCOUNT,
            "--clusterrole=cluster-admin",
            "--serviceaccount=default:e2e-asks",
        ],
    ] {
        if stage.kubectl(&[&["get"], &object[..2]].concat()).is_err() {
            stage.kubectl(&[&["create"], object].concat())?;
        }
    }
    let token = stage.kubectl(&["create", "token", ACCOUNT, "--duration=24h"])?;
    let (unit, asked) = (asking.unit(), asking.file());
    let (words, pause) = (question.words, question.pause);
    let kubectl = format!(
        "kubectl --server=https://127.0.0.1:7443 --certificate-authority=/etc/kubernetes/pki/ca.crt \
         --token=$(cat {asked}-token) --request-timeout=10s"
    );
    let line = format!(
        "while :; do at=$(date +%s%N); {kubectl} {words} >/dev/null 2>{asked}-error && word=ok || word=failed; \
         echo $word $(( ($(date +%s%N) - at) / 1000000 )) \"$(head -c 200 {asked}-error | tr '\\n' ' ')\"; sleep {pause}; done"
    );
    stage.shell(
        worker,
        &format!("umask 077; printf %s '{}' > {asked}-token", token.trim()),
    )?;
    stage.exec(
        worker,
        &[
            "systemd-run",
            "--quiet",
            "--collect",
            &format!("--unit={unit}"),
            &format!("--property=StandardOutput=append:{asked}"),
            "sh",
            "-c",
            &line,
        ],
    )?;
    until(30, "the first answer", || asking.answers(1).map(drop))?;
    Ok(asking)
}

impl Asking<'_> {
    fn unit(&self) -> String {
        format!("e2e-{}", self.question.name)
    }

    fn file(&self) -> String {
        format!("/run/{}", self.unit())
    }

    /// The answers so far, after at least `good` good ones.
    fn answers(&self, good: usize) -> Result<Vec<String>, Failed> {
        let asked = self
            .stage
            .shell(self.worker, &format!("cat {}", self.file()))?;
        let lines: Vec<String> = asked.lines().map(str::to_owned).collect();
        let ok = good_ones(&lines);
        ensure(
            ok >= good,
            format!("{ok} of {good} good answers: {lines:?}"),
        )?;
        Ok(lines)
    }

    /// Waits for ten more good answers; returns how many there were since the last call, and
    /// those that failed.
    pub fn failures(&self) -> Result<(usize, Vec<String>), Failed> {
        let so_far = good_ones(&self.answers(0)?);
        let lines = until(60, "answers", || self.answers(so_far + 10))?;
        self.stage
            .shell(self.worker, &format!(": > {}", self.file()))?;
        let good = good_ones(&lines);
        let failed = lines.into_iter().filter(|line| line.starts_with("failed"));
        Ok((good, failed.collect()))
    }
}

fn good_ones(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.starts_with("ok ")).count()
}
