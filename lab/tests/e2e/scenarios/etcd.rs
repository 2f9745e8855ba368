//! etcd, as the agent sees it and as etcd's own tools do.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::stage::{Stage, ensure, json, list, text, until};

/// Runs etcdctl in etcd's pod.
fn etcdctl(stage: &Stage, node: &str, args: &[&str]) -> Result<Value, Failed> {
    let pod = format!("etcd-{node}");
    let pki = "/etc/kubernetes/pki/etcd";
    let (ca, certificate, key) = (
        format!("--cacert={pki}/ca.crt"),
        format!("--cert={pki}/peer.crt"),
        format!("--key={pki}/peer.key"),
    );
    let tool = ["-n", "kube-system", "exec", &pod, "--", "etcdctl"];
    let access = [&ca, &certificate, &key, "--write-out=json"];
    let args: Vec<&str> = [&tool[..], &access, args].concat();
    json(&stage.kubectl(&args)?)
}

pub fn etcd_members_tells_what_etcdctl_tells(stage: &Stage) -> Result<(), Failed> {
    let node = text(&stage.agent("cp1")?["node"]);
    let ours = json(&stage.exec("cp1", &["k8s-bootstrap", "etcd", "members", "--json"])?)?;
    let theirs = etcdctl(stage, &node, &["member", "list"])?;
    let theirs = list(&theirs["members"]);
    ensure(
        list(&ours).len() == theirs.len(),
        format!("ours {ours}, theirs {theirs:?}"),
    )?;
    for (ours, theirs) in list(&ours).iter().zip(theirs) {
        ensure(
            ours["id"] == theirs["ID"] && ours["name"] == theirs["name"],
            format!("ours {ours}, theirs {theirs}"),
        )?;
        ensure(
            ours["leader"] == true && ours["healthy"] == true,
            format!("the only member neither leads nor is healthy: {ours}"),
        )?;
    }
    let table = stage.exec("cp1", &["k8s-bootstrap", "etcd", "members"])?;
    ensure(
        table.contains("leader") && table.contains(&node),
        table.clone(),
    )?;
    let refused = stage.try_lab(&["exec", "w1", "--", "k8s-bootstrap", "etcd", "members"])?;
    ensure(
        refused.status.code() == Some(3),
        format!("on a worker: {}", refused.status),
    )
}

/// The backups in a folder of the lab's bucket, the oldest first.
fn backups(stage: &Stage, folder: &str) -> Result<Vec<String>, Failed> {
    let keys = stage.lab(&["bucket", folder])?;
    let whole = keys.lines().filter_map(|key| key.strip_suffix(".json"));
    Ok(whole.map(str::to_owned).collect())
}

/// The schedule counts from a person's backup: the next one is due one interval after the newest,
/// and then the oldest is deleted.
pub fn backups_are_taken_by_schedule_and_the_oldest_go(stage: &Stage) -> Result<(), Failed> {
    let to = "s3://k8s-bootstrap-backups/scheduled";
    for _ in 0..2 {
        let snapshot = ["k8s-bootstrap", "etcd", "snapshot", "--to", to];
        stage.exec("cp1", &snapshot)?;
    }
    let by_hand = backups(stage, "scheduled/")?;
    let [oldest, second] = &by_hand[..] else {
        return Err(format!("in the bucket are {by_hand:?}").into());
    };
    let settings = "/etc/k8s-bootstrap/config.toml";
    let schedule = format!("snapshots = {{ to = \"{to}\", every = 60, keep = 2 }}");
    stage.shell(
        "cp1",
        &format!("mkdir -p /etc/k8s-bootstrap; echo '{schedule}' > {settings}"),
    )?;
    stage.exec("cp1", &["systemctl", "restart", "k8s-bootstrap"])?;
    let outcome = until(150, "a backup by schedule", || {
        let now = backups(stage, "scheduled/")?;
        // The oldest is deleted file by file.
        let files = stage.lab(&["bucket", "scheduled/"])?;
        ensure(
            now.len() == 2 && now[0] == *second && now[1] != *oldest && files.lines().count() == 6,
            format!("by hand {by_hand:?}, now {files}"),
        )
    })
    .and_then(|()| {
        let report = &stage.agent("cp1")?["snapshots"];
        ensure(report["failures"] == 0, format!("the agent says {report}"))
    });
    stage.exec("cp1", &["rm", settings])?;
    stage.exec("cp1", &["systemctl", "restart", "k8s-bootstrap"])?;
    outcome
}

