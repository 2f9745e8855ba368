//! Faults of the AWS API and of the metadata service, injected on command.

use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};

/// The faults to inject from now on; replaces the earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// Throttle the next N calls.
    #[arg(long, default_value_t)]
    pub throttle_next: u32,
    /// Then throttle this share of the calls, in percent.
    #[arg(long, default_value_t, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub throttle_percent: u8,
    /// Close every connection for this many seconds.
    #[arg(long, default_value_t)]
    pub refuse_seconds: u64,
    /// Deny calls of an action, for example `PutParameter`.
    #[arg(long)]
    pub deny: Vec<String>,
    /// Answer the next N changes of parameters with `TooManyUpdates`.
    #[arg(long, default_value_t)]
    pub contend_next: u32,
    /// Show what is listed up to this many seconds late, each thing by itself.
    #[arg(long, default_value_t)]
    pub lag_seconds: u64,
    /// Put an empty page before the first one of each listing.
    #[arg(long)]
    pub empty_pages: bool,
    /// Close the connections of agents' next N requests to the metadata service.
    #[arg(long, default_value_t)]
    pub metadata_close_next: u32,
    /// Then answer N of them with 401.
    #[arg(long, default_value_t)]
    pub metadata_deny_next: u32,
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is forwarded.
    Pass,
    /// It is answered with the service's throttling error.
    Throttle,
    /// It is answered with the service's authorization error.
    Deny,
    /// It is answered with Parameter Store's error for concurrent changes.
    Contend,
}

/// What happens to one request to the metadata service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// It is answered.
    Pass,
    /// Its connection is closed.
    Close,
    /// It is answered with 401.
    Deny,
}

/// The active faults.
#[derive(Debug, Default)]
pub struct Faults {
    wanted: Wanted,
    refuse_until: Option<Instant>,
    seen: u64,
}

impl Faults {
    /// Replaces the faults.
    pub fn set(&mut self, wanted: Wanted, now: Instant) {
        let refused = Duration::from_secs(wanted.refuse_seconds);
        self.refuse_until = (!refused.is_zero()).then(|| now + refused);
        self.seen = 0;
        self.wanted = wanted;
    }

    /// Whether connections are closed at `now`.
    pub fn refuses(&self, now: Instant) -> bool {
        self.refuse_until.is_some_and(|until| now < until)
    }

    /// Judges the next call. A share is spread evenly, not at random: tests must be repeatable.
    pub fn judge(&mut self, action: &str) -> Verdict {
        if self.wanted.deny.iter().any(|denied| denied == action) {
            return Verdict::Deny;
        }
        if action == "PutParameter" && take_one(&mut self.wanted.contend_next) {
            return Verdict::Contend;
        }
        if take_one(&mut self.wanted.throttle_next) {
            return Verdict::Throttle;
        }
        let percent = u64::from(self.wanted.throttle_percent.min(100));
        let before = self.seen * percent / 100;
        self.seen += 1;
        if self.seen * percent / 100 > before {
            Verdict::Throttle
        } else {
            Verdict::Pass
        }
    }

    /// Judges an agent's next request to the metadata service.
    pub fn judge_metadata(&mut self) -> Metadata {
        if take_one(&mut self.wanted.metadata_close_next) {
            Metadata::Close
        } else if take_one(&mut self.wanted.metadata_deny_next) {
            Metadata::Deny
        } else {
            Metadata::Pass
        }
    }

    /// How late listings may be, and whether an empty page comes first.
    pub fn lag(&self) -> (Duration, bool) {
        let longest = Duration::from_secs(self.wanted.lag_seconds);
        (longest, self.wanted.empty_pages)
    }
}

