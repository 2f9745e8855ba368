//! A machine that an attacker has root on.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity;
use lab::network::REGION;
use libtest_mimic::Failed;
use serde_json::{Value, json as object};

use crate::stage::{Stage, json, text};

/// The join service's port on control planes.
const PORT: u16 = 7444;

/// What root on a machine has: its address and its metadata.
pub struct Foothold<'a> {
    stage: &'a Stage,
    pub machine: String,
    pub address: String,
    pub instance: String,
    pub node: String,
    keys: Identity,
    /// Values that must not be in any log.
    pub secrets: [String; 2],
}

/// What a joiner signs and sends; an honest one changes nothing in it.
pub struct Attempt {
    pub nonce: String,
    pub cluster: String,
    pub url: String,
    pub body: String,
    pub region: &'static str,
    pub service: &'static str,
    pub applicant: Value,
}

/// An HTTP status, 0 if there is none, and the body.
pub type Answer = (u16, String);

impl<'a> Foothold<'a> {
    pub fn on(stage: &'a Stage, machine: &str) -> Result<Self, Failed> {
        let ask = "base=http://169.254.169.254/latest; \
            token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $base/api/token); \
            get() { curl -sf -H \"X-aws-ec2-metadata-token: $token\" $base/meta-data/$1; }; \
            role=$(get iam/security-credentials/); \
            printf '{\"address\": \"%s\", \"instance\": \"%s\", \"node\": \"%s\", \"keys\": %s}' \
                $(get local-ipv4) $(get instance-id) $(get local-hostname) \"$(get iam/security-credentials/$role)\"";
        let said = json(&stage.shell(machine, ask)?)?;
        let key = |name: &str| text(&said["keys"][name]);
        let (secret, session) = (key("SecretAccessKey"), key("Token"));
        let keys = Credentials::new(
            key("AccessKeyId"),
            &secret,
            Some(session.clone()),
            None,
            "e2e",
        );
        Ok(Self {
            stage,
            machine: machine.to_owned(),
            address: text(&said["address"]),
            instance: text(&said["instance"]),
            node: text(&said["node"]),
            keys: keys.into(),
            secrets: [secret, session],
        })
    }

    /// Lets the API say for some seconds, until the kubelet reports again, that the node is not Ready.
    pub fn seem_lost(&self) -> Result<(), Failed> {
        let status = r#"{"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}"#;
        let patch = [
            "patch",
            "node",
            &self.node,
            "--subresource=status",
            "--patch",
            status,
        ];
        self.stage.kubectl(&patch).map(drop)
    }

    /// A join service's answer to curl. The options refer to the service as `SERVER`; `body` is
    /// curl's input.
    pub fn curl(&self, server: &str, options: &str, body: &str) -> Result<Answer, Failed> {
        let options = options.replace("SERVER", &format!("{server}:{PORT}"));
        let line = format!(
            "curl --silent --insecure --max-time 20 --write-out '\\n%{{http_code}}' {options} <<'END' || true\n{body}\nEND"
        );
        let said = self.stage.shell(&self.machine, &line)?;
        let (body, status) = said.rsplit_once('\n').unwrap_or(("", &said));
        Ok((status.parse()?, body.to_owned()))
    }

    /// Its answer to a client that sends only the start of a request.
    pub fn never_ending(&self, server: &str, start: &str) -> Result<Answer, Failed> {
        let line = format!(
            "pipe=$(mktemp -u); mkfifo $pipe; exec 3<>$pipe; printf '{start}' >&3; \
             timeout 30 openssl s_client -quiet -connect {server}:{PORT} <$pipe 2>/dev/null; rm $pipe"
        );
        let said = self.stage.shell(&self.machine, &line)?;
        let (head, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        Ok((status.parse()?, body.to_owned()))
    }

    /// A nonce from the server.
    pub fn nonce(&self, server: &str) -> Result<String, Failed> {
        let (status, nonce) = self.curl(server, "https://SERVER/nonce", "")?;
        if status == 200 {
            return Ok(nonce);
        }
        Err(format!("no nonce for {}: {status} {nonce}", self.machine).into())
    }

    /// What an honest joiner on this machine signs and sends.
    pub fn honest(&self, nonce: String) -> Attempt {
        Attempt {
            nonce,
            cluster: "demo".to_owned(),
            url: format!("https://sts.{REGION}.amazonaws.com/"),
            body: "Action=GetCallerIdentity&Version=2011-06-15".to_owned(),
            region: REGION,
            service: "sts",
            applicant: object!({
                "cluster": "demo", "role": "worker", "node": self.node, "instance": self.instance,
                "labels": {}, "taints": {},
            }),
        }
    }

    /// The application, signed with this machine's keys.
    pub fn sign(&self, attempt: &Attempt) -> Result<Value, Failed> {
        let params = v4::SigningParams::builder()
            .identity(&self.keys)
            .region(attempt.region)
            .name(attempt.service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let headers = [
            (
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8",
            ),
            ("x-k8s-bootstrap-nonce", &attempt.nonce),
            ("x-k8s-bootstrap-cluster", &attempt.cluster),
        ];
        let request = SignableRequest::new(
            "POST",
            &attempt.url,
            headers.into_iter(),
            SignableBody::Bytes(attempt.body.as_bytes()),
        )?;
        let (instructions, _) = sign(request, &params)?.into_parts();
        let proof: Vec<(&str, &str)> = headers.into_iter().chain(instructions.headers()).collect();
        Ok(object!({"applicant": attempt.applicant, "proof": proof}))
    }

    /// The server's answer to an application.
    pub fn apply(&self, server: &str, application: &Value) -> Result<Answer, Failed> {
        self.curl(
            server,
            "--data-binary @- https://SERVER/join",
            &application.to_string(),
        )
    }
}
