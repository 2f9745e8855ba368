//! Everything that a cluster needs in an AWS account, as one CloudFormation template.
//!
//! ```text
//! Request -> network   VPC, subnets, routes
//!         -> security  security groups: which port is open to whom
//!         -> access    IAM roles with the policies of docs/iam
//!         -> backups   a bucket for snapshots
//!         -> issuer    a public bucket and an identity provider, for roles of pods
//!         -> machines  launch templates and Auto Scaling groups, with our user-data
//!         -> page      how visitors reach the workers
//! ```
//!
//! The instances do the rest: the template has no signals, no custom resources and no secrets.

mod access;
mod backups;
mod issuer;
mod machines;
mod network;
mod page;
mod request;
mod security;
mod template;

pub use request::{Dns, Network, Outbound, Request, Size};

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    ports::Role,
};
use template::Template;

/// The most bytes that CloudFormation accepts in a request, as `--template-body`.
/// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html>
pub const LIMIT: usize = 51_200;

/// The template, as YAML.
pub fn render(request: &Request) -> Result<String> {
    request.validate()?;
    let cluster = &request.cluster;
    let mut template = Template::new(format!(
        "Kubernetes cluster {cluster}: its network, roles, Auto Scaling groups and backups"
    ));
    let network = network::add(&mut template, request)?;
    let groups = security::add(&mut template, request, &network);
    let buckets = Buckets {
        backups: backups::add(&mut template, &request.settings),
        issuer: issuer::add(&mut template, request),
    };
    access::add(&mut template, request, &buckets)?;
    let targets = page::add(&mut template, request, &network);
    machines::add(
        &mut template,
        request,
        &network,
        &groups,
        &buckets,
        &targets,
    )?;
    template.output(
        "Region",
        "Where the cluster is.",
        &json!({"Ref": "AWS::Region"}),
    );
    let text = template.to_yaml()?;
    if text.len() > LIMIT {
        return Err(Error::usage(format!(
            "the template has {} bytes, but CloudFormation accepts at most {LIMIT}",
            text.len()
        ))
        .hint(
            "the settings are in it twice, once for each role: \
             put large ones into the image as /etc/k8s-bootstrap/config.toml",
        ));
    }
    Ok(text)
}

/// References to the stack's own buckets, as far as it has them.
struct Buckets {
    backups: Option<Value>,
    issuer: Option<Value>,
}

/// A role as the start of a resource's name.
fn title(role: Role) -> &'static str {
    match role {
        Role::ControlPlane => "ControlPlane",
        Role::Worker => "Worker",
    }
}

#[cfg(test)]
mod tests;
