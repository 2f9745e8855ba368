//! Which certificates a kubelet gets: from data to a verdict.
//!
//! The API server has already authenticated the requester and sets `spec.username` and
//! `spec.groups` itself. What is requested is in the request itself, which is parsed here.

use std::net::{IpAddr, Ipv4Addr};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::{node, tokens::Bound};
use crate::ports::{Instance, InstanceState};

/// The signer of the client certificates that kubelets use for the API.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of kubelets' serving certificates.
pub const SERVING: &str = "kubernetes.io/kubelet-serving";

const TOKEN_USER: &str = "system:bootstrap:";
const NODE_USER: &str = "system:node:";
const NODES: &str = "system:nodes";
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It gets its certificate.
    Approve,
    /// It gets none, for this reason.
    Deny(String),
    /// Not for this approver to decide.
    Leave,
}

/// The fields of a request that the verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The object's name, such as `csr-8b2xk`.
    pub name: String,
    /// The object's uid: a bootstrap token serves one object only.
    pub uid: String,
    signer: String,
    username: String,
    groups: Vec<String>,
    usages: Vec<String>,
    content: Result<Content, String>,
}

/// What the PKCS#10 request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    common_names: Vec<String>,
    organizations: Vec<String>,
    /// Whether the subject has any other attribute.
    more: bool,
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Whether it asks for other alternative names, or has other extensions or attributes.
    others: bool,
}

impl Request {
    /// Reads a `CertificateSigningRequest`.
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten();
            items.map(text).collect()
        };
        let spec = &object["spec"];
        Self {
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]),
            signer: text(&spec["signerName"]),
            username: text(&spec["username"]),
            groups: list(&spec["groups"]),
            usages: list(&spec["usages"]),
            content: content(&text(&spec["request"])),
        }
    }

    /// The authenticated user who sent it.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The id of the bootstrap token that requests a client certificate.
    pub fn token_id(&self) -> Option<&str> {
        let id = self.username.strip_prefix(TOKEN_USER)?;
        (self.signer == CLIENT).then_some(id)
    }

    /// The node that requests a serving certificate.
    pub fn serving_node(&self) -> Option<&str> {
        let node = self.username.strip_prefix(NODE_USER)?;
        (self.signer == SERVING).then_some(node)
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The content, if it asks for a kubelet certificate of this node with these usages.
    fn for_node(&self, node: &str, purpose: &str) -> Result<&Content, String> {
        let content = self.content.as_ref().map_err(Clone::clone)?;
        let [name] = &content.common_names[..] else {
            return Err("its subject does not have exactly one common name".to_owned());
        };
        if name.strip_prefix(NODE_USER) != Some(node) {
            return Err(format!("it requests a name other than {node}"));
        }
        if content.organizations != [NODES] || content.more {
            return Err(format!(
                "its subject must have the organization {NODES} and nothing else"
            ));
        }
        if content.others {
            return Err("it requests extensions that no kubelet needs".to_owned());
        }
        let allowed = |usage: &String| {
            [purpose, "digital signature", "key encipherment"].contains(&usage.as_str())
        };
        if !self.usages.iter().all(allowed) || !self.usages.iter().any(|usage| usage == purpose) {
            return Err(format!("its usages are not those of {purpose}"));
        }
        Ok(content)
    }
}

/// The verdict. `token` is what the cluster knows of the requesting token; `instances` are EC2's.
pub fn judge(
    request: &Request,
    token: Option<&Bound>,
    instances: &[Instance],
    now: Timestamp,
) -> Verdict {
    let outcome = match request.signer.as_str() {
        CLIENT if request.username.starts_with(TOKEN_USER) => client(request, token, now),
        // kubeadm's binding for rotation lets a kubelet renew its own name; it never gets
        // another's.
        CLIENT => match request.username.strip_prefix(NODE_USER) {
            Some(node) => match request.for_node(node, "client auth") {
                Ok(_) => return Verdict::Leave,
                Err(why) => Err(why),
            },
            None => return Verdict::Leave,
        },
        SERVING => match request.username.strip_prefix(NODE_USER) {
            Some(node) => serving(request, node, instances),
            None if request.username.starts_with(TOKEN_USER) => {
                Err("a bootstrap token gets no serving certificate".to_owned())
            }
            None => return Verdict::Leave,
        },
        _ => return Verdict::Leave,
    };
    outcome.map_or_else(Verdict::Deny, |()| Verdict::Approve)
}

