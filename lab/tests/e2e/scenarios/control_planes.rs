//! Several control planes: they join at once, an API server dies, a machine dies, and a
//! successor takes its place. The nodes notice little of it.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::stage::{Stage, ensure, json, list, text, until};

/// Where the scenarios leave a worker's administrator's kubeconfig, for requests that go
/// through that worker's own balancer.
const KUBECONFIG: &str = "/run/e2e-kubeconfig";

/// A worker that asks the API through its balancer again and again, until this is dropped.
pub struct Asking<'a> {
    stage: &'a Stage,
    worker: &'a str,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let stop = ["exec", self.worker, "--", "systemctl", "stop", "e2e-asks"];
        let _ = self.stage.try_lab(&stop);
    }
}

pub fn ask_through_the_balancer<'a>(
    stage: &'a Stage,
    worker: &'a str,
    request: &str,
) -> Result<Asking<'a>, Failed> {
    let printed = stage.exec(
        "cp1",
        &["k8s-bootstrap", "kubeconfig", "--server", "127.0.0.1:7443"],
    )?;
    stage.shell(
        worker,
        &format!("umask 077; cat > {KUBECONFIG} <<'END'\n{printed}END"),
    )?;
    let kubectl = format!("kubectl --kubeconfig={KUBECONFIG} --request-timeout=10s");
    let line = format!(
        "while :; do at=$(date +%s%N); {kubectl} {request} >/dev/null 2>/run/e2e-error && word=ok || word=failed; \
         echo $word $(( ($(date +%s%N) - at) / 1000000 )) \"$(head -c 200 /run/e2e-error | tr '\\n' ' ')\"; sleep 0.2; done"
    );
    stage.exec(
        worker,
        &[
            "systemd-run",
            "--quiet",
            "--collect",
            "--unit=e2e-asks",
            "--property=StandardOutput=append:/run/e2e-asked",
            "sh",
            "-c",
            &line,
        ],
    )?;
    let asking = Asking { stage, worker };
    until(30, "the first answer", || {
        answers(stage, worker, 1).map(drop)
    })?;
    Ok(asking)
}

/// The answers so far, once there are at least so many good ones.
fn answers(stage: &Stage, worker: &str, good: usize) -> Result<Vec<String>, Failed> {
    let asked = stage.shell(worker, "cat /run/e2e-asked")?;
    let lines: Vec<String> = asked.lines().map(str::to_owned).collect();
    let ok = lines.iter().filter(|line| line.starts_with("ok ")).count();
    ensure(
        ok >= good,
        format!("{ok} of {good} good answers: {lines:?}"),
    )?;
    Ok(lines)
}

/// Waits for ten more good answers, and gives those that failed since the last call.
pub fn failures(stage: &Stage, worker: &str) -> Result<Vec<String>, Failed> {
    let good = |lines: &[String]| lines.iter().filter(|l| l.starts_with("ok ")).count();
    let so_far = good(&answers(stage, worker, 0)?);
    let lines = until(60, "answers", || answers(stage, worker, so_far + 10))?;
    stage.shell(worker, ": > /run/e2e-asked")?;
    Ok(lines
        .into_iter()
        .filter(|line| line.starts_with("failed"))
        .collect())
}

/// etcd's members as a control plane sees them: all of them healthy voters, so many.
fn voters(stage: &Stage, machine: &str, count: usize) -> Result<Vec<String>, Failed> {
    let said = json(&stage.exec(machine, &["k8s-bootstrap", "etcd", "members", "--json"])?)?;
    let members = list(&said);
    let whole = |member: &&Value| member["learner"] == false && member["healthy"] == true;
    ensure(
        members.len() == count && members.iter().filter(whole).count() == count,
        format!("members: {said}"),
    )?;
    Ok(members.iter().map(|member| text(&member["name"])).collect())
}

/// Which of these machines claimed to found their cluster.
fn founder<'a>(stage: &Stage, machines: &'a [String]) -> Result<&'a String, Failed> {
    until(120, "a claim to found the cluster", || {
        for machine in machines {
            let claimed = |e: &Value| text(&e["MESSAGE"]).starts_with("claim 1 to found");
            if stage.journal(machine)?.iter().any(claimed) {
                return Ok(machine);
            }
        }
        Err("nobody has claimed yet".into())
    })
}