fn take_one(left: &mut u32) -> bool {
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

/// The error body of a service, with its HTTP status and content type. EC2 has its own XML, the
/// JSON services have JSON, and the rest use the query protocol's XML.
pub fn error_body(service: &str, verdict: Verdict, action: &str) -> (u16, &'static str, String) {
    let throttled = verdict == Verdict::Throttle;
    let message = match verdict {
        Verdict::Throttle => "Request limit exceeded.".to_owned(),
        Verdict::Contend => {
            "There are concurrent updates for a resource that supports one update at a time."
                .to_owned()
        }
        Verdict::Pass | Verdict::Deny => {
            format!("User: lab is not authorized to perform: {service}:{action}")
        }
    };
    match service {
        "ec2" => {
            let (status, code) = if throttled {
                (503, "RequestLimitExceeded")
            } else {
                (403, "UnauthorizedOperation")
            };
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
                 <Message>{message}</Message></Error></Errors><RequestID>lab</RequestID></Response>"
            );
            (status, "text/xml;charset=UTF-8", body)
        }
        "ssm" => {
            let code = match verdict {
                Verdict::Throttle => "ThrottlingException",
                Verdict::Contend => "TooManyUpdates",
                Verdict::Pass | Verdict::Deny => "AccessDeniedException",
            };
            let body = serde_json::json!({ "__type": code, "message": message }).to_string();
            (400, "application/x-amz-json-1.1", body)
        }
        _ => {
            let (status, code) = if throttled {
                (400, "Throttling")
            } else {
                (403, "AccessDenied")
            };
            let body = format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                 <RequestId>lab</RequestId></ErrorResponse>"
            );
            (status, "text/xml", body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted::default()
    }

    fn faults(plan: Wanted) -> Faults {
        let mut faults = Faults::default();
        faults.set(plan, Instant::now());
        faults
    }

    #[test]
    fn the_next_calls_are_throttled_and_then_pass() {
        let mut faults = faults(Wanted {
            throttle_next: 2,
            ..wanted()
        });
        let verdicts: Vec<_> = (0..4).map(|_| faults.judge("DescribeInstances")).collect();
        assert_eq!(
            verdicts,
            [
                Verdict::Throttle,
                Verdict::Throttle,
                Verdict::Pass,
                Verdict::Pass
            ]
        );
    }

    #[test]
    fn a_share_of_the_calls_is_throttled() {
        let mut faults = faults(Wanted {
            throttle_percent: 30,
            ..wanted()
        });
        let throttled = (0..100)
            .filter(|_| faults.judge("GetParameter") == Verdict::Throttle)
            .count();
        assert_eq!(throttled, 30);
    }

    #[test]
    fn connections_are_refused_until_the_time_is_over() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        let plan = Wanted {
            refuse_seconds: 10,
            ..wanted()
        };
        faults.set(plan, start);
        assert!(faults.refuses(start + Duration::from_secs(9)));
        assert!(!faults.refuses(start + Duration::from_secs(10)));
        faults.set(wanted(), start);
        assert!(!faults.refuses(start));
    }

    #[test]
    fn one_action_can_be_denied_while_others_pass() {
        let mut faults = faults(Wanted {
            deny: vec!["PutParameter".into()],
            ..wanted()
        });
        assert_eq!(faults.judge("PutParameter"), Verdict::Deny);
        assert_eq!(faults.judge("GetParameter"), Verdict::Pass);
    }

    #[test]
    fn only_changes_of_parameters_meet_concurrent_ones() {
        let mut faults = faults(Wanted {
            contend_next: 1,
            ..wanted()
        });
        assert_eq!(faults.judge("GetParameter"), Verdict::Pass);
        assert_eq!(faults.judge("PutParameter"), Verdict::Contend);
        assert_eq!(faults.judge("PutParameter"), Verdict::Pass);
        let (status, _, body) = error_body("ssm", Verdict::Contend, "PutParameter");
        assert!(status == 400 && body.contains("TooManyUpdates"), "{body}");
    }

    #[test]
    fn the_metadata_service_closes_connections_and_then_denies() {
        let mut faults = faults(Wanted {
            metadata_close_next: 1,
            metadata_deny_next: 2,
            ..wanted()
        });
        let verdicts = [(); 4].map(|()| faults.judge_metadata());
        assert_eq!(
            verdicts,
            [
                Metadata::Close,
                Metadata::Deny,
                Metadata::Deny,
                Metadata::Pass
            ]
        );
    }

    #[test]
    fn each_service_throttles_in_its_own_words() {
        let (status, _, body) = error_body("ec2", Verdict::Throttle, "DescribeInstances");
        assert!(
            status == 503 && body.contains("<Code>RequestLimitExceeded</Code>"),
            "{body}"
        );
        let (status, _, body) = error_body("ssm", Verdict::Deny, "PutParameter");
        assert!(
            status == 400 && body.contains("AccessDeniedException"),
            "{body}"
        );
        assert!(body.contains("ssm:PutParameter"), "{body}");
        let (status, _, body) = error_body("sts", Verdict::Throttle, "GetCallerIdentity");
        assert!(
            status == 400 && body.contains("<Code>Throttling</Code>"),
            "{body}"
        );
    }
}
