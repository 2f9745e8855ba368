//! The lab's own calls to the AWS API, over the servers' unix socket.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde_json::{Value, json};

use super::faults::Wanted;
use super::policies;
use crate::ec2::{ACCOUNT, IMAGE, INSTANCE_TYPE};
use crate::layout::Layout;
use crate::network::{REGION, SUBNETS, VPC_CIDR};
use crate::state::{Machine, MetadataOptions};

/// Longest call, which is a restart of moto.
const DEADLINE: Duration = Duration::from_secs(90);

/// An HTTP client without TLS, proxies or pools of idle connections.
pub fn plain() -> Result<reqwest::Client> {
    builder().build().context("cannot create an HTTP client")
}

fn builder() -> reqwest::ClientBuilder {
    // The builder requires a provider and roots even without TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(Vec::<reqwest::Certificate>::new())
        .pool_max_idle_per_host(0)
        .timeout(DEADLINE)
}

/// The text of the first element with this name.
pub fn element(xml: &str, name: &str) -> Option<String> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = xml[start..].find(&format!("</{name}>"))? + start;
    Some(xml[start..end].to_owned())
}

/// moto reads the service from the credential scope and checks no signature of the lab's own calls.
fn unsigned(scope: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=AKIALAB/20260101/{scope}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// Calls the AWS API.
pub struct Aws {
    client: reqwest::Client,
    /// Base URL of calls; the unix socket's client ignores the host.
    base: String,
}

/// The properties of a new instance.
pub struct Wish<'a> {
    /// The id of the subnet that it is launched in.
    pub subnet: &'a str,
    /// Its private address, a free one of the subnet.
    pub address: Ipv4Addr,
    /// The role's name, which is also its instance profile's.
    pub profile: &'a str,
    /// Its tags, each as key and value.
    pub tags: &'a [(String, String)],
    /// User-data before it is encoded in base64.
    pub user_data: &'a str,
    /// What its metadata service answers, and to which requests.
    pub metadata: MetadataOptions,
    /// Ids of security groups; without any, those of the VPC's default.
    pub security_groups: &'a [String],
}

impl Aws {
    /// A client for the lab's commands, over the servers' unix socket.
    pub fn over_socket(layout: &Layout) -> Result<Self> {
        let client = builder()
            .unix_socket(layout.socket())
            .build()
            .context("cannot create a client for the lab's socket")?;
        Ok(Self {
            client,
            base: "http://lab".into(),
        })
    }

    /// Whether the lab's servers answer.
    pub async fn is_up(&self) -> bool {
        let health = self
            .client
            .get(format!("{}/lab/health", self.base))
            .send()
            .await;
        health.is_ok_and(|response| response.status().is_success())
    }

    /// Replaces the faults that the lab's proxy injects into calls to AWS.
    pub async fn set_faults(&self, wanted: &Wanted) -> Result<()> {
        let response = self
            .client
            .post(format!("{}/lab/faults", self.base))
            .json(wanted)
            .send()
            .await
            .context("the lab's servers do not answer: is a lab up?")?;
        response
            .error_for_status()
            .context("the faults were refused")?;
        Ok(())
    }

    /// Restarts moto with the same state.
    pub async fn restart_moto(&self) -> Result<()> {
        let url = format!("{}/lab/moto-restart", self.base);
        let response = self
            .client
            .post(url)
            .send()
            .await
            .context("the lab's servers do not answer")?;
        if !response.status().is_success() {
            bail!("moto was not restarted: {}", response.text().await?);
        }
        Ok(())
    }

