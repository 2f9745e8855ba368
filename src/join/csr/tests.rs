//! Requests that kubelets make, and requests that others might try.
#![allow(clippy::unwrap_used, clippy::panic)]

use rcgen::{
    Attribute, CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SanType,
};
use serde_json::json;

use super::*;
use crate::testing::{running, worker};

const NODE: &str = "ip-10-42-0-11.eu-central-1.compute.internal";
const CONTROL_PLANE: &str = "ip-10-42-0-10.eu-central-1.compute.internal";
const NOW: &str = "2026-11-23T12:00:00Z";

/// A request under construction; unless changed, that of a worker's kubelet.
struct Draft {
    signer: &'static str,
    username: String,
    groups: Vec<&'static str>,
    usages: Vec<&'static str>,
    names: Vec<(DnType, String)>,
    params: CertificateParams,
    attributes: Vec<Attribute>,
}

impl Draft {
    fn new(signer: &'static str, username: &str, group: &'static str, usage: &'static str) -> Self {
        Self {
            signer,
            username: username.to_owned(),
            groups: vec![group, "system:authenticated"],
            usages: vec!["digital signature", usage],
            names: vec![
                (DnType::OrganizationName, "system:nodes".to_owned()),
                (DnType::CommonName, format!("system:node:{NODE}")),
            ],
            params: CertificateParams::new([]).unwrap(),
            attributes: Vec::new(),
        }
    }

    /// Sent with a bootstrap token.
    fn client() -> Self {
        Self::new(
            CLIENT,
            "system:bootstrap:abcdef",
            "system:bootstrappers",
            "client auth",
        )
    }

    /// Sent by the node itself.
    fn serving() -> Self {
        let user = format!("system:node:{NODE}");
        let mut draft = Self::new(SERVING, &user, "system:nodes", "server auth");
        draft.sans(&[NODE], &["10.42.0.11"]);
        draft
    }

    fn sans(&mut self, names: &[&str], addresses: &[&str]) {
        let names = names
            .iter()
            .map(|name| SanType::DnsName((*name).try_into().unwrap()));
        let addresses = addresses
            .iter()
            .map(|address| SanType::IpAddress(address.parse().unwrap()));
        self.params.subject_alt_names = names.chain(addresses).collect();
    }

    fn name(&mut self, name: &str) {
        self.names[1].1 = name.to_owned();
    }

    fn object(mut self) -> Value {
        self.params.distinguished_name = DistinguishedName::new();
        for (kind, name) in self.names {
            self.params.distinguished_name.push(kind, name);
        }
        let key = KeyPair::generate().unwrap();
        let request = self
            .params
            .serialize_request_with_attributes(&key, self.attributes);
        let pem = request.unwrap().pem().unwrap();
        json!({
            "metadata": {"name": "csr-1", "uid": "uid-1"},
            "spec": {
                "signerName": self.signer,
                "username": self.username,
                "groups": self.groups,
                "usages": self.usages,
                "request": BASE64_STANDARD.encode(pem),
            },
        })
    }
}

fn token() -> Bound {
    Bound {
        node: Some(NODE.to_owned()),
        expires: Some("2026-11-23T12:10:00Z".parse().unwrap()),
        used_by: None,
    }
}

fn instances() -> Vec<Instance> {
    let named = |mut instance: Instance, name: &str| {
        instance.private_dns_name = Some(name.to_owned());
        instance
    };
    vec![
        named(running(&worker("i-w"), 11), NODE),
        named(running(&worker("i-cp"), 10), CONTROL_PLANE),
    ]
}

fn verdict(draft: Draft, token: Option<&Bound>) -> Verdict {
    let now = NOW.parse().unwrap();
    judge(&Request::of(&draft.object()), token, &instances(), now)
}

fn denied(case: &str, verdict: &Verdict, expected: &str) {
    match verdict {
        Verdict::Deny(why) => assert!(why.contains(expected), "{case}: {why}"),
        other => panic!("{case}: {other:?}"),
    }
}

type Change = fn(&mut Draft);

