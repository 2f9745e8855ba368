//! A CloudFormation template as the lab reads it: what moto leaves out of it, and what moto cannot
//! carry out.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::state::{Peers, Rule};
use crate::tls::bucket_host;

const PROVIDER: &str = "AWS::IAM::OIDCProvider";

/// A template.
pub struct Template(Value);

/// An Auto Scaling group, of which moto creates only the shell.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The logical name of its launch template.
    pub launch_template: String,
    /// The number of instances to launch at first.
    pub desired: usize,
    /// Termination hooks: name and time-out in seconds.
    pub hooks: Vec<(String, u64)>,
}

impl Template {
    /// Reads YAML.
    pub fn parse(text: &str) -> Result<Self> {
        serde_saphyr::from_str(text)
            .map(Self)
            .context("the template is not YAML")
    }

    fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let all = self.0["Resources"]
            .as_object()
            .into_iter()
            .flat_map(Map::values);
        all.filter(move |resource| resource["Type"] == kind)
            .map(|resource| &resource["Properties"])
    }

    /// The template as JSON, for moto:
    ///
    /// - It looks up the default of a parameter that another value replaces, so `image` becomes the
    ///   default.
    /// - Its groups would launch instances without machines, so they get none.
    /// - It has neither identity providers nor policies of buckets in stacks: see
    ///   `identity_providers` and `bucket_policies`.
    /// - It stores a role's policies in a form that its own check cannot read: see `policies`.
    pub fn for_moto(&self, image: &str) -> String {
        let mut template = self.0.clone();
        let all = self.0["Resources"].as_object().into_iter().flatten();
        let providers: Vec<Value> = all
            .filter(|(_, resource)| resource["Type"] == PROVIDER)
            .map(|(name, _)| name.as_str().into())
            .collect();
        for parameter in values_of(&mut template["Parameters"]) {
            let kind = parameter["Type"].as_str().unwrap_or_default();
            if kind.starts_with("AWS::SSM::Parameter") {
                parameter["Default"] = image.into();
            }
        }
        for resource in values_of(&mut template["Resources"]) {
            let kind = resource["Type"].as_str().unwrap_or_default().to_owned();
            let properties = &mut resource["Properties"];
            match kind.as_str() {
                "AWS::AutoScaling::AutoScalingGroup" => {
                    properties["DesiredCapacity"] = json!(0);
                    properties["MinSize"] = json!(0);
                    properties["MaxSize"] = json!(100);
                }
                "AWS::IAM::Role" => {
                    properties["Policies"] = json!([]);
                }
                _ => {}
            }
        }
        for part in ["Resources", "Outputs"] {
            let Some(part) = template[part].as_object_mut() else {
                continue;
            };
            part.retain(|_, item| {
                item["Type"] != PROVIDER && !providers.contains(&item["Value"]["Ref"])
            });
        }
        template.to_string()
    }

    /// The identity providers' addresses and audiences. `ids` are the ids of the template's
    /// resources.
    pub fn identity_providers(
        &self,
        ids: &BTreeMap<String, String>,
    ) -> Result<Vec<(String, Vec<String>)>> {
        let providers = self.of_type(PROVIDER).map(|provider| {
            let provider = of_buckets(provider, ids);
            let address = provider["Url"].as_str();
            let clients = provider["ClientIdList"].as_array().into_iter().flatten();
            let clients = clients.filter_map(Value::as_str).map(str::to_owned);
            Ok((
                address
                    .context("an identity provider has no address")?
                    .to_owned(),
                clients.collect(),
            ))
        });
        providers.collect()
    }

    /// The buckets' policies, by the buckets' names. moto would apply a statement whatever its
    /// condition says, so those with one are left out.
    pub fn bucket_policies(&self, ids: &BTreeMap<String, String>) -> Result<Vec<(String, String)>> {
        let mut policies = Vec::new();
        for policy in self.of_type("AWS::S3::BucketPolicy") {
            let policy = of_buckets(policy, ids);
            let bucket = policy["Bucket"].as_str();
            let bucket = bucket.context("a bucket's policy has no bucket")?;
            let mut document = policy["PolicyDocument"].clone();
            let statements = document["Statement"].as_array_mut();
            let statements = statements.context("a bucket's policy has no statements")?;
            statements.retain(|statement| statement.get("Condition").is_none());
            if !statements.is_empty() {
                policies.push((bucket.to_owned(), document.to_string()));
            }
        }
        Ok(policies)
    }

    /// The policies of the roles, by the roles' names in the template. moto passes no resource to
    /// its check, so each statement allows all of them.
    pub fn policies(&self) -> Vec<(String, String)> {
        let all = self.0["Resources"].as_object().into_iter().flatten();
        let roles = all.filter(|(_, resource)| resource["Type"] == "AWS::IAM::Role");
        let policies = roles.flat_map(|(name, role)| {
            let policies = role["Properties"]["Policies"].as_array();
            let documents = policies.into_iter().flatten();
            documents.map(move |policy| (name.clone(), allowing_all(&policy["PolicyDocument"])))
        });
        policies.collect()
    }

    /// The groups.
    pub fn groups(&self) -> Result<Vec<Group>> {
        let groups = self.of_type("AWS::AutoScaling::AutoScalingGroup");
        groups.map(|group| self.group(group)).collect()
    }

    fn group(&self, group: &Value) -> Result<Group> {
        let text = |value: &Value, what| {
            let text = value.as_str().map(str::to_owned);
            text.with_context(|| format!("a group of the template has no {what}: {group}"))
        };
        let desired = match group["DesiredCapacity"]["Ref"].as_str() {
            Some(parameter) => &self.0["Parameters"][parameter]["Default"],
            None => &group["DesiredCapacity"],
        };
        let hooks = group["LifecycleHookSpecificationList"].as_array();
        let hooks = hooks
            .into_iter()
            .flatten()
            .filter(|hook| hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING");
        Ok(Group {
            name: text(&group["AutoScalingGroupName"], "name")?,
            launch_template: text(
                &group["LaunchTemplate"]["LaunchTemplateId"]["Ref"],
                "launch template of its own",
            )?,
            desired: desired
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .with_context(|| format!("a group of the template has no size: {group}"))?,
            hooks: hooks
                .map(|hook| {
                    let seconds = hook["HeartbeatTimeout"].as_u64().unwrap_or(3600);
                    Ok((
                        text(&hook["LifecycleHookName"], "name of its hook")?,
                        seconds,
                    ))
                })
                .collect::<Result<_>>()?,
        })
    }

    /// What the security groups admit. `ids` are the ids of the template's resources.
    pub fn rules(&self, ids: &BTreeMap<String, String>) -> Result<Vec<Rule>> {
        let id = |reference: &Value| {
            let name = reference["Ref"].as_str().unwrap_or_default();
            let id = ids.get(name).cloned();
            id.with_context(|| format!("{reference} is no resource of the stack"))
        };
        let port = |value: &Value| {
            let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
            port.with_context(|| format!("{value} is no port"))
        };
        let rules = self.of_type("AWS::EC2::SecurityGroupIngress").map(|rule| {
            Ok(Rule {
                to: id(&rule["GroupId"])?,
                from: match rule["CidrIp"].as_str() {
                    Some(network) => Peers::Network(network.to_owned()),
                    None => Peers::Group(id(&rule["SourceSecurityGroupId"])?),
                },
                protocol: rule["IpProtocol"].as_str().unwrap_or_default().to_owned(),
                ports: (port(&rule["FromPort"])?, port(&rule["ToPort"])?),
            })
        });
        rules.collect()
    }
}

