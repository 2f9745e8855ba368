//! IAM roles of pods, in the cluster of the stack.

use std::path::PathBuf;

use libtest_mimic::Failed;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::stack;
use crate::stage::{Stage, ensure, pod, text, until};

/// The role, and the service account that it trusts.
const ROLE: &str = "e2e-reader";
/// Where its object is.
const OBJECT: &str = "https://s3.eu-central-1.amazonaws.com/k8s-bootstrap-backups/pods/e2e-hello";

/// A pod with a token for AWS, and a worker that runs it.
struct TokenPod<'a> {
    stage: &'a Stage,
    control_plane: &'a str,
    worker: &'a str,
    /// The pod's network on the worker.
    network: String,
    token: String,
}

impl<'a> TokenPod<'a> {
    /// Starts a pod with this service account.
    fn start(
        stage: &'a Stage,
        control_plane: &'a str,
        (worker, node): (&'a str, &str),
        account: &str,
    ) -> Result<Self, Failed> {
        let mut pod = pod(account, node, "sleep 600");
        pod["spec"]["serviceAccountName"] = account.into();
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "aws", "mountPath": "/var/run/secrets/aws" }]);
        let token = json!({ "audience": "sts.amazonaws.com", "path": "token" });
        pod["spec"]["volumes"] = json!([{
            "name": "aws", "projected": { "sources": [{ "serviceAccountToken": token }] },
        }]);
        let on = |line: &str| stage.kubectl_on(control_plane, line);
        on(&format!("create serviceaccount {account}"))?;
        on(&format!("apply -f - <<'POD'\n{pod}\nPOD"))?;
        on(&format!(
            "wait --for=condition=Ready pod/{account} --timeout=90s"
        ))?;
        let address = on(&format!("get pod {account} -o jsonpath={{.status.podIP}}"))?;
        let find = format!(
            "for pod in $(ip netns list | cut -d ' ' -f 1); do \
             ip -n $pod -o address | grep -q ' {address}/' && echo $pod; done; true"
        );
        Ok(Self {
            stage,
            control_plane,
            worker,
            network: stage.shell(worker, &find)?.trim().to_owned(),
            token: on(&format!("exec {account} -- cat /var/run/secrets/aws/token"))?,
        })
    }

    /// curl in the pod's network: the HTTP status and what was answered.
    fn curl(&self, arguments: &str) -> Result<(String, String), Failed> {
        let line = format!(
            "ip netns exec {} curl --silent --max-time 20 --write-out '\\n%{{http_code}}' {arguments}",
            self.network
        );
        let said = self.stage.shell(self.worker, &line)?;
        let (body, status) = said.rsplit_once('\n').unwrap_or_default();
        Ok((status.to_owned(), body.to_owned()))
    }

    /// Exchanges the token for keys of the role.
    fn assume(&self) -> Result<(String, String), Failed> {
        self.curl(&format!(
            "https://sts.eu-central-1.amazonaws.com/ --data Action=AssumeRoleWithWebIdentity \
             --data Version=2011-06-15 --data RoleSessionName=e2e \
             --data-urlencode RoleArn=arn:aws:iam::123456789012:role/{ROLE} \
             --data-urlencode WebIdentityToken={}",
            self.token
        ))
    }

    fn stop(self, account: &str) -> Result<(), Failed> {
        let line = format!("delete pod,serviceaccount {account}");
        self.stage.kubectl_on(self.control_plane, &line).map(drop)
    }
}

fn file(folder: &tempfile::TempDir, name: &str, content: &Value) -> Result<String, Failed> {
    let path: PathBuf = folder.path().join(name);
    std::fs::write(&path, content.to_string())?;
    Ok(path.to_string_lossy().into_owned())
}

/// Trusts one service account of the issuer, and allows what its pods do and no more.
fn create_role(stage: &Stage, issuer: &str, account: &str) -> Result<(), Failed> {
    let name = issuer.trim_start_matches("https://");
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "Federated": format!("arn:aws:iam::123456789012:oidc-provider/{name}") },
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": { "StringEquals": {
            format!("{name}:sub"): format!("system:serviceaccount:default:{account}"),
            format!("{name}:aud"): "sts.amazonaws.com",
        } },
    }] });
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "*",
    }] });
    let folder = tempfile::tempdir()?;
    let trust = file(&folder, "trust.json", &trust)?;
    let policy = file(&folder, "policy.json", &policy)?;
    stage
        .lab(&["role", ROLE, "--trust", &trust, "--policy", &policy])
        .map(drop)
}

fn element(xml: &str, name: &str) -> Result<String, Failed> {
    let found = lab::ec2::client::element(xml, name);
    found.ok_or_else(|| format!("no {name} in {xml}").into())
}

/// A pod acts in AWS as its service account's role: without keys, and although it cannot reach the
/// metadata service.
pub fn its_pods_have_roles_of_their_own(stage: &Stage) -> Result<(), Failed> {
    let control_plane = stack::cluster(stage)?.0;
    let issuer = until(120, "the issuer's keys are published", || {
        let issuer = stage.agent(&control_plane)?["issuer"].clone();
        ensure(issuer["published"] == true, issuer.to_string())?;
        ensure(issuer["trouble"].is_null(), issuer.to_string())?;
        Ok(text(&issuer["issuer"]))
    })?;
    let (name, stranger) = ("e2e-reader", "e2e-stranger");
    create_role(stage, &issuer, name)?;
    let worker = stack::workers(stage)?.remove(0);
    let worker = text(&worker["name"]);
    let node = stage.shell(&worker, "hostname -f")?.trim().to_owned();
    let place = (worker.as_str(), node.as_str());

    let reader = TokenPod::start(stage, &control_plane, place, name)?;
    let (status, _) = reader.curl("http://169.254.169.254/latest/meta-data/ || true")?;
    ensure(
        status == "000",
        format!("the metadata service answers {status}"),
    )?;
    let (status, body) = reader.assume()?;
    ensure(status == "200", format!("{status}: {body}"))?;
    let signed = format!(
        "--user {}:{} --aws-sigv4 aws:amz:eu-central-1:s3 --header 'x-amz-security-token: {}'",
        element(&body, "AccessKeyId")?,
        element(&body, "SecretAccessKey")?,
        element(&body, "SessionToken")?,
    );
    for (what, content, expected) in [
        ("--request PUT --data hello", "hello", "200"),
        ("", "", "200"),
        ("--request DELETE", "", "403"),
    ] {
        let digest = hex::encode(Sha256::digest(content));
        let request = format!("{signed} --header x-amz-content-sha256:{digest} {what} {OBJECT}");
        let (status, body) = reader.curl(&request)?;
        ensure(status == expected, format!("{what}: {status}: {body}"))?;
    }

    let other = TokenPod::start(stage, &control_plane, place, stranger)?;
    let (status, body) = other.assume()?;
    ensure(status == "403" && body.contains("does not trust"), body)?;
    other.stop(stranger)?;
    reader.stop(name)
}