/// A kubelet's first certificate: only for the name that its token was made for.
fn client(request: &Request, token: Option<&Bound>, now: Timestamp) -> Result<(), String> {
    if !request.is_in(BOOTSTRAPPERS) {
        return Err(format!("the requester is not in the group {BOOTSTRAPPERS}"));
    }
    let token = token.ok_or("its token no longer exists")?;
    let node = token
        .node
        .as_deref()
        .ok_or("its token was not created by a join service")?;
    if token.expires.is_none_or(|expires| expires <= now) {
        return Err("its token has expired".to_owned());
    }
    if token
        .used_by
        .as_ref()
        .is_some_and(|uid| *uid != request.uid)
    {
        return Err("its token has been used".to_owned());
    }
    let content = request.for_node(node, "client auth")?;
    if !content.dns_names.is_empty() || !content.addresses.is_empty() {
        return Err("a client certificate has no alternative names".to_owned());
    }
    Ok(())
}

/// A kubelet's serving certificate: only for the names and addresses that EC2 lists for it.
fn serving(request: &Request, node: &str, instances: &[Instance]) -> Result<(), String> {
    if !request.is_in(NODES) {
        return Err(format!("the requester is not in the group {NODES}"));
    }
    let content = request.for_node(node, "server auth")?;
    let instance = instances
        .iter()
        .find(|i| i.state == InstanceState::Running && node::name(i) == node)
        .ok_or("EC2 lists no running instance with that name in the cluster")?;
    if content.dns_names.is_empty() && content.addresses.is_empty() {
        return Err("it has no alternative names".to_owned());
    }
    if content.dns_names.iter().any(|name| name != node) {
        return Err("it requests a DNS name that EC2 does not list for the instance".to_owned());
    }
    let own = instance.private_ip.map(IpAddr::V4);
    if content
        .addresses
        .iter()
        .any(|address| Some(*address) != own)
    {
        return Err("it requests an address that EC2 does not list for the instance".to_owned());
    }
    Ok(())
}

/// Parses a PKCS#10 request in PEM, encoded as base64.
fn content(text: &str) -> Result<Content, String> {
    let unreadable = || "it cannot be read".to_owned();
    let pem = BASE64_STANDARD.decode(text).map_err(|_| unreadable())?;
    let (rest, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_| unreadable())?;
    if !rest.trim_ascii().is_empty() || pem.label != "CERTIFICATE REQUEST" {
        return Err(unreadable());
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| unreadable())?;
    if !rest.is_empty() {
        return Err(unreadable());
    }
    let info = &request.certification_request_info;
    let mut content = Content::default();
    let names = |found: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        let names = found
            .into_iter()
            .map(|name| name.as_str().map(str::to_owned));
        names
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| unreadable())
    };
    content.common_names = names(info.subject.iter_common_name().collect())?;
    content.organizations = names(info.subject.iter_organization().collect())?;
    let known = content.common_names.len() + content.organizations.len();
    content.more = info.subject.iter_attributes().count() != known;
    let mut asked = 0;
    // Not the library's own accessor for extensions: it stops at the first list of them.
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(list) = attribute.parsed_attribute() else {
            content.others = true;
            continue;
        };
        asked += 1;
        for extension in &list.extensions {
            read_extension(extension.parsed_extension(), &mut content);
        }
    }
    content.others |= asked > 1;
    Ok(content)
}

fn read_extension(extension: &ParsedExtension<'_>, content: &mut Content) {
    let ParsedExtension::SubjectAlternativeName(names) = extension else {
        content.others = true;
        return;
    };
    for name in &names.general_names {
        match name {
            GeneralName::DNSName(name) => content.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(octets) => content.addresses.push(Ipv4Addr::from(octets).into()),
                Err(_) => content.others = true,
            },
            _ => content.others = true,
        }
    }
}

#[cfg(test)]
mod tests;
