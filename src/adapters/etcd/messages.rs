//! etcd's messages as its gateway writes them in JSON: fields at their defaults are left
//! out, 64-bit numbers are texts, bytes are base64.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, de::Error as _};
use url::{Host, Url};

use crate::{
    error::{Context, Error, Result},
    ports::{Alarm, Database, Member, RaisedAlarm},
};

/// The answer to `member/list`.
#[derive(Deserialize)]
pub struct MemberList {
    #[serde(default)]
    members: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "ID", deserialize_with = "number")]
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default)]
    learner: bool,
}

impl MemberList {
    /// The members, sorted by name and id.
    pub fn members(self) -> Result<Vec<Member>> {
        let mut members = self
            .members
            .into_iter()
            .map(|listed| {
                Ok(Member {
                    address: address(&listed)?,
                    id: listed.id,
                    name: listed.name,
                    learner: listed.learner,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(members)
    }
}

fn address(listed: &Listed) -> Result<Ipv4Addr> {
    let hosts = listed
        .peer_urls
        .iter()
        .filter_map(|url| Some(Url::parse(url).ok()?.host()?.to_owned()));
    for host in hosts {
        if let Host::Ipv4(address) = host {
            return Ok(address);
        }
    }
    Err(Error::failed(format!(
        "etcd's member {:x} has no IPv4 address among its peer URLs {:?}",
        listed.id, listed.peer_urls
    )))
}

/// The answer to `status`, as far as it matters.
#[derive(Deserialize)]
pub struct Status {
    #[serde(default)]
    header: Header,
    /// The member that leads as far as this one knows; 0 for none.
    #[serde(default, deserialize_with = "number")]
    pub leader: u64,
    /// What the member says is wrong: an alarm of any member, no leader.
    #[serde(default)]
    errors: Vec<String>,
    /// The last entry of the log that it knows to be agreed.
    #[serde(rename = "raftIndex", default, deserialize_with = "number")]
    pub agreed: u64,
    /// The last entry that it has carried out.
    #[serde(rename = "raftAppliedIndex", default, deserialize_with = "number")]
    pub applied: u64,
    #[serde(rename = "dbSize", default, deserialize_with = "number")]
    bytes: u64,
    #[serde(rename = "dbSizeInUse", default, deserialize_with = "number")]
    in_use: u64,
    /// Since etcd 3.6; 0 from older ones.
    #[serde(rename = "dbSizeQuota", default, deserialize_with = "number")]
    quota: u64,
}

/// What stands at the head of every answer, as far as it matters.
#[derive(Default, Deserialize)]
struct Header {
    #[serde(default, deserialize_with = "number")]
    cluster_id: u64,
    #[serde(default, deserialize_with = "number")]
    revision: u64,
}

impl Status {
    /// The id that etcd gave to its cluster.
    pub fn cluster(&self) -> u64 {
        self.header.cluster_id
    }

    /// The revision of its newest key.
    pub fn revision(&self) -> u64 {
        self.header.revision
    }

    /// The size of its database.
    pub fn database(&self) -> Database {
        Database {
            bytes: self.bytes,
            in_use: self.in_use,
            quota: self.quota,
        }
    }

    /// The alarms of all members.
    pub fn alarms(&self) -> BTreeSet<RaisedAlarm> {
        self.errors.iter().filter_map(|text| alarm(text)).collect()
    }
}

/// An alarm as `errors` shows it, a message of protobuf as text: `memberID:7 alarm:NOSPACE`.
/// How many spaces there are between the fields is left open by protobuf.
fn alarm(text: &str) -> Option<RaisedAlarm> {
    let field = |name: &str| {
        let mut words = text.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))
    };
    Some(RaisedAlarm {
        member: field("memberID").map_or(Ok(0), str::parse).ok()?,
        alarm: match field("alarm")? {
            "NOSPACE" => Alarm::NoSpace,
            "CORRUPT" => Alarm::Corrupt,
            _ => return None,
        },
    })
}

/// A line of the answer to `snapshot`.
#[derive(Deserialize)]
pub struct Piece {
    result: Option<Part>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    blob: String,
    #[serde(default, deserialize_with = "number")]
    remaining_bytes: u64,
}

/// The next bytes of a snapshot.
pub struct Bytes {
    /// They.
    pub content: Vec<u8>,
    /// How many follow.
    pub remaining: u64,
}

impl Piece {
    /// The bytes of a line of the stream.
    pub fn read(line: &[u8]) -> Result<Bytes> {
        let what = || "etcd sent a part of the snapshot that cannot be read".to_owned();
        let piece: Self = serde_json::from_slice(line).attempting(what)?;
        match piece {
            Self {
                error: Some(refusal),
                ..
            } => Err(Error::failed(refusal.text())),
            Self {
                result: Some(part), ..
            } => Ok(Bytes {
                content: BASE64_STANDARD.decode(part.blob).attempting(what)?,
                remaining: part.remaining_bytes,
            }),
            Self { .. } => Err(Error::failed(what())),
        }
    }
}

/// What etcd says when it does not do what was asked.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl Refusal {
    /// A refusal from an answer that was not a success.
    pub fn read(status: u16, body: &str) -> Self {
        serde_json::from_str(body).unwrap_or_else(|_| Self {
            code: -1,
            message: format!("HTTP status {status}: {}", body.trim()),
        })
    }

    /// No answer in this time (gRPC's `DeadlineExceeded`).
    pub fn silence(time: Duration) -> Self {
        Self {
            code: 4,
            message: format!("no answer within {} s", time.as_secs()),
        }
    }

    /// There is no such member (gRPC's `NotFound`).
    pub fn is_not_found(&self) -> bool {
        self.code == 5
    }

    /// The member to be promoted votes already.
    pub fn is_voting_already(&self) -> bool {
        self.message == "etcdserver: can only promote a learner member"
    }

    /// What is to be compacted has been compacted already.
    pub fn is_compacted_already(&self) -> bool {
        self.message
            .contains("required revision has been compacted")
    }

    /// There is no majority, or no leader yet (gRPC's `Unavailable` and `DeadlineExceeded`).
    pub fn is_without_majority(&self) -> bool {
        matches!(self.code, 4 | 14)
    }

    /// The change would cost the cluster its majority.
    pub fn is_about_the_quorum(&self) -> bool {
        self.message.contains("unhealthy cluster")
            || self.message.contains("not enough started members")
    }

    /// For people.
    pub fn text(&self) -> String {
        self.message.clone()
    }
}

/// A 64-bit number, a text in the gateway's JSON.
fn number<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Text(String),
        Plain(u64),
    }
    match Number::deserialize(from)? {
        Number::Text(text) => text.parse().map_err(D::Error::custom),
        Number::Plain(number) => Ok(number),
    }
}
