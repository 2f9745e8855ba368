//! Bad input: a clear error with location and remedy, and nothing half done.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lab::{layout::Layout, machine::cgroups::CgroupVersion, network::ARTIFACTS};
use libtest_mimic::Failed;

use crate::stage::{Stage, ensure, text, until};

/// Launches an instance that must be refused, checks the reason, and terminates it. Its agent keeps
/// running and checks again: the cause may be fixed from outside.
///
/// `remains` is a shell line that must succeed: it checks that nothing is left.
fn refused(stage: &Stage, launch: &[&str], expected: &[&str], remains: &str) -> Result<(), Failed> {
    let bad = stage.launch(launch)?;
    let outcome = until(60, "the refusal", || {
        let status = stage.agent(&bad)?;
        ensure(status["stage"] == "failed", status.to_string())?;
        let said: String = stage
            .journal(&bad)?
            .iter()
            .map(|entry| text(&entry["MESSAGE"]) + "\n")
            .collect();
        for part in expected {
            ensure(said.contains(part), format!("`{part}` is not in:\n{said}"))?;
        }
        // The console outlives the instance: EC2 shows it after termination.
        let console = stage.lab(&["logs", &bad, "--console"])?;
        ensure(
            console.contains(expected[0]),
            format!("the console says: {console}"),
        )?;
        stage.shell(&bad, remains)
    });
    stage.lab(&["terminate", "--hard", &bad])?;
    outcome.map(drop)
}

/// Nothing was prepared at all.
const UNTOUCHED: &str = "test ! -e /etc/containerd && test ! -e /usr/local/bin/kubeadm && test ! -e /etc/sysctl.d/90-k8s-bootstrap.conf";

pub fn a_wrong_role_tag_is_refused(stage: &Stage) -> Result<(), Failed> {
    refused(
        stage,
        &["--tag", "k8s-bootstrap:role=master"],
        &["k8s-bootstrap:role", "`master`", "control-plane", "hint:"],
        UNTOUCHED,
    )
}

pub fn a_missing_cluster_tag_is_refused(stage: &Stage) -> Result<(), Failed> {
    refused(
        stage,
        &["--tag", "k8s-bootstrap:cluster="],
        &["k8s-bootstrap:cluster", "hint:"],
        UNTOUCHED,
    )
}

/// The EC2 API has the tags, and the private DNS name, which is not the host name here.
pub fn tags_and_the_name_that_metadata_lack_come_from_ec2(stage: &Stage) -> Result<(), Failed> {
    let name = stage.launch(&["--metadata-tags-disabled", "--own-domain"])?;
    let outcome = until(300, "the node", || {
        let status = stage.agent(&name)?;
        ensure(status["stage"] == "ready", status["message"].to_string())
    });
    outcome?;
    let node = text(&stage.agent(&name)?["node"]);
    ensure(node.ends_with(".compute.internal"), node)?;
    stage.lab(&["terminate", &name])?;
    Ok(())
}

/// A source that is wrong at first: nothing of it is kept or run, and the node comes up after the
/// source is fixed.
pub fn a_wrong_digest_is_refused_and_leaves_nothing(stage: &Stage) -> Result<(), Failed> {
    let right = stage.shell("w1", "sha256sum /usr/local/sbin/runc | cut -d' ' -f1")?;
    let right = right.trim();
    let source = Layout::find()?.run().join("www/k8s-bootstrap/e2e");
    std::fs::create_dir_all(&source)?;
    let publish = |content: &[u8]| {
        std::fs::write(source.join("next"), content)?;
        std::fs::rename(source.join("next"), source.join("runc"))
    };
    publish(b"#!/bin/sh\ntouch /run/unverified\n")?;
    let settings = tempfile::NamedTempFile::new()?;
    let url = format!("http://{ARTIFACTS}/k8s-bootstrap/e2e/runc");
    std::fs::write(
        settings.path(),
        format!("pins.runc.url = \"{url}\"\npins.runc.sha256.amd64 = \"{right}\"\n"),
    )?;
    let path = settings.path().display().to_string();
    let name = stage.launch(&["--settings", &path])?;
    until(120, "the wrong digest's message", || {
        let journal = stage.journal(&name)?;
        let said = journal.iter().find(|entry| {
            let message = text(&entry["MESSAGE"]);
            message.contains(&url) && message.contains("has the wrong sha256")
        });
        let said = said.ok_or("nothing is said of the digest")?;
        ensure(text(&said["MESSAGE"]).contains(right), said.to_string())?;
        let hint = text(&said["HINT"]);
        ensure(
            hint.contains("the download was discarded"),
            said.to_string(),
        )
    })?;
    stage.shell(
        &name,
        "test ! -e /usr/local/sbin/runc && test ! -e /run/unverified && ! systemctl is-active containerd",
    )?;
    // Between two attempts there is not even a part of it.
    until(60, "nothing of the wrong file", || {
        let parts = "! find /usr/local /var/lib/k8s-bootstrap -name '*runc*part*' | grep .";
        stage.shell(&name, parts)
    })?;
    let encoded = stage.exec("w1", &["base64", "--wrap=0", "/usr/local/sbin/runc"])?;
    publish(&STANDARD.decode(encoded.trim())?)?;
    until(300, "the node, now that its source is right", || {
        let status = stage.agent(&name)?;
        ensure(status["stage"] == "ready", status["message"].to_string())
    })?;
    stage.shell(&name, "test ! -e /run/unverified")?;
    stage.lab(&["terminate", &name])?;
    Ok(())
}