/// A cluster next to the scenarios' own with only 64 MiB for etcd.
const SMALL: &str = "etcd-is-full";

/// Writes until etcd refuses, and then until it accepts again: prints when a write was first
/// refused, when one was accepted again, and how much etcd held meanwhile.
const FILL: &str = r#"
export KUBECONFIG=/etc/kubernetes/admin.conf
head -c 600000 /dev/urandom | base64 -w0 > /run/filling
kubectl create configmap kept --from-literal=written=yes >/dev/null
kubectl create configmap filling --from-file=/run/filling >/dev/null
for n in $(seq 1000); do
  patch="{\"data\":{\"n\":\"$n\"}}"
  if kubectl patch configmap filling --type=merge -p "$patch" >/dev/null 2>/run/filling-error; then
    [ -z "$refused" ] || { echo "$refused $(date +%s) $before $held"; exit 0; }
    before=$n
  elif grep -q 'database space exceeded' /run/filling-error; then
    held=$(kubectl get configmap filling -o 'jsonpath={.data.n}')
    refused=${refused:-$(date +%s)}
    sleep 0.5
  else
    cat /run/filling-error >&2; exit 1
  fi
done
echo "etcd was never full, or is full for good: $(cat /run/filling-error)" >&2; exit 1
"#;

/// etcd reaches its quota, and accepts writes again without a person; nothing is lost.
pub fn a_full_etcd_takes_writes_again_by_itself(stage: &Stage) -> Result<(), Failed> {
    let settings = tempfile::NamedTempFile::new()?;
    std::fs::write(settings.path(), "etcd.quota_bytes = 67108864\n")?;
    let path = settings.path().display().to_string();
    let tag = format!("k8s-bootstrap:cluster={SMALL}");
    let options = ["--settings", &path, "--tag", &tag];
    let machine = stage.launch_as("control-plane", &options)?;
    until(300, "a control plane with a small etcd", || {
        let status = stage.agent(&machine)?;
        ensure(status["stage"] == "ready", format!("{}", status["message"]))
    })?;
    let filled = stage.shell(&machine, FILL)?;
    let words: Vec<u64> = filled
        .split_whitespace()
        .map(|word| word.parse().map_err(|_| Failed::from(filled.clone())))
        .collect::<Result<_, _>>()?;
    let [refused, taken, before, held] = words[..] else {
        return Err(filled.into());
    };
    eprintln!(
        "etcd was full for {} s, after {before} writes",
        taken - refused
    );
    ensure(taken - refused <= 120, "writes were refused for too long")?;
    ensure(
        held == before,
        format!("{before} was written, {held} is there"),
    )?;
    let kept = "kubectl --kubeconfig=/etc/kubernetes/admin.conf get configmap kept -o name";
    stage.shell(&machine, kept)?;
    until(60, "the agent's report", || {
        let etcd = &stage.agent(&machine)?["etcd"];
        let member = &etcd["members"][0];
        ensure(
            etcd["alarms_ended"] == 1
                && list(&etcd["troubles"]).is_empty()
                && list(&member["alarms"]).is_empty()
                && member["database"]["quota"] == 64 << 20,
            format!("the agent says {etcd}"),
        )
    })?;
    stage.lab(&["terminate", "--hard", &machine]).map(drop)
}
