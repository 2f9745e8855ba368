//! IAM roles, their policies and instance profiles.
//!
//! docs/iam has the policies for people who make their roles themselves. The stack takes the same
//! files, without the statements that the settings do not need.

use serde_json::{Value, json};

use super::{
    Buckets, backups, issuer,
    request::Request,
    template::{Resource, Template, reference, substitute},
    title,
};
use crate::{
    config::{Settings, StoreKind},
    error::{Context, Result},
    ports::{Place, Role},
};

/// The policy of a role, with placeholders.
fn policy(role: Role) -> &'static str {
    match role {
        Role::ControlPlane => include_str!("../../docs/iam/control-plane.json"),
        Role::Worker => include_str!("../../docs/iam/worker.json"),
    }
}

/// The resource of a role's instance profile.
pub fn profile(role: Role) -> String {
    format!("{}Profile", title(role))
}

fn resource_of(role: Role) -> String {
    format!("{}Role", title(role))
}

/// Adds roles and instance profiles.
pub fn add(template: &mut Template, request: &Request, buckets: &Buckets) -> Result<()> {
    for role in [Role::ControlPlane, Role::Worker] {
        // By default, control planes admit a worker only if its role is named like its profile.
        let name = substitute(&format!("{}-{role}-${{AWS::Region}}", request.cluster));
        let trust = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Principal": {"Service": substitute("ec2.${AWS::URLSuffix}")},
                "Action": "sts:AssumeRole",
            }],
        });
        let document = document(role, request, buckets)?;
        let properties = json!({
            "RoleName": name,
            "AssumeRolePolicyDocument": trust,
            "Policies": [{"PolicyName": "node", "PolicyDocument": document}],
        });
        template.resource(
            resource_of(role),
            Resource::new("AWS::IAM::Role", properties),
        );
        let properties = json!({
            "InstanceProfileName": name,
            "Roles": [reference(&resource_of(role))],
        });
        template.resource(
            profile(role),
            Resource::new("AWS::IAM::InstanceProfile", properties),
        );
    }
    Ok(())
}

/// A role's policy for these settings.
fn document(role: Role, request: &Request, buckets: &Buckets) -> Result<Value> {
    let mut policy: Value = serde_json::from_str(policy(role))
        .attempting(|| format!("docs/iam/{role}.json is not JSON"))?;
    let settings = &request.settings;
    let (bucket, prefix) = match &buckets.backups {
        Some(_) => (own(backups::BUCKET), below(&request.cluster)),
        None => place(&settings.snapshots.to),
    };
    let (public, issuer) = match &buckets.issuer {
        Some(_) => (own(issuer::BUCKET), String::new()),
        None => place(&settings.service_accounts.publish_to),
    };
    // A star for the architecture: groups of either may follow.
    let bundle = settings.bundle.url.replace("{arch}", "*");
    let objects = objects(request.urls.iter().chain([&bundle]));
    let filled = |text: &str| {
        text.replace("PARTITION", "${AWS::Partition}")
            .replace("REGION", "${AWS::Region}")
            .replace("ACCOUNT", "${AWS::AccountId}")
            .replace("BUCKET", &bucket)
            .replace("PREFIX/", &prefix)
            .replace("PUBLIC", &public)
            .replace("ISSUER/", &issuer)
            .replace("STORE", &settings.store.bucket)
            .replace("ZONE", &settings.dns.zone)
            .replace(
                "k8s-bootstrap/CLUSTER",
                &format!("{}/CLUSTER", &settings.store.prefix[1..]),
            )
            .replace("CLUSTER", &request.cluster)
    };
    for statement in policy["Statement"].as_array_mut().into_iter().flatten() {
        if statement["Sid"] == DOWNLOAD {
            statement["Resource"] = objects.iter().map(|object| json!(object)).collect();
        }
        fill(statement, &filled);
    }
    if let Some(statements) = policy["Statement"].as_array_mut() {
        statements.retain(|statement| match statement["Sid"].as_str() {
            Some(DOWNLOAD) => !objects.is_empty(),
            Some("ListBackups" | "TakeAndRestoreBackups") => !bucket.is_empty(),
            Some("PublishKeys") => !public.is_empty(),
            Some(sid) => is_needed(sid, settings),
            None => true,
        });
        let parameters = settings.images.logins.values();
        let parameters: Vec<&str> = parameters.filter_map(|p| p.strip_prefix("ssm:")).collect();
        if !parameters.is_empty() {
            statements.push(logins(&parameters));
        }
        if role == Role::ControlPlane && !settings.snapshots.kms_key.is_empty() {
            statements.push(key(&settings.snapshots.kms_key));
        }
    }
    Ok(policy)
}