#[test]
fn a_kubelets_own_requests_are_approved() {
    let no_change: Change = |_| {};
    let rsa: Change = |draft| draft.usages.push("key encipherment");
    for change in [no_change, rsa] {
        let (mut client, mut serving) = (Draft::client(), Draft::serving());
        change(&mut client);
        change(&mut serving);
        assert_eq!(verdict(client, Some(&token())), Verdict::Approve);
        assert_eq!(verdict(serving, None), Verdict::Approve);
    }
    // The same request again, after a cycle that stopped between its two writes.
    let used = Bound {
        used_by: Some("uid-1".to_owned()),
        ..token()
    };
    assert_eq!(verdict(Draft::client(), Some(&used)), Verdict::Approve);
    let mut address_only = Draft::serving();
    address_only.sans(&[], &["10.42.0.11"]);
    assert_eq!(verdict(address_only, None), Verdict::Approve);
}

#[test]
fn a_token_admits_no_other_node_and_nothing_more_than_a_node() {
    let cases: [(&str, Change, &str); 15] = [
        (
            "another node's name",
            |d| d.name("system:node:ip-10-42-0-12.eu-central-1.compute.internal"),
            "a name other than",
        ),
        (
            "a control plane's name",
            |d| d.name("system:node:ip-10-42-0-10.eu-central-1.compute.internal"),
            "a name other than",
        ),
        (
            "a user's name",
            |d| d.name("kubernetes-admin"),
            "a name other than",
        ),
        (
            "the name in capitals",
            |d| d.name(&format!("system:node:{}", NODE.to_uppercase())),
            "a name other than",
        ),
        (
            "the administrators' group",
            |d| d.names[0].1 = "system:masters".to_owned(),
            "organization",
        ),
        ("no group", |d| drop(d.names.remove(0)), "organization"),
        (
            "an additional organizational unit",
            |d| {
                d.names
                    .push((DnType::OrganizationalUnitName, "x".to_owned()));
            },
            "organization",
        ),
        (
            "a server's usage",
            |d| d.usages.push("server auth"),
            "usages",
        ),
        (
            "a CA's usage",
            |d| d.usages = vec!["cert sign", "client auth"],
            "usages",
        ),
        ("no usage", |d| d.usages.clear(), "usages"),
        (
            "no client usage",
            |d| d.usages = vec!["digital signature"],
            "usages",
        ),
        (
            "a DNS name",
            |d| d.sans(&["kubernetes"], &[]),
            "alternative",
        ),
        (
            "an address",
            |d| d.sans(&[], &["10.42.0.11"]),
            "alternative",
        ),
        (
            "an additional extension",
            |d| {
                let extension = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![48, 0]);
                d.params.custom_extensions.push(extension);
            },
            "extensions",
        ),
        (
            "a user who is no bootstrapper",
            |d| d.groups = vec!["system:authenticated"],
            "system:bootstrappers",
        ),
    ];
    for (case, change, expected) in cases {
        let mut draft = Draft::client();
        change(&mut draft);
        denied(case, &verdict(draft, Some(&token())), expected);
    }
}

#[test]
fn a_foreign_expired_or_used_token_gets_no_certificate() {
    let cases = [
        ("a deleted token", None, "no longer exists"),
        (
            "a token of kubeadm",
            Some(Bound {
                node: None,
                ..token()
            }),
            "not created by a join service",
        ),
        (
            "an expired token",
            Some(Bound {
                expires: Some(NOW.parse().unwrap()),
                ..token()
            }),
            "expired",
        ),
        (
            "a token without an expiration",
            Some(Bound {
                expires: None,
                ..token()
            }),
            "expired",
        ),
        (
            "a second use",
            Some(Bound {
                used_by: Some("uid-0".to_owned()),
                ..token()
            }),
            "has been used",
        ),
    ];
    for (case, token, expected) in cases {
        denied(case, &verdict(Draft::client(), token.as_ref()), expected);
    }
}