pub fn a_denied_call_names_the_permission(stage: &Stage) -> Result<(), Failed> {
    stage.lab(&["faults", "--deny", "DescribeInstances"])?;
    let denied = stage.launch(&[])?;
    let outcome = until(120, "the error", || {
        let said = text(&stage.agent(&denied)?["message"]);
        let line = stage.shell(&denied, "systemctl show -P StatusText k8s-bootstrap")?;
        ensure(
            line.contains("ec2:DescribeInstances") || said.contains("ec2:DescribeInstances"),
            format!("status: {line}"),
        )
    });
    stage.lab(&["faults"])?;
    stage.lab(&["terminate", "--hard", &denied])?;
    outcome
}

pub fn cgroup_v1_is_refused_without_the_override(stage: &Stage) -> Result<(), Failed> {
    if CgroupVersion::here() == CgroupVersion::V2 {
        // Machines have the control groups of this machine: there is nothing to refuse.
        return Ok(());
    }
    let settings = tempfile::NamedTempFile::new()?;
    std::fs::write(settings.path(), "node.allow_cgroup_v1 = false\n")?;
    let path = settings.path().display().to_string();
    refused(
        stage,
        &["--settings", &path],
        &[
            "phase preflight",
            "cgroup hierarchy, version 1",
            "node.allow_cgroup_v1",
            "hint:",
        ],
        UNTOUCHED,
    )
}

/// Refused before a claim, so the cluster's own settings are not affected.
pub fn a_pod_range_of_the_vpc_is_refused(stage: &Stage) -> Result<(), Failed> {
    let settings = tempfile::NamedTempFile::new()?;
    std::fs::write(settings.path(), "cluster.pod_cidr = '10.42.128.0/17'\n")?;
    let path = settings.path().display().to_string();
    refused(
        stage,
        &["--settings", &path],
        &[
            "phase preflight",
            "cluster.pod_cidr 10.42.128.0/17 overlaps the VPC's 10.42.0.0/16",
            "hint:",
        ],
        UNTOUCHED,
    )
}

/// Metadata is switched off on a node that is up: the agent reports that when it restarts, keeps
/// the API balancer running, and continues by itself after the fix.
pub fn a_node_in_use_outlives_what_its_agent_refuses(stage: &Stage) -> Result<(), Failed> {
    let starts = "systemctl show -P NRestarts k8s-bootstrap";
    let asks = "curl --silent --insecure --max-time 5 https://127.0.0.1:7443/version";
    stage.lab(&["modify", "w2", "--metadata-disabled"])?;
    stage.exec("w2", &["systemctl", "restart", "k8s-bootstrap"])?;
    let outcome = until(60, "the refusal", || {
        let status = stage.agent("w2")?;
        ensure(status["stage"] == "failed", status.to_string())?;
        let said = stage.shell("w2", "journalctl -u k8s-bootstrap -o cat -n 20 --no-pager")?;
        ensure(said.contains("--http-endpoint enabled"), said)?;
        let api = stage.shell("w2", asks)?;
        ensure(api.contains("gitVersion"), api)
    });
    let before = stage.shell("w2", starts)?;
    stage.lab(&["modify", "w2"])?;
    outcome?;
    let again = until(60, "the agent with metadata again", || {
        let status = stage.agent("w2")?;
        ensure(
            status["stage"] == "ready",
            format!("the agent says {}", status["stage"]),
        )
    });
    again?;
    let after = stage.shell("w2", starts)?;
    ensure(after == before, format!("{after} restarts, not {before}"))
}

pub fn run_without_root_is_refused(stage: &Stage) -> Result<(), Failed> {
    let said = stage.shell(
        "w1",
        "setpriv --reuid 65534 --clear-groups k8s-bootstrap run 2>&1; echo status $?",
    )?;
    ensure(
        said.contains("root is needed to bring up a node") && said.contains("status 3"),
        said,
    )
}
