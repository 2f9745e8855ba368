//! The metadata service's answers, independent of sockets.

use std::time::Instant;

use super::tokens::{Tokens, parse_ttl};
use super::tree;
use crate::state::Machine;

/// Versions of the tree that clients request; all are identical here.
const VERSIONS: [&str; 8] = [
    "1.0",
    "2009-04-04",
    "2016-09-02",
    "2018-09-24",
    "2020-10-27",
    "2021-03-23",
    "2021-07-15",
    "latest",
];

/// How a client identified itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A request for a token.
    Token,
    /// Without a token.
    V1,
    /// With a token, valid or not.
    V2,
}

impl Protocol {
    /// Its name in the request log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// The parts of a request that the service uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// `PUT` for a token, `GET` or `HEAD` for everything else; others are refused.
    pub method: &'a str,
    /// The path without a query.
    pub path: &'a str,
    /// `X-aws-ec2-metadata-token`.
    pub token: Option<&'a str>,
    /// `X-aws-ec2-metadata-token-ttl-seconds`.
    pub ttl: Option<&'a str>,
    /// Whether `X-Forwarded-For` is present: a request through a proxy, which v2 refuses.
    pub forwarded: bool,
}

/// The answer to a request, before it is made into HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A body with status 200.
    Body(String),
    /// A new token.
    Token {
        /// The body of the answer.
        token: String,
        /// Its lifetime in seconds.
        ttl: u64,
        /// `HttpPutResponseHopLimit`: the IP hop limit of the answer's packets.
        hop_limit: u8,
    },
    /// The temporary keys of the instance's role, to be requested from STS.
    Credentials,
    /// An error with this HTTP status.
    Refused(u16),
}

/// The protocol of a request.
pub fn protocol(request: &Request<'_>) -> Protocol {
    match (request.method, request.token) {
        ("PUT", _) => Protocol::Token,
        (_, Some(_)) => Protocol::V2,
        (_, None) => Protocol::V1,
    }
}

/// Answers a machine's request at `now`. `user_data` is `None` if the machine has none.
pub fn answer(
    machine: &Machine,
    user_data: Option<&str>,
    tokens: &mut Tokens,
    request: &Request<'_>,
    now: Instant,
) -> Answer {
    if !machine.metadata.enabled {
        return Answer::Refused(403);
    }
    let parts: Vec<&str> = request
        .path
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    match request.method {
        "PUT" => put(machine, tokens, request, &parts, now),
        "GET" | "HEAD" => {
            match request.token {
                Some(token) if !tokens.is_valid(token, &machine.id, now) => {
                    return Answer::Refused(401);
                }
                None if machine.metadata.tokens_required => return Answer::Refused(401),
                _ => {}
            }
            get(machine, user_data, &parts)
        }
        _ => Answer::Refused(405),
    }
}

fn put(
    machine: &Machine,
    tokens: &mut Tokens,
    request: &Request<'_>,
    parts: &[&str],
    now: Instant,
) -> Answer {
    if parts != ["latest", "api", "token"] {
        return Answer::Refused(405);
    }
    if request.forwarded {
        return Answer::Refused(403);
    }
    match parse_ttl(request.ttl) {
        None => Answer::Refused(400),
        Some(ttl) => Answer::Token {
            token: tokens.issue(&machine.id, ttl, now),
            ttl,
            hop_limit: machine.metadata.hop_limit,
        },
    }
}