    /// One call of the query protocol; returns the XML of the answer.
    pub async fn call(
        &self,
        service: &str,
        action: &str,
        parameters: &[(String, String)],
    ) -> Result<String> {
        let (host, scope, version) = match service {
            "iam" => (
                "iam.amazonaws.com".to_owned(),
                "us-east-1/iam",
                "2010-05-08",
            ),
            "sts" => (
                format!("sts.{REGION}.amazonaws.com"),
                "eu-central-1/sts",
                "2011-06-15",
            ),
            "cloudformation" => (
                format!("cloudformation.{REGION}.amazonaws.com"),
                "eu-central-1/cloudformation",
                "2010-05-15",
            ),
            "autoscaling" => (
                format!("autoscaling.{REGION}.amazonaws.com"),
                "eu-central-1/autoscaling",
                "2011-01-01",
            ),
            _ => (
                format!("ec2.{REGION}.amazonaws.com"),
                "eu-central-1/ec2",
                "2016-11-15",
            ),
        };
        let mut body = format!("Action={action}&Version={version}");
        for (name, value) in parameters {
            let _ = write!(body, "&{name}={}", percent_encode(value));
        }
        let response = self
            .client
            .post(format!("{}/", self.base))
            .header("host", host)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", unsigned(scope))
            .body(body)
            .send()
            .await
            .with_context(|| format!("{service}:{action} got no answer: is a lab up?"))?;
        let status = response.status();
        let xml = response.text().await?;
        if !status.is_success() {
            bail!("{service}:{action} failed with {status}: {xml}");
        }
        Ok(xml)
    }