/// The value with what it says of buckets filled in: their names, ARNs and addresses.
fn of_buckets(value: &Value, ids: &BTreeMap<String, String>) -> Value {
    let attribute = |id: &str, name: &str| match name {
        "Arn" => format!("arn:aws:s3:::{id}"),
        _ => bucket_host(id),
    };
    if let Some(id) = value["Ref"].as_str().and_then(|name| ids.get(name)) {
        return json!(id);
    }
    if let Some([resource, name]) = value["Fn::GetAtt"].as_array().map(Vec::as_slice)
        && let (Some(resource), Some(name)) = (resource.as_str(), name.as_str())
        && let Some(id) = ids.get(resource)
    {
        return json!(attribute(id, name));
    }
    if let Some(text) = value["Fn::Sub"].as_str() {
        let filled = ids.iter().fold(text.to_owned(), |text, (resource, id)| {
            ["Arn", "RegionalDomainName"]
                .iter()
                .fold(text, |text, name| {
                    text.replace(&format!("${{{resource}.{name}}}"), &attribute(id, name))
                })
        });
        return json!(filled);
    }
    match value {
        Value::Array(items) => items.iter().map(|item| of_buckets(item, ids)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            let filled = fields.map(|(name, field)| (name.clone(), of_buckets(field, ids)));
            Value::Object(filled.collect())
        }
        other => other.clone(),
    }
}

/// A policy whose statements apply to every resource, without conditions.
fn allowing_all(policy: &Value) -> String {
    let mut policy = policy.clone();
    for statement in items_of(&mut policy["Statement"]) {
        statement["Resource"] = json!("*");
        if let Some(statement) = statement.as_object_mut() {
            statement.remove("Condition");
        }
    }
    policy.to_string()
}

fn values_of(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_object_mut().into_iter().flat_map(Map::values_mut)
}