/// The name of a bucket of the stack's.
fn own(resource: &str) -> String {
    format!("${{{resource}}}")
}

/// The bucket of a place in the settings, and what its keys begin with; empty if it is no bucket.
fn place(url: &str) -> (String, String) {
    match Place::parse(url) {
        Ok(Place::Bucket { bucket, prefix }) => (bucket, below(&prefix)),
        _ => Default::default(),
    }
}

/// What the keys below a prefix begin with.
fn below(prefix: &str) -> String {
    if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    }
}

/// Lets nodes read the logins of registries. The key of Parameter Store decrypts for everybody who may
/// read; for a key of one's own, that key's policy has to name the role.
fn logins(parameters: &[&str]) -> Value {
    let arns = parameters.iter().map(|name| {
        let name = name.trim_start_matches('/');
        substitute(&format!(
            "arn:${{AWS::Partition}}:ssm:${{AWS::Region}}:${{AWS::AccountId}}:parameter/{name}"
        ))
    });
    json!({
        "Sid": "ReadLoginsOfRegistries",
        "Effect": "Allow",
        "Action": ["ssm:GetParameter"],
        "Resource": arns.collect::<Vec<_>>(),
    })
}

/// Lets S3 encrypt and decrypt backups with a key: by its ARN, its alias or its id.
fn key(name: &str) -> Value {
    let mut statement = json!({
        "Sid": "UseTheKeyOfBackups",
        "Effect": "Allow",
        "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
        "Resource": substitute(&format!(
            "arn:${{AWS::Partition}}:kms:${{AWS::Region}}:${{AWS::AccountId}}:key/{name}"
        )),
    });
    if name.starts_with("arn:") {
        statement["Resource"] = json!(name);
    } else if name.starts_with("alias/") {
        // A policy cannot name an alias as a resource.
        statement["Resource"] = json!("*");
        statement["Condition"] = json!({"ForAnyValue:StringEquals": {"kms:ResourceAliases": name}});
    }
    statement
}

/// The statement for agents in private buckets.
const DOWNLOAD: &str = "DownloadTheAgent";

/// Whether these settings need a statement; docs/operations.md has the same as a table.
fn is_needed(sid: &str, settings: &Settings) -> bool {
    match sid {
        "ReadRecord" | "Found" => settings.store.kind == StoreKind::Ssm,
        "ListRecordInBucket" | "ReadRecordInBucket" | "FoundInBucket" => {
            settings.store.kind == StoreKind::S3
        }
        "RecordInTags" => settings.store.kind == StoreKind::None,
        "KeepTheWorkersName" => settings.dns.enabled,
        _ => true,
    }
}

/// The ARNs of what is downloaded from buckets, with placeholders: agents and a bundle.
fn objects<'a>(urls: impl Iterator<Item = &'a String>) -> Vec<String> {
    let keys = urls.filter_map(|url| url.strip_prefix("s3://"));
    keys.map(|key| format!("arn:PARTITION:s3:::{key}"))
        .collect()
}

/// Replaces the placeholders in every text below `value`. A text that then contains a reference
/// becomes an `Fn::Sub`.
fn fill(value: &mut Value, filled: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => {
            let text = filled(text);
            *value = if text.contains("${") {
                substitute(&text)
            } else {
                json!(text)
            };
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, filled)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill(field, filled)),
        _ => {}
    }
}