    /// One call of a REST protocol; returns the body of the answer.
    async fn rest(
        &self,
        (host, scope): (&str, &str),
        method: &str,
        path: &str,
        body: String,
    ) -> Result<String> {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let response = self
            .client
            .request(method, format!("{}/{path}", self.base))
            .header("host", host)
            .header("authorization", unsigned(scope))
            .body(body)
            .send()
            .await
            .with_context(|| format!("{host}/{path} got no answer: is a lab up?"))?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{host}/{path} failed with {status}: {text}");
        }
        Ok(text)
    }

    /// One call of Route 53.
    pub async fn route53(&self, method: &str, path: &str, body: String) -> Result<String> {
        let service = ("route53.amazonaws.com", "us-east-1/route53");
        self.rest(service, method, &format!("2013-04-01/{path}"), body)
            .await
    }

    pub(super) async fn s3(&self, method: &str, path: &str, body: String) -> Result<String> {
        let host = format!("s3.{REGION}.amazonaws.com");
        let scope = format!("{REGION}/s3");
        self.rest((&host, &scope), method, path, body).await
    }

    /// One call of Parameter Store.
    pub(super) async fn ssm(&self, action: &str, body: &Value) -> Result<Value> {
        let scope = format!("{REGION}/ssm");
        let response = self
            .client
            .post(format!("{}/", self.base))
            .header("host", format!("ssm.{REGION}.amazonaws.com"))
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("AmazonSSM.{action}"))
            .header("authorization", unsigned(&scope))
            .body(body.to_string())
            .send()
            .await
            .with_context(|| format!("ssm:{action} got no answer: is a lab up?"))?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("ssm:{action} failed with {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("ssm:{action} answered {text}"))
    }

    /// The keys of a cluster's record in Parameter Store.
    pub async fn record(&self, cluster: &str) -> Result<Vec<String>> {
        let path = format!("/k8s-bootstrap/{cluster}/");
        let answer = self
            .ssm(
                "GetParametersByPath",
                &json!({"Path": path, "Recursive": true}),
            )
            .await?;
        let parameters = answer["Parameters"].as_array().into_iter().flatten();
        let names = parameters.filter_map(|parameter| parameter["Name"].as_str());
        Ok(names
            .filter_map(|name| name.strip_prefix(&path))
            .map(str::to_owned)
            .collect())
    }

    /// Removes keys of a cluster's record, as a person might.
    pub async fn forget(&self, cluster: &str, keys: &[String]) -> Result<()> {
        let names: Vec<String> = keys
            .iter()
            .map(|key| format!("/k8s-bootstrap/{cluster}/{key}"))
            .collect();
        let answer = self
            .ssm("DeleteParameters", &json!({"Names": names}))
            .await?;
        match answer["InvalidParameters"].as_array() {
            Some(unknown) if !unknown.is_empty() => bail!("there are no keys {unknown:?}"),
            _ => Ok(()),
        }
    }

    /// Creates a bucket in the lab's region.
    pub async fn create_bucket(&self, name: &str) -> Result<()> {
        let place = format!(
            "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        );
        self.s3("PUT", name, place).await.map(drop)
    }

    /// Sets a bucket's policy.
    pub async fn put_bucket_policy(&self, bucket: &str, policy: String) -> Result<()> {
        let path = format!("{bucket}?policy");
        self.s3("PUT", &path, policy).await.map(drop)
    }

    /// The keys in a bucket with this prefix: at most a thousand, as in one answer.
    pub async fn objects(&self, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        let path = format!("{bucket}?list-type=2&prefix={}", percent_encode(prefix));
        let xml = self.s3("GET", &path, String::new()).await?;
        let keys = xml.split("<Key>").skip(1);
        Ok(keys
            .filter_map(|rest| rest.split_once("</Key>"))
            .map(|(key, _)| key.to_owned())
            .collect())
    }

    async fn call_for(
        &self,
        service: &str,
        action: &str,
        parameters: &[(&str, &str)],
        wanted: &str,
    ) -> Result<String> {
        let xml = self.call(service, action, &owned(parameters)).await?;
        element(&xml, wanted)
            .with_context(|| format!("{service}:{action} answered without {wanted}: {xml}"))
    }

    /// Creates the VPC and its subnets; returns the VPC's id and the subnets' by zone.
    pub async fn create_network(&self) -> Result<(String, BTreeMap<String, String>)> {
        let vpc = self
            .call_for("ec2", "CreateVpc", &[("CidrBlock", VPC_CIDR)], "vpcId")
            .await?;
        let mut ids = BTreeMap::new();
        for subnet in SUBNETS {
            let cidr = subnet.cidr();
            let parameters = [
                ("VpcId", vpc.as_str()),
                ("CidrBlock", &cidr),
                ("AvailabilityZone", subnet.zone),
            ];
            let id = self
                .call_for("ec2", "CreateSubnet", &parameters, "subnetId")
                .await?;
            ids.insert(subnet.zone.to_owned(), id);
        }
        Ok((vpc, ids))
    }

    /// Creates a node's IAM role and its instance profile.
    pub async fn create_role(&self, role: &str) -> Result<()> {
        let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;
        let parameters = [("RoleName", role), ("AssumeRolePolicyDocument", trust)];
        self.call("iam", "CreateRole", &owned(&parameters)).await?;
        self.put_policy(role, &[]).await?;
        let parameters = [("InstanceProfileName", role)];
        self.call("iam", "CreateInstanceProfile", &owned(&parameters))
            .await?;
        let parameters = [("InstanceProfileName", role), ("RoleName", role)];
        self.call("iam", "AddRoleToInstanceProfile", &owned(&parameters))
            .await?;
        Ok(())
    }

    /// Creates a role with these documents.
    pub async fn create_role_for_pods(&self, role: &str, trust: &str, policy: &str) -> Result<()> {
        let parameters = [("RoleName", role), ("AssumeRolePolicyDocument", trust)];
        self.call("iam", "CreateRole", &owned(&parameters)).await?;
        self.put_role_policy(role, policy).await
    }

    /// Creates an identity provider for tokens with one of these audiences.
    pub async fn create_identity_provider(&self, url: &str, clients: &[String]) -> Result<()> {
        let mut parameters = owned(&[("Url", url)]);
        for (place, client) in clients.iter().enumerate() {
            let name = format!("ClientIDList.member.{}", place + 1);
            parameters.push((name, client.clone()));
        }
        self.call("iam", "CreateOpenIDConnectProvider", &parameters)
            .await
            .map(drop)
    }

    /// Sets the policy of a node's role to that of docs/iam, without these actions.
    pub async fn put_policy(&self, role: &str, without: &[String]) -> Result<()> {
        self.put_role_policy(role, &policies::of(role, without)?)
            .await
    }

    /// Sets the only policy of a role.
    pub async fn put_role_policy(&self, role: &str, policy: &str) -> Result<()> {
        let parameters = [
            ("RoleName", role),
            ("PolicyName", "node"),
            ("PolicyDocument", policy),
        ];
        self.call("iam", "PutRolePolicy", &owned(&parameters))
            .await
            .map(|_| ())
    }

    /// Launches an instance; returns its id.
    pub async fn run_instance(&self, wish: &Wish<'_>) -> Result<String> {
        let address = wish.address.to_string();
        let user_data = base64::engine::general_purpose::STANDARD.encode(wish.user_data);
        let hop_limit = wish.metadata.hop_limit.to_string();
        let onoff = |on| if on { "enabled" } else { "disabled" };
        let mut parameters = owned(&[
            ("ImageId", IMAGE),
            ("InstanceType", INSTANCE_TYPE),
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("SubnetId", wish.subnet),
            ("PrivateIpAddress", address.as_str()),
            ("UserData", user_data.as_str()),
            ("IamInstanceProfile.Name", wish.profile),
            (
                "MetadataOptions.HttpTokens",
                if wish.metadata.tokens_required {
                    "required"
                } else {
                    "optional"
                },
            ),
            ("MetadataOptions.HttpEndpoint", onoff(wish.metadata.enabled)),
            (
                "MetadataOptions.HttpPutResponseHopLimit",
                hop_limit.as_str(),
            ),
            (
                "MetadataOptions.InstanceMetadataTags",
                onoff(wish.metadata.tags),
            ),
            ("TagSpecification.1.ResourceType", "instance"),
        ]);
        for (place, group) in wish.security_groups.iter().enumerate() {
            parameters.push((format!("SecurityGroupId.{}", place + 1), group.clone()));
        }
        for (place, (key, value)) in wish.tags.iter().enumerate() {
            let place = place + 1;
            parameters.push((format!("TagSpecification.1.Tag.{place}.Key"), key.clone()));
            parameters.push((
                format!("TagSpecification.1.Tag.{place}.Value"),
                value.clone(),
            ));
        }
        let xml = self.call("ec2", "RunInstances", &parameters).await?;
        element(&xml, "instanceId")
            .with_context(|| format!("RunInstances answered without an id: {xml}"))
    }

    /// `StartInstances`, `StopInstances` or `TerminateInstances`.
    pub async fn change_instance(&self, action: &str, id: &str) -> Result<()> {
        self.call("ec2", action, &owned(&[("InstanceId.1", id)]))
            .await
            .map(|_| ())
    }

    /// Temporary keys of a machine's role, with its id as the session's name.
    pub async fn assume_role(&self, machine: &Machine) -> Result<String> {
        let arn = format!("arn:aws:iam::{ACCOUNT}:role/{}", machine.iam_role());
        let parameters = [
            ("RoleArn", arn.as_str()),
            ("RoleSessionName", machine.id.as_str()),
        ];
        self.call("sts", "AssumeRole", &owned(&parameters)).await
    }
}

pub(super) fn owned(parameters: &[(&str, &str)]) -> Vec<(String, String)> {
    parameters
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elements_text_is_found_and_a_missing_one_gives_none() {
        let xml = "<a><instanceId>i-1</instanceId><instanceId>i-2</instanceId></a>";
        assert_eq!(element(xml, "instanceId").as_deref(), Some("i-1"));
        assert_eq!(element(xml, "vpcId"), None);
    }

    #[test]
    fn parameters_are_encoded_for_a_form() {
        assert_eq!(
            percent_encode("k8s-bootstrap:role=a b+/"),
            "k8s-bootstrap%3Arole%3Da%20b%2B%2F"
        );
    }
}