#[test]
fn a_serving_certificate_has_only_the_nodes_own_names_and_addresses() {
    let cases: [(&str, Change, &str); 13] = [
        (
            "the API's name",
            |d| d.sans(&["kubernetes.default.svc"], &["10.42.0.11"]),
            "DNS name",
        ),
        (
            "a control plane's name",
            |d| d.sans(&[NODE, CONTROL_PLANE], &["10.42.0.11"]),
            "DNS name",
        ),
        ("every name", |d| d.sans(&["*"], &[]), "DNS name"),
        (
            "a control plane's address",
            |d| d.sans(&[NODE], &["10.42.0.10"]),
            "address",
        ),
        (
            "loopback",
            |d| d.sans(&[NODE], &["10.42.0.11", "127.0.0.1"]),
            "address",
        ),
        (
            "an IPv6 address",
            |d| d.sans(&[NODE], &["::1"]),
            "extensions",
        ),
        (
            "no names at all",
            |d| d.sans(&[], &[]),
            "no alternative names",
        ),
        (
            "a mail address",
            |d| {
                let mail = SanType::Rfc822Name("a@example.com".try_into().unwrap());
                d.params.subject_alt_names.push(mail);
            },
            "extensions",
        ),
        (
            "a URI",
            |d| {
                let uri = SanType::URI("spiffe://x".try_into().unwrap());
                d.params.subject_alt_names.push(uri);
            },
            "extensions",
        ),
        (
            "a client's usage",
            |d| d.usages.push("client auth"),
            "usages",
        ),
        (
            "another node's subject",
            |d| d.name(&format!("system:node:{CONTROL_PLANE}")),
            "a name other than",
        ),
        (
            "a user outside the group",
            |d| d.groups.clear(),
            "system:nodes",
        ),
        (
            "a bootstrap token",
            |d| d.username = "system:bootstrap:abcdef".to_owned(),
            "no serving certificate",
        ),
    ];
    for (case, change, expected) in cases {
        let mut draft = Draft::serving();
        change(&mut draft);
        denied(case, &verdict(draft, None), expected);
    }
    for state in [
        InstanceState::Pending,
        InstanceState::Stopped,
        InstanceState::Terminated,
    ] {
        let mut gone = instances();
        gone[0].state = state;
        let request = Request::of(&Draft::serving().object());
        let verdict = judge(&request, None, &gone, NOW.parse().unwrap());
        denied(
            "an instance that does not run",
            &verdict,
            "no running instance",
        );
    }
}

#[test]
fn requests_to_other_signers_or_by_other_users_are_left_alone() {
    let mut other_signer = Draft::client();
    other_signer.signer = "example.com/signer";
    assert_eq!(verdict(other_signer, None), Verdict::Leave);
    let mut api_client = Draft::client();
    api_client.signer = "kubernetes.io/kube-apiserver-client";
    assert_eq!(verdict(api_client, None), Verdict::Leave);
    for mut draft in [Draft::client(), Draft::serving()] {
        draft.username = "kubernetes-admin".to_owned();
        assert_eq!(verdict(draft, None), Verdict::Leave);
    }
}

#[test]
fn a_rotation_is_left_to_kubernetes_and_another_nodes_name_is_denied() {
    let rotation = |name: &str| {
        let mut draft = Draft::client();
        draft.username = format!("system:node:{NODE}");
        draft.groups = vec!["system:nodes"];
        draft.name(name);
        verdict(draft, None)
    };
    assert_eq!(rotation(&format!("system:node:{NODE}")), Verdict::Leave);
    let other = rotation(&format!("system:node:{CONTROL_PLANE}"));
    denied("another's name", &other, "a name other than");
}

/// Readers that stop at the first list would not see what the second one asks for.
#[test]
fn a_second_list_of_extensions_is_denied_even_if_it_is_empty() {
    let mut draft = Draft::serving();
    draft.attributes.push(Attribute {
        // extensionRequest: a set of one empty list.
        oid: &[1, 2, 840, 113_549, 1, 9, 14],
        values: vec![0x31, 2, 0x30, 0],
    });
    denied("two lists", &verdict(draft, None), "extensions");
}

#[test]
fn an_unreadable_request_is_denied() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let whole = Draft::client().object()["spec"]["request"].clone();
    let pem = BASE64_STANDARD.decode(whole.as_str().unwrap()).unwrap();
    let twice = [pem.clone(), pem.clone()].concat();
    for (case, content) in [
        ("nothing", Vec::new()),
        ("a certificate", certificate.pem().into_bytes()),
        ("half a request", pem[..pem.len() / 2].to_vec()),
        ("two requests", twice),
        ("bytes", vec![0; 64]),
    ] {
        let mut object = Draft::client().object();
        object["spec"]["request"] = BASE64_STANDARD.encode(content).into();
        let request = Request::of(&object);
        let verdict = judge(&request, Some(&token()), &[], NOW.parse().unwrap());
        denied(case, &verdict, "cannot be read");
    }
}
