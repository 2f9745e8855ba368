//! Route 53 through its REST protocol: XML in and out.
//! <https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html>

use std::{net::Ipv4Addr, sync::Arc};

use async_trait::async_trait;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use super::{
    call::{Answer, Aws, Call},
    endpoint::Service,
};
use crate::{
    error::{Context, Error, Result},
    ports::{Dns, RecordSet},
};

const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";

/// The Route 53 API.
#[derive(Clone)]
pub struct Route53(Arc<Aws>);

impl Route53 {
    /// The Route 53 API with these credentials and endpoints.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(aws)
    }

    async fn done(&self, call: &Call, zone: &str) -> Result<String> {
        match self.0.call(call).await? {
            Answer::Done(body) => Ok(body),
            Answer::Rejected(no, role) => {
                let code = no.code.clone();
                let error = self.0.error(call, no, &role);
                Err(if code == "NoSuchHostedZone" {
                    error.hint(format!(
                        "dns.zone: `{zone}` is not a hosted zone of this account"
                    ))
                } else {
                    error
                })
            }
        }
    }
}

#[async_trait]
impl Dns for Route53 {
    async fn record(&self, zone: &str, name: &str) -> Result<Option<RecordSet>> {
        // A listing begins at the requested name and type, whether they exist or not.
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("maxitems", "1")
            .append_pair("name", name)
            .append_pair("type", "A")
            .finish();
        let call = Call {
            service: Service::Route53,
            action: "ListResourceRecordSets",
            method: Method::GET,
            path: format!("/2013-04-01/hostedzone/{zone}/rrset?{query}"),
            headers: Vec::new(),
            body: String::new(),
        };
        let body = self.done(&call, zone).await?;
        let listing: Listing = quick_xml::de::from_str(&body).attempting(unreadable)?;
        let found = listing.resource_record_sets.resource_record_set;
        let found = found.into_iter().find(|set| set.is_a_of(name));
        found.map(|set| set.into_record(name)).transpose()
    }

    async fn write(&self, zone: &str, name: &str, record: &RecordSet) -> Result<()> {
        let value = |address: &Ipv4Addr| Value {
            value: address.to_string(),
        };
        let request = Change {
            namespace: NAMESPACE,
            change_batch: Batch {
                changes: Changes {
                    change: One {
                        action: "UPSERT",
                        resource_record_set: Set {
                            name: name.to_owned(),
                            kind: "A".to_owned(),
                            policy: None,
                            ttl: Some(record.ttl),
                            resource_records: Some(Values {
                                resource_record: record.addresses.iter().map(value).collect(),
                            }),
                        },
                    },
                },
            },
        };
        let body = quick_xml::se::to_string(&request)
            .attempting(|| "cannot serialize the change of a record set".to_owned())?;
        let call = Call {
            service: Service::Route53,
            action: "ChangeResourceRecordSets",
            method: Method::POST,
            path: format!("/2013-04-01/hostedzone/{zone}/rrset/"),
            headers: vec![("content-type", "text/xml".to_owned())],
            body,
        };
        self.done(&call, zone).await.map(drop)
    }
}

fn unreadable() -> String {
    "cannot read Route 53's answer to ListResourceRecordSets".to_owned()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    #[serde(default)]
    resource_record_sets: Sets,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sets {
    #[serde(default)]
    resource_record_set: Vec<Set>,
}

#[derive(Serialize)]
#[serde(rename = "ChangeResourceRecordSetsRequest", rename_all = "PascalCase")]
struct Change {
    #[serde(rename = "@xmlns")]
    namespace: &'static str,
    change_batch: Batch,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Batch {
    changes: Changes,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Changes {
    change: One,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct One {
    action: &'static str,
    resource_record_set: Set,
}

/// A record set. With a routing policy there are several of one name, each with an identifier; an
/// alias has no records.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Set {
    name: String,
    #[serde(rename = "Type")]
    kind: String,
    #[serde(
        rename = "SetIdentifier",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    policy: Option<String>,
    #[serde(rename = "TTL", default, skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_records: Option<Values>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Values {
    #[serde(default)]
    resource_record: Vec<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Value {
    value: String,
}

impl Set {
    fn is_a_of(&self, name: &str) -> bool {
        let bare = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        self.kind == "A" && bare(&self.name) == bare(name)
    }

    fn into_record(self, name: &str) -> Result<RecordSet> {
        let (None, Some(ttl), Some(values)) = (self.policy, self.ttl, self.resource_records) else {
            return Err(Error::refused(format!(
                "{name} is an alias or has a routing policy: it is not overwritten"
            ))
            .hint("set dns.name to a name that only the agent uses, or remove that record set"));
        };
        let parse = |Value { value }: Value| {
            value
                .parse()
                .attempting(|| format!("Route 53 has the invalid address `{value}` for {name}"))
        };
        let addresses = values.resource_record.into_iter().map(parse);
        Ok(RecordSet {
            addresses: addresses.collect::<Result<_>>()?,
            ttl,
        })
    }
}

#[cfg(test)]
mod tests;