fn get(machine: &Machine, user_data: Option<&str>, parts: &[&str]) -> Answer {
    let Some((version, rest)) = parts.split_first() else {
        return Answer::Body(VERSIONS.join("\n"));
    };
    if !VERSIONS.contains(version) {
        return Answer::Refused(404);
    }
    let body = match rest {
        [] => Some("dynamic\nmeta-data\nuser-data".to_owned()),
        ["user-data"] => user_data.map(str::to_owned),
        ["dynamic"] => Some("instance-identity/".to_owned()),
        ["dynamic", "instance-identity"] => Some("document".to_owned()),
        ["dynamic", "instance-identity", "document"] => {
            serde_json::to_string_pretty(&tree::identity_document(machine)).ok()
        }
        ["meta-data", "iam", "security-credentials", role] if *role == machine.iam_role() => {
            return Answer::Credentials;
        }
        ["meta-data", path @ ..] => tree::read(&tree::metadata(machine), path),
        _ => None,
    };
    body.map_or(Answer::Refused(404), Answer::Body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;
    use crate::state::tests::machine;
    use std::time::Duration;

    fn ask(machine: &Machine, tokens: &mut Tokens, request: Request<'_>) -> Answer {
        answer(machine, None, tokens, &request, Instant::now())
    }

    fn get(path: &str) -> Request<'_> {
        Request {
            method: "GET",
            path,
            ..Request::default()
        }
    }

    fn put(ttl: &str) -> Request<'_> {
        Request {
            method: "PUT",
            path: "/latest/api/token",
            ttl: Some(ttl),
            ..Request::default()
        }
    }

    #[test]
    fn a_token_carries_the_instances_hop_limit() {
        let mut w1 = machine("w1", 10);
        w1.metadata.hop_limit = 3;
        let Answer::Token { ttl, hop_limit, .. } = ask(&w1, &mut Tokens::default(), put("60"))
        else {
            panic!("no token")
        };
        assert_eq!((ttl, hop_limit), (60, 3));
    }

    #[test]
    fn a_bad_ttl_or_a_proxy_gets_no_token() {
        let (w1, mut tokens) = (machine("w1", 10), Tokens::default());
        assert_eq!(ask(&w1, &mut tokens, put("0")), Answer::Refused(400));
        let mut proxied = put("60");
        proxied.forwarded = true;
        assert_eq!(ask(&w1, &mut tokens, proxied), Answer::Refused(403));
    }

    #[test]
    fn a_token_is_needed_when_required_and_checked_when_given() {
        let (mut w1, mut tokens) = (machine("w1", 10), Tokens::default());
        let path = "/latest/meta-data/instance-id";
        assert_eq!(
            ask(&w1, &mut tokens, get(path)),
            Answer::Body(w1.id.clone())
        );
        let mut made_up = get(path);
        made_up.token = Some("made-up");
        assert_eq!(ask(&w1, &mut tokens, made_up), Answer::Refused(401));

        w1.metadata.tokens_required = true;
        assert_eq!(ask(&w1, &mut tokens, get(path)), Answer::Refused(401));
        let Answer::Token { token, .. } = ask(&w1, &mut tokens, put("60")) else {
            panic!("no token")
        };
        let mut good = get(path);
        good.token = Some(&token);
        assert_eq!(ask(&w1, &mut tokens, good), Answer::Body(w1.id.clone()));
        let later = Instant::now() + Duration::from_mins(1);
        assert_eq!(
            answer(&w1, None, &mut tokens, &good, later),
            Answer::Refused(401)
        );
    }

    #[test]
    fn a_disabled_endpoint_refuses_everything() {
        let mut w1 = machine("w1", 10);
        w1.metadata.enabled = false;
        let mut tokens = Tokens::default();
        assert_eq!(ask(&w1, &mut tokens, put("60")), Answer::Refused(403));
        assert_eq!(ask(&w1, &mut tokens, get("/latest/")), Answer::Refused(403));
    }

    #[test]
    fn what_does_not_exist_is_not_found() {
        let mut w1 = machine("w1", 10);
        let mut tokens = Tokens::default();
        for path in [
            "/latest/user-data",
            "/latest/meta-data/spot/instance-action",
            "/latest/meta-data/autoscaling/target-lifecycle-state",
            "/latest/meta-data/iam/security-credentials/other-role",
            "/2099-01-01/meta-data",
        ] {
            assert_eq!(
                ask(&w1, &mut tokens, get(path)),
                Answer::Refused(404),
                "{path}"
            );
        }
        let tags = "/latest/meta-data/tags/instance/Name";
        assert_eq!(ask(&w1, &mut tokens, get(tags)), Answer::Body("w1".into()));
        w1.metadata.tags = false;
        assert_eq!(ask(&w1, &mut tokens, get(tags)), Answer::Refused(404));
    }

    #[test]
    fn user_data_and_credentials_are_served_if_given() {
        let (w1, mut tokens) = (machine("w1", 10), Tokens::default());
        let given = answer(
            &w1,
            Some("#cloud-config"),
            &mut tokens,
            &get("/2009-04-04/user-data"),
            Instant::now(),
        );
        assert_eq!(given, Answer::Body("#cloud-config".into()));
        let path = "/latest/meta-data/iam/security-credentials/k8s-bootstrap-worker";
        assert_eq!(ask(&w1, &mut tokens, get(path)), Answer::Credentials);
    }
}
