//! Certificate requests that must be denied, made with a joiner's token or a kubelet's credentials.

use base64::{Engine, prelude::BASE64_STANDARD};
use libtest_mimic::Failed;
use rcgen::{CustomExtension, DnType};
use serde_json::{Value, json as object};

use super::{
    each_is_logged, entries,
    foothold::Foothold,
    nowhere_in_the_journal,
    request::{ANY_CLIENT, Change, Draft, SERVING, San, user},
    secret_of,
};
use crate::stage::{Stage, ensure, json, text, until};

/// A client with credentials of the cluster, on a machine.
struct Client<'a> {
    stage: &'a Stage,
    machine: &'a str,
    /// kubectl with these credentials.
    kubectl: String,
    /// The user name of the credentials.
    username: String,
}

impl<'a> Client<'a> {
    fn by_token(stage: &'a Stage, machine: &'a str, token: &str) -> Self {
        Self {
            stage,
            machine,
            kubectl: format!(
                "kubectl --kubeconfig /dev/null --server https://127.0.0.1:7443 \
                 --certificate-authority /etc/kubernetes/pki/ca.crt --token {token}"
            ),
            username: format!("system:bootstrap:{}", &token[..6]),
        }
    }

    fn kubelet_of(stage: &'a Stage, foothold: &'a Foothold) -> Self {
        Self {
            stage,
            machine: &foothold.machine,
            kubectl: "kubectl --kubeconfig /etc/kubernetes/kubelet.conf".to_owned(),
            username: user(&foothold.node),
        }
    }

    fn create(&self, requests: &[Value]) -> Result<(), Failed> {
        let list = object!({"apiVersion": "v1", "kind": "List", "items": requests});
        self.run("create -f -", &list.to_string()).map(drop)
    }

    fn run(&self, command: &str, input: &str) -> Result<String, Failed> {
        self.stage.shell(self.machine, &self.line(command, input))
    }

    fn line(&self, command: &str, input: &str) -> String {
        format!("{} {command} <<'END'\n{input}\nEND", self.kubectl)
    }

    /// Checks that the API server itself forbids this to the client.
    fn may_not(&self, command: &str, input: &str, expected: &str) -> Result<(), Failed> {
        let line = self.line(command, input);
        let args = ["exec", self.machine, "--", "sh", "-c", &line];
        let refused = self.stage.try_lab(&args)?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure(
            !refused.status.success() && said.contains(expected),
            format!("{} and {command}: {said}", self.username),
        )
    }

    /// Sends all of these requests; each must be denied for its reason. Returns the expected log
    /// lines.
    fn is_denied(
        &self,
        honest: impl Fn() -> Draft,
        rows: &[(&str, Change, &str)],
    ) -> Result<Vec<String>, Failed> {
        let mut requests = Vec::new();
        for (name, change, _) in rows {
            let mut draft = honest();
            change(&mut draft);
            requests.push(draft.object(name)?);
        }
        self.create(&requests)?;
        let said = rows.iter().map(|(name, _, reason)| {
            let message = until(60, name, || decided(self.stage, name, "Denied"))?;
            ensure(message.contains(reason), format!("{name}: {message}"))?;
            let message = message.trim_start_matches("k8s-bootstrap: ");
            Ok(format!(
                "certificate request {name} of {} denied: {message}",
                self.username
            ))
        });
        said.collect()
    }
}

/// Checks the request's verdict, and that without approval there is no certificate; returns the
/// verdict's message.
fn decided(stage: &Stage, name: &str, verdict: &str) -> Result<String, Failed> {
    let status = stage.get(&["csr", name])?["status"].clone();
    let condition = &status["conditions"][0];
    let certificate = &status["certificate"];
    ensure(
        condition["type"] == verdict && certificate.is_null() == (verdict == "Denied"),
        format!("its status is {status}"),
    )?;
    Ok(text(&condition["message"]))
}

/// The machines of an attack.
struct Cast<'a> {
    leader: Foothold<'a>,
    /// The attacker's machine.
    own: Foothold<'a>,
    other: Foothold<'a>,
}

/// What an attack must leave in the log, and what must not be there.
struct Traces {
    denials: Vec<String>,
    secrets: Vec<String>,
}

/// Runs an attack, checks the log, and deletes the attack's requests.
fn attack(stage: &Stage, acts: impl FnOnce(&Cast) -> Result<Traces, Failed>) -> Result<(), Failed> {
    stage.install_kubectl("w1")?;
    let before = entries(stage, "cp1")?;
    let cast = Cast {
        leader: Foothold::on(stage, "cp1")?,
        own: Foothold::on(stage, "w1")?,
        other: Foothold::on(stage, "w2")?,
    };
    let outcome = acts(&cast).and_then(|traces| {
        each_is_logged(stage, "cp1", before, &traces.denials)?;
        let secrets = [&cast.own.secrets[..], &traces.secrets].concat();
        nowhere_in_the_journal(stage, "cp1", &secrets)
    });
    stage.kubectl(&["delete", "csr", "-l", "e2e=attack"])?;
    outcome
}

