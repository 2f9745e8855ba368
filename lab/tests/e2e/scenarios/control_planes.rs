//! Several control planes: they join at once, an API server dies, a machine dies, and a replacement
//! joins. The nodes are hardly affected.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::{
    asking::{self, READ, WRITE},
    stage::{Stage, ensure, json, list, text, until},
};

/// etcd's members as a control plane sees them; they must be `count` healthy voters.
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

/// A cluster's name, and the entry in its founder's journal at which the founder dies.
type Death = (&'static str, fn(&Value) -> bool);

/// Three more clusters next to the scenarios' own; each ends up with one control plane.
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
    // Two candidates see each other, and what is recorded, seconds late; their first writes collide.
    stage.lab(&[
        "faults",
        "--lag-seconds",
        "8",
        "--empty-pages",
        "--contend-next",
        "2",
    ])?;
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
    stage.lab(&["faults"])?;
    let tag = format!("k8s-bootstrap:cluster={}", LONE[2]);
    stage.launch_as("control-plane", &["--tag", &tag]).map(drop)
}

/// The dead founders' clusters hold no data yet, so the others found new ones.
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

/// Without its only API server a node reports that, and it recovers by itself.
pub fn without_any_api_server_a_node_says_so_and_recovers(stage: &Stage) -> Result<(), Failed> {
    let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    let aside = "/etc/kubernetes/kube-apiserver.yaml";
    stage.shell("cp1", &format!("mv {manifest} {aside}"))?;
    let said = until(120, "the worker's report", || {
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

/// The next request succeeds; the one in flight may fail.
pub fn a_request_after_the_death_of_an_api_server_goes_through(
    stage: &Stage,
) -> Result<(), Failed> {
    let asking = asking::start(stage, "w1", READ)?;
    for machine in &stage.control_planes()? {
        stage.exec(machine, &["pkill", "-KILL", "-x", "kube-apiserver"])?;
        let (_, failed) = asking.failures()?;
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

/// The founder is terminated while a worker writes through the API, and a replacement joins.
pub fn a_terminated_founder_is_replaced(stage: &Stage) -> Result<(), Failed> {
    let dead = text(&stage.agent("cp1")?["node"]);
    let asking = asking::start(stage, "w1", WRITE)?;
    stage.lab(&["terminate", "cp1", "--hard"])?;
    let (_, failed) = asking.failures()?;
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

/// A member that a person resets leaves etcd before its data is deleted, and joins again as a new
/// one.
pub fn a_reset_control_plane_leaves_etcd_and_may_join_again(stage: &Stage) -> Result<(), Failed> {
    let all = stage.control_planes()?;
    let (Some(machine), Some(other)) = (all.last(), all.first()) else {
        return Err("there is no control plane".into());
    };
    let node = text(&stage.agent(machine)?["node"]);
    // It is refused while another member is not healthy, which a busy disk may cause for a moment.
    until(120, "the reset", || {
        stage.exec(machine, &["k8s-bootstrap", "reset", "--yes"])
    })?;
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
