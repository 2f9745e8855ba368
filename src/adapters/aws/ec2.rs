//! EC2 through its query protocol: form in, XML out.
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    call::{Aws, Call},
    endpoint::Service,
};
use crate::{
    config::tags,
    error::{Context, Error, Result},
    ports::{Ec2, Instance, InstanceState},
};

const API_VERSION: &str = "2016-11-15";
/// The most that EC2 returns in one page.
const PAGE: &str = "1000";
/// The most values that a filter may have.
const FILTER_VALUES: usize = 200;

/// The EC2 API.
#[derive(Clone)]
pub struct Ec2Api(Arc<Aws>);

impl Ec2Api {
    /// The EC2 API with these credentials and endpoints.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(aws)
    }
}

#[async_trait]
impl Ec2 for Ec2Api {
    async fn instances(&self, cluster: &str) -> Result<Vec<Instance>> {
        let filter = format!("tag:{}", tags::CLUSTER);
        self.found_by(&filter, &[cluster]).await
    }

    async fn by_ids(&self, ids: &[&str]) -> Result<Vec<Instance>> {
        let mut found = Vec::new();
        // As a filter: if one is requested by id and does not exist, the whole call fails.
        for ids in ids.chunks(FILTER_VALUES) {
            found.extend(self.found_by("instance-id", ids).await?);
        }
        Ok(found)
    }

    async fn tag(&self, instance: &str, key: &str, value: &str) -> Result<()> {
        let parameters = [
            ("ResourceId.1", instance),
            ("Tag.1.Key", key),
            ("Tag.1.Value", value),
        ];
        self.0
            .done(&call("CreateTags", &parameters))
            .await
            .map(drop)
    }
}

impl Ec2Api {
    /// All pages of the instances for which this filter has one of these values.
    async fn found_by(&self, filter: &str, values: &[&str]) -> Result<Vec<Instance>> {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let call = describe(filter, values, token.as_deref());
            let body = self.0.done(&call).await?;
            let page: Page = quick_xml::de::from_str(&body)
                .attempting(|| "cannot read EC2's answer to DescribeInstances".to_owned())?;
            for reservation in page.reservations.item {
                for item in reservation.instances.item {
                    found.push(item.into_instance()?);
                }
            }
            let next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                break;
            }
            if next == token {
                return Err(Error::failed(
                    "EC2 returned the same page of DescribeInstances twice",
                ));
            }
            token = next;
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }
}

fn describe(filter: &str, values: &[&str], token: Option<&str>) -> Call {
    let names: Vec<String> = (1..=values.len())
        .map(|number| format!("Filter.1.Value.{number}"))
        .collect();
    let mut parameters = vec![("Filter.1.Name", filter)];
    parameters.extend(names.iter().map(String::as_str).zip(values.iter().copied()));
    parameters.push(("MaxResults", PAGE));
    parameters.extend(token.map(|token| ("NextToken", token)));
    call("DescribeInstances", &parameters)
}

fn call(action: &'static str, parameters: &[(&str, &str)]) -> Call {
    Call::query(Service::Ec2, API_VERSION, action, parameters)
}

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "reservationSet", default)]
    reservations: Items<Reservation>,
    #[serde(rename = "nextToken", default)]
    next_token: Option<String>,
}

#[derive(Deserialize)]
struct Items<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Deserialize)]
struct Reservation {
    #[serde(rename = "instancesSet", default)]
    instances: Items<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    instance_id: String,
    instance_state: State,
    #[serde(default)]
    private_ip_address: String,
    /// The public address.
    #[serde(default)]
    ip_address: String,
    #[serde(default)]
    private_dns_name: String,
    #[serde(default)]
    iam_instance_profile: Profile,
    launch_time: Timestamp,
    #[serde(default)]
    placement: Placement,
    #[serde(default)]
    instance_type: String,
    #[serde(default)]
    tag_set: Items<Tag>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Placement {
    #[serde(default)]
    availability_zone: String,
}

#[derive(Default, Deserialize)]
struct Profile {
    /// `arn:aws:iam::ACCOUNT:instance-profile/PATH/NAME`
    #[serde(default)]
    arn: String,
}

#[derive(Deserialize)]
struct State {
    name: InstanceState,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

impl Item {
    fn into_instance(self) -> Result<Instance> {
        let address = |text: &str| match text {
            "" => Ok(None),
            text => text.parse::<Ipv4Addr>().map(Some).attempting(|| {
                format!(
                    "EC2 reports the invalid address `{text}` for instance {}",
                    self.instance_id
                )
            }),
        };
        let private_ip = address(&self.private_ip_address)?;
        let public_ip = address(&self.ip_address)?;
        let tags: BTreeMap<String, String> = self
            .tag_set
            .item
            .into_iter()
            .map(|tag| (tag.key, tag.value))
            .collect();
        Ok(Instance {
            role: tags.get(tags::ROLE).and_then(|role| role.parse().ok()),
            state: self.instance_state.name,
            private_ip,
            public_ip,
            private_dns_name: Some(self.private_dns_name).filter(|name| !name.is_empty()),
            profile: self
                .iam_instance_profile
                .arn
                .rsplit_once('/')
                .map(|(_, name)| name.to_owned()),
            launched: self.launch_time,
            zone: self.placement.availability_zone,
            instance_type: self.instance_type,
            tags,
            id: self.instance_id,
        })
    }
}