/// A token from `kubeadm token create`.
pub fn a_persons_token_makes_no_node(stage: &Stage) -> Result<(), Failed> {
    attack(stage, |by| {
        let token = stage.exec("cp1", &["kubeadm", "token", "create", "--ttl", "5m"])?;
        let token = token.trim();
        let person = Client::by_token(stage, "cp1", token);
        until(30, "the token", || person.run("get csr", "").map(drop))?;
        let denials = person.is_denied(
            || Draft::client(&by.own),
            &[("a-persons-token", &|_| {}, "not created by a join service")],
        )?;
        // Not earlier: otherwise the approver would find no token, and log that instead.
        stage.exec("cp1", &["kubeadm", "token", "delete", token])?;
        Ok(Traces {
            denials,
            secrets: vec![secret_of(token)],
        })
    })
}

/// A token from the join service for the attacker's node.
pub fn a_joiners_token_makes_no_other_node(stage: &Stage) -> Result<(), Failed> {
    attack(stage, |by| {
        let (own, server) = (&by.own, &by.leader.address);
        let ticket = until(60, "a ticket", || {
            let application = own.sign(&own.honest(own.nonce(server)?))?;
            own.seem_lost()?;
            let (status, ticket) = own.apply(server, &application)?;
            ensure(status == 200, format!("no ticket: {ticket}"))?;
            Ok(ticket)
        })?;
        let token = text(&json(&ticket)?["token"]);
        let joiner = Client::by_token(stage, "w1", &token);
        until(30, "the token", || joiner.run("get csr", "").map(drop))?;

        let mut denials = denied_to_a_joiner(by, &joiner)?;
        refused_by_the_api_itself(by, &joiner)?;
        let alone = Draft::client(own).object("the-nodes-own")?;
        joiner.create(&[alone])?;
        until(60, "the node's own", || {
            decided(stage, "the-nodes-own", "Approved")
        })?;
        denials.extend(joiner.is_denied(
            || Draft::client(own),
            &[("a-second-use", &|_| {}, "has been used")],
        )?);

        // The token is deleted as soon as the kubelet has its own credentials.
        let kubelet = Client::kubelet_of(stage, own);
        kubelet.create(&[Draft::serving(own).object("the-nodes-own-to-serve")?])?;
        until(60, "the node's own", || {
            decided(stage, "the-nodes-own-to-serve", "Approved")
        })?;
        until(30, "the end of the token", || {
            joiner.may_not("get csr", "", "Unauthorized")
        })?;
        // No kubelet needs this signer, so the request waits for a person.
        let status = stage.get(&["csr", "another-signer"])?["status"].clone();
        ensure(
            status["conditions"].is_null() && status["certificate"].is_null(),
            format!("another signer's: {status}"),
        )?;
        Ok(Traces {
            denials,
            secrets: vec![secret_of(&token)],
        })
    })
}

fn denied_to_a_joiner(by: &Cast, joiner: &Client) -> Result<Vec<String>, Failed> {
    joiner.is_denied(
        || Draft::client(&by.own),
        &[
            (
                "another-nodes-name",
                &|d| d.name = user(&by.other.node),
                "a name other than",
            ),
            (
                "a-control-planes-name",
                &|d| d.name = user(&by.leader.node),
                "a name other than",
            ),
            (
                "a-persons-name",
                &|d| d.name = "kubernetes-admin".into(),
                "a name other than",
            ),
            (
                "the-name-in-capitals",
                &|d| d.name = user(&by.own.node.to_uppercase()),
                "a name other than",
            ),
            (
                "another-nodes-name-and-user-name",
                &|d| {
                    d.username = Some(user(&by.other.node));
                    d.name = user(&by.other.node);
                },
                "a name other than",
            ),
            (
                "the-administrators-group",
                &|d| d.groups[0].1 = "system:masters",
                "organization",
            ),
            (
                "a-second-group",
                &|d| {
                    let masters = (DnType::OrganizationalUnitName, "system:masters");
                    d.groups.push(masters);
                },
                "organization",
            ),
            ("no-group", &|d| d.groups.clear(), "organization"),
            (
                "a-servers-usage",
                &|d| d.usages.push("server auth"),
                "usages",
            ),
            (
                "an-authoritys-usage",
                &|d| d.usages = vec!["cert sign", "client auth"],
                "usages",
            ),
            (
                "no-clients-usage",
                &|d| d.usages = vec!["digital signature"],
                "usages",
            ),
            (
                "a-dns-name",
                &|d| d.sans(&["kubernetes"], &[]),
                "alternative names",
            ),
            (
                "an-address",
                &|d| d.sans(&[], &[&by.own.address]),
                "alternative names",
            ),
            (
                "an-authority",
                &|d| {
                    let constraints =
                        CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![48, 3, 1, 1, 255]);
                    d.extensions.push(constraints);
                },
                "extensions",
            ),
            (
                "a-serving-certificate",
                &|d| {
                    d.signer = SERVING;
                    d.usages = vec!["digital signature", "server auth"];
                },
                "no serving certificate",
            ),
        ],
    )
}