/// A cluster's name, and which entry of its founder's journal shows that the time has come.
type Death = (&'static str, fn(&Value) -> bool);

/// Beside the scenarios' own cluster, three that come to have one control plane each.
pub const LONE: [&str; 3] = [DIES_EARLY[0].0, DIES_EARLY[1].0, "dies-not"];

/// In two of them the founder dies in its first minute.
const DIES_EARLY: [Death; 2] = [
    ("dies-before-initialized", |e| e["PHASE"] == "api-ready"),
    ("dies-once-initialized", |e| {
        e["PHASE"] == "record-cluster" && !e["DURATION_MS"].is_null()
    }),
];

pub fn founders_die_before_and_after_they_have_recorded_their_clusters(
    stage: &Stage,
) -> Result<(), Failed> {
    for (cluster, reached) in DIES_EARLY {
        let tag = format!("k8s-bootstrap:cluster={cluster}");
        let launch = ["launch", "--role", "control-plane", "--count", "2"];
        stage.lab(&[&launch[..], &["--until", "booted", "--tag", &tag]].concat())?;
        let pair = stage.control_planes_of(cluster)?;
        let founder = founder(stage, &pair)?;
        until(180, cluster, || {
            let reached = stage.journal(founder)?.iter().any(reached);
            ensure(reached, format!("{founder} has not come so far"))
        })?;
        stage.lab(&["terminate", "--hard", founder])?;
    }
    let tag = format!("k8s-bootstrap:cluster={}", LONE[2]);
    stage.launch_as("control-plane", &["--tag", &tag]).map(drop)
}

/// What the founders leave holds nothing yet, so that the others found clusters of their own.
pub fn their_followers_have_founded_clusters_of_their_own(stage: &Stage) -> Result<(), Failed> {
    for (cluster, _) in DIES_EARLY {
        let left = stage.control_planes_of(cluster)?;
        let [follower] = &left[..] else {
            return Err(format!("in {cluster} are left {left:?}").into());
        };
        until(480, cluster, || {
            let status = stage.agent(follower)?;
            ensure(
                status["stage"] == "ready",
                format!("{follower} says {}", status["message"]),
            )
        })?;
        let claims = |e: &Value| text(&e["MESSAGE"]).starts_with("claim 2 to found");
        ensure(
            stage.journal(follower)?.iter().any(claims),
            format!("{follower} did not found a cluster"),
        )?;
        voters(stage, follower, 1)?;
    }
    Ok(())
}

/// With its only API server gone a node says so, and it recovers by itself.
pub fn without_any_api_server_a_node_says_so_and_recovers(stage: &Stage) -> Result<(), Failed> {
    let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    let aside = "/etc/kubernetes/kube-apiserver.yaml";
    stage.shell("cp1", &format!("mv {manifest} {aside}"))?;
    let said = until(120, "the worker's word", || {
        let status = stage.agent("w1")?;
        let message = text(&status["message"]);
        ensure(
            status["stage"] == "degraded"
                && message.contains("no API server is ready: tried 10.42.0."),
            message,
        )
    });
    stage.shell("cp1", &format!("mv {aside} {manifest}"))?;
    said?;
    until(180, "the worker's recovery", || {
        let status = stage.agent("w1")?;
        ensure(status["stage"] == "ready", format!("{}", status["message"]))
    })
}

pub fn two_more_control_planes_join_at_once(stage: &Stage) -> Result<(), Failed> {
    stage.lab(&[
        "launch",
        "--role",
        "control-plane",
        "--count",
        "2",
        "--until",
        "booted",
    ])?;
    let names = until(600, "three voters", || voters(stage, "cp1", 3))?;
    until(300, "three Ready control planes", || {
        let ready = stage.ready_nodes()?;
        ensure(
            names.iter().all(|name| ready.contains(name)),
            format!("members {names:?}, Ready {ready:?}"),
        )
    })
}

/// The next request goes through; the one that was under way may fail.
pub fn a_request_after_the_death_of_an_api_server_goes_through(
    stage: &Stage,
) -> Result<(), Failed> {
    let asking = ask_through_the_balancer(stage, "w1", "get nodes -o name")?;
    for machine in &stage.control_planes()? {
        stage.exec(machine, &["pkill", "-KILL", "-x", "kube-apiserver"])?;
        let failed = failures(stage, "w1")?;
        ensure(
            failed.len() <= 1,
            format!("after {machine}'s died: {failed:?}"),
        )?;
        until(120, "the API server's return", || {
            stage.exec(machine, &["pgrep", "-x", "kube-apiserver"])?;
            voters(stage, machine, 3).map(drop)
        })?;
    }
    drop(asking);
    Ok(())
}

/// The founder dies for good while a worker writes through the API, and its successor comes.
pub fn a_terminated_founder_is_replaced(stage: &Stage) -> Result<(), Failed> {
    let dead = text(&stage.agent("cp1")?["node"]);
    stage.kubectl(&["create", "configmap", "e2e-writes"])?;
    let asking = ask_through_the_balancer(
        stage,
        "w1",
        "patch configmap e2e-writes --type=merge -p \"{\\\"data\\\":{\\\"at\\\":\\\"$at\\\"}}\"",
    )?;
    stage.lab(&["terminate", "cp1", "--hard"])?;
    let failed = failures(stage, "w1")?;
    drop(asking);
    let left = stage.control_planes()?;
    let survivor = left.first().ok_or("no control plane is left")?;
    eprintln!("writes that failed when the founder died: {failed:?}");
    until(120, "the dead one's member and Node to go", || {
        let names = voters(stage, survivor, 2)?;
        ensure(!names.contains(&dead), format!("members {names:?}"))?;
        stage.has_no_node(&dead)
    })?;
    stage.lab(&["launch", "--role", "control-plane"])?;
    until(120, "three voters again", || {
        voters(stage, survivor, 3).map(drop)
    })?;
    let mut machines = stage.control_planes()?;
    machines.push("w1".to_owned());
    let uids = machines
        .iter()
        .map(|machine| Ok(text(&stage.agent(machine)?["cluster_uid"])))
        .collect::<Result<Vec<_>, Failed>>()?;
    ensure(
        uids.iter().all(|uid| !uid.is_empty() && *uid == uids[0]),
        format!("the machines' clusters are {uids:?}"),
    )
}

/// A member that a person resets leaves etcd before its data go, and joins again as a new one.
pub fn a_reset_control_plane_leaves_etcd_and_may_join_again(stage: &Stage) -> Result<(), Failed> {
    let all = stage.control_planes()?;
    let (Some(machine), Some(other)) = (all.last(), all.first()) else {
        return Err("there is no control plane".into());
    };
    let node = text(&stage.agent(machine)?["node"]);
    stage.exec(machine, &["k8s-bootstrap", "reset", "--yes"])?;
    let names = voters(stage, other, all.len() - 1)?;
    ensure(!names.contains(&node), format!("members {names:?}"))?;
    stage.start_agent(machine)?;
    until(300, "the member's return", || {
        let names = voters(stage, other, all.len())?;
        let ready = stage.ready_nodes()?;
        ensure(
            names.contains(&node) && ready.contains(&node),
            format!("members {names:?}, Ready {ready:?}"),
        )
    })
}
