//! etcd's messages as its gateway encodes them in JSON: fields with default values are omitted,
//! 64-bit numbers are strings, bytes are base64.

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

/// The answer to `status`; only the fields in use.
#[derive(Deserialize)]
pub struct Status {
    #[serde(default)]
    header: Header,
    /// The leader, as far as this member knows; 0 if there is none.
    #[serde(default, deserialize_with = "number")]
    pub leader: u64,
    /// Problems that the member reports: an alarm of any member, no leader.
    #[serde(default)]
    errors: Vec<String>,
    /// The last committed log entry that it knows.
    #[serde(rename = "raftIndex", default, deserialize_with = "number")]
    pub agreed: u64,
    /// The last log entry that it has applied.
    #[serde(rename = "raftAppliedIndex", default, deserialize_with = "number")]
    pub applied: u64,
    #[serde(rename = "dbSize", default, deserialize_with = "number")]
    bytes: u64,
    #[serde(rename = "dbSizeInUse", default, deserialize_with = "number")]
    in_use: u64,
    /// Since etcd 3.6; 0 from older versions.
    #[serde(rename = "dbSizeQuota", default, deserialize_with = "number")]
    quota: u64,
}

/// The header of every answer; only the fields in use.
#[derive(Default, Deserialize)]
struct Header {
    #[serde(default, deserialize_with = "number")]
    cluster_id: u64,
    #[serde(default, deserialize_with = "number")]
    revision: u64,
}

impl Status {
    /// The cluster id that etcd assigned.
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

/// Parses an alarm as `errors` shows it, a protobuf message as text: `memberID:7 alarm:NOSPACE`.
/// Protobuf does not define the number of spaces between the fields.
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
    /// The bytes themselves.
    pub content: Vec<u8>,
    /// How many bytes follow.
    pub remaining: u64,
}

impl Piece {
    /// Parses a line of the stream.
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

/// etcd's error when it rejects a request.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl Refusal {
    /// Parses an answer that was not a success.
    pub fn read(status: u16, body: &str) -> Self {
        serde_json::from_str(body).unwrap_or_else(|_| Self {
            code: -1,
            message: format!("HTTP status {status}: {}", body.trim()),
        })
    }

    /// No answer within this time (gRPC's `DeadlineExceeded`).
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

    /// The member to promote has a vote already.
    pub fn is_voting_already(&self) -> bool {
        self.message == "etcdserver: can only promote a learner member"
    }

    /// The revision has been compacted already.
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

    /// The message for people.
    pub fn text(&self) -> String {
        self.message.clone()
    }
}

/// A 64-bit number, which is a string in the gateway's JSON.
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