fn refused_by_the_api_itself(by: &Cast, joiner: &Client) -> Result<(), Failed> {
    let changed = |name: &str, change: Change| {
        let mut draft = Draft::client(&by.own);
        change(&mut draft);
        draft.object(name)
    };
    let no_usage = changed("no-usage", &|d| d.usages.clear())?;
    let mut unreadable = changed("unreadable", &|_| {})?;
    unreadable["spec"]["request"] = BASE64_STANDARD.encode("no request").into();
    let administrator = changed("administrator", &|d| {
        d.signer = ANY_CLIENT;
        d.groups[0].1 = "system:masters";
    })?;
    for (request, reason) in [
        (no_usage, "spec.usages: Required value"),
        (unreadable, "spec.request: Invalid value"),
        (administrator, "system:masters"),
    ] {
        joiner.may_not("create -f -", &request.to_string(), reason)?;
    }
    let other_signer = changed("another-signer", &|d| d.signer = ANY_CLIENT)?;
    joiner.create(&[other_signer])?;
    for command in [
        "certificate approve another-signer",
        "get secrets -n kube-system",
        "get nodes",
    ] {
        joiner.may_not(command, "", "forbidden")?;
    }
    Ok(())
}

pub fn a_kubelets_credentials_make_no_other_node(stage: &Stage) -> Result<(), Failed> {
    attack(stage, |by| {
        let kubelet = Client::kubelet_of(stage, &by.own);
        let denials = denied_to_a_kubelet(by, &kubelet)?;
        // These never reach the approver: the API server itself identifies a kubelet by its name.
        let mut with_its_user_name = Draft::serving(&by.other);
        with_its_user_name.username = Some(user(&by.other.node));
        for request in [
            Draft::serving(&by.other).object("to-serve-as-another-node")?,
            with_its_user_name.object("to-serve-with-its-user-name")?,
            Draft::client(&by.leader).object("to-become-another-node")?,
        ] {
            let reason = "can only create a node CSR with CN=";
            kubelet.may_not("create -f -", &request.to_string(), reason)?;
        }
        let waiting = Draft::new(ANY_CLIENT, "client auth", &by.own.node);
        kubelet.create(&[waiting.object("another-signer")?])?;
        for command in [
            "certificate approve another-signer",
            "get secrets -n kube-system",
            &format!("delete node {}", by.other.node),
            &format!(
                "label node {} node-role.kubernetes.io/control-plane=",
                by.own.node
            ),
        ] {
            kubelet.may_not(command, "", "forbidden")?;
        }
        Ok(Traces {
            denials,
            secrets: Vec::new(),
        })
    })
}

fn denied_to_a_kubelet(by: &Cast, kubelet: &Client) -> Result<Vec<String>, Failed> {
    kubelet.is_denied(
        || Draft::serving(&by.own),
        &[
            (
                "the-apis-name",
                &|d| d.sans(&["kubernetes.default.svc"], &[&by.own.address]),
                "DNS name",
            ),
            (
                "to-serve-by-a-control-planes-name",
                &|d| d.sans(&[&by.own.node, &by.leader.node], &[&by.own.address]),
                "DNS name",
            ),
            ("every-name", &|d| d.sans(&["*"], &[]), "DNS name"),
            (
                "a-control-planes-address",
                &|d| d.sans(&[&by.own.node], &[&by.leader.address]),
                "address",
            ),
            (
                "loopback",
                &|d| d.sans(&[&by.own.node], &[&by.own.address, "127.0.0.1"]),
                "address",
            ),
            (
                "an-address-of-ipv6",
                &|d| d.sans(&[&by.own.node], &["::1"]),
                "extensions",
            ),
            ("nothing", &|d| d.sans(&[], &[]), "no alternative names"),
            (
                "a-mail-address",
                &|d| d.sans.push(San::Mail("a@example.com".into())),
                "extensions",
            ),
            (
                "a-uri",
                &|d| d.sans.push(San::Uri("spiffe://x".into())),
                "extensions",
            ),
            (
                "a-clients-usage",
                &|d| d.usages.push("client auth"),
                "usages",
            ),
        ],
    )
}