fn items_of(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_array_mut().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = r"
Outputs:
  Provider: {Value: {Ref: Provider}}
  Role: {Value: {Ref: Role}}
Parameters:
  Image: {Type: 'AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>', Default: /aws/ubuntu}
  Workers: {Type: Number, Default: 2}
Resources:
  Public:
    Type: AWS::S3::BucketPolicy
    Properties:
      Bucket: {Ref: Keys}
      PolicyDocument:
        Statement:
        - Resource: [{'Fn::Sub': '${Keys.Arn}/a'}, {'Fn::GetAtt': [Keys, Arn]}, other]
        - {Effect: Deny, Condition: {c: d}}
  Private:
    Type: AWS::S3::BucketPolicy
    Properties:
      Bucket: {Ref: Keys}
      PolicyDocument: {Statement: [{Effect: Deny, Condition: {c: d}}]}
  Provider:
    Type: AWS::IAM::OIDCProvider
    Properties:
      Url: {'Fn::Sub': 'https://${Keys.RegionalDomainName}'}
      ClientIdList: [sts.amazonaws.com]
  Role:
    Type: AWS::IAM::Role
    Properties:
      Policies:
      - PolicyDocument: {Statement: [{Action: [a:B], Resource: x, Condition: {c: d}}]}
  Http:
    Type: AWS::EC2::SecurityGroupIngress
    Properties: {GroupId: {Ref: Nodes}, CidrIp: 0.0.0.0/0, IpProtocol: tcp, FromPort: 80, ToPort: 81}
  Etcd:
    Type: AWS::EC2::SecurityGroupIngress
    Properties:
      GroupId: {Ref: Nodes}
      SourceSecurityGroupId: {Ref: Nodes}
      IpProtocol: tcp
      FromPort: 2379
      ToPort: 2379
  Group:
    Type: AWS::AutoScaling::AutoScalingGroup
    Properties:
      AutoScalingGroupName: demo-workers
      DesiredCapacity: {Ref: Workers}
      LaunchTemplate: {LaunchTemplateId: {Ref: Launch}}
      LifecycleHookSpecificationList:
      - LifecycleHookName: drain
        LifecycleTransition: autoscaling:EC2_INSTANCE_TERMINATING
        HeartbeatTimeout: 300
";

    #[test]
    fn groups_and_rules_are_read_with_what_they_refer_to() {
        let template = Template::parse(TEXT).unwrap();
        assert_eq!(
            template.groups().unwrap(),
            [Group {
                name: "demo-workers".to_owned(),
                launch_template: "Launch".to_owned(),
                desired: 2,
                hooks: vec![("drain".to_owned(), 300)],
            }]
        );
        let ids = BTreeMap::from([("Nodes".to_owned(), "sg-1".to_owned())]);
        let rules = template.rules(&ids).unwrap();
        let from: Vec<_> = rules.iter().map(|rule| (&rule.from, rule.ports)).collect();
        let everyone = Peers::Network("0.0.0.0/0".to_owned());
        let nodes = Peers::Group("sg-1".to_owned());
        assert_eq!(from, [(&nodes, (2379, 2379)), (&everyone, (80, 81))]);
        assert!(template.rules(&BTreeMap::new()).is_err());
    }

    #[test]
    fn moto_gets_what_it_can_carry_out() {
        let text = Template::parse(TEXT).unwrap().for_moto("/lab/image");
        let template: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(template["Parameters"]["Image"]["Default"], "/lab/image");
        let resources = &template["Resources"];
        assert_eq!(resources["Group"]["Properties"]["DesiredCapacity"], 0);
        assert_eq!(resources["Role"]["Properties"]["Policies"], json!([]));
        assert!(resources.get("Provider").is_none());
        assert!(template["Outputs"].get("Provider").is_none());
        assert_eq!(template["Outputs"]["Role"]["Value"]["Ref"], "Role");
    }

    #[test]
    fn addresses_and_policies_of_buckets_are_filled_in() {
        let ids = BTreeMap::from([("Keys".to_owned(), "keys-1".to_owned())]);
        let template = Template::parse(TEXT).unwrap();
        assert_eq!(
            template.identity_providers(&ids).unwrap(),
            [(
                "https://keys-1.s3.eu-central-1.amazonaws.com".to_owned(),
                vec!["sts.amazonaws.com".to_owned()]
            )]
        );
        let policy = r#"{"Statement":[{"Resource":["arn:aws:s3:::keys-1/a","arn:aws:s3:::keys-1","other"]}]}"#;
        assert_eq!(
            template.bucket_policies(&ids).unwrap(),
            [("keys-1".to_owned(), policy.to_owned())]
        );
    }

    #[test]
    fn a_roles_policy_is_kept_apart_and_allows_its_actions_on_everything() {
        let policies = Template::parse(TEXT).unwrap().policies();
        let text = r#"{"Statement":[{"Action":["a:B"],"Resource":"*"}]}"#;
        assert_eq!(policies, [("Role".to_owned(), text.to_owned())]);
    }
}
