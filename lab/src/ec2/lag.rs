//! Answers as old as AWS's can be: what a listing shows of one thing may be seconds old while
//! another thing in it is new, and a page may be empty although others follow.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::replay::Call;

/// The end of a listing of EC2's instances.
const RESERVATIONS_END: &str = "</reservationSet>";

/// A listing whose answers can lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    /// `DescribeInstances`, in XML; its things are reservations.
    Instances,
    /// `GetParametersByPath`, in JSON; its things are parameters.
    Parameters,
}

/// A thing as it was listed since a time, or since before the lag began; `None` if it was gone.
type Version = (Option<Instant>, Option<String>);

/// What was listed earlier, and the pages that were not asked for yet.
#[derive(Debug, Default)]
pub struct Lag {
    /// The versions of each thing, by what was asked and by the thing's name.
    seen: HashMap<String, BTreeMap<String, Vec<Version>>>,
    pages: HashMap<String, String>,
    count: u64,
}

impl Lag {
    /// Forgets what was listed: the next answers are the first ones.
    pub fn forget_versions(&mut self) {
        self.seen.clear();
    }

    /// The page that this call asks for, if an earlier call got an empty one in its place.
    pub fn held_back(&mut self, call: &Call) -> Option<String> {
        self.pages.remove(&listing(call)?.token(call)?)
    }

    /// The answer that a client gets at `now`: none of its things is newer than its own part of
    /// `longest`, and with `empty_page` the first page is empty. Answers of calls that list nothing
    /// are not changed.
    pub fn answer(
        &mut self,
        call: &Call,
        fresh: &str,
        (longest, empty_page): (Duration, bool),
        now: Instant,
    ) -> Result<Option<String>> {
        let Some(listing) = listing(call) else {
            return Ok(None);
        };
        let mut text = fresh.to_owned();
        if !longest.is_zero() {
            let things = listing.split(fresh)?;
            let asked = String::from_utf8_lossy(&call.body).into_owned();
            text = listing.join(fresh, &self.as_of(asked, &things, longest, now))?;
        }
        if empty_page && listing.token(call).is_none() {
            self.count += 1;
            let token = format!("lab-{}", self.count);
            self.pages.insert(token.clone(), text);
            text = listing.empty(&token);
        }
        Ok(Some(text))
    }

    /// The things as they were a while ago. What the first answer shows counts as old.
    fn as_of(
        &mut self,
        asked: String,
        things: &BTreeMap<String, String>,
        longest: Duration,
        now: Instant,
    ) -> Vec<String> {
        let since = self.seen.contains_key(&asked).then_some(now);
        let known = self.seen.entry(asked).or_default();
        for (name, text) in things {
            let versions = known.entry(name.clone()).or_default();
            if versions
                .last()
                .is_none_or(|(_, last)| last.as_ref() != Some(text))
            {
                versions.push((since, Some(text.clone())));
            }
        }
        for (name, versions) in known.iter_mut() {
            let gone = !things.contains_key(name);
            if gone && versions.last().is_some_and(|(_, last)| last.is_some()) {
                versions.push((since, None));
            }
        }
        let shown = known.iter().filter_map(|(name, versions)| {
            let old = |since: Instant| since + part(name, longest) <= now;
            let shown = versions
                .iter()
                .rev()
                .find(|(since, _)| since.is_none_or(old));
            shown.and_then(|(_, text)| text.clone())
        });
        shown.collect()
    }
}

/// How late this thing is: a quarter to the whole of the longest lag, always the same for a name.
fn part(name: &str, longest: Duration) -> Duration {
    let quarters = name
        .bytes()
        .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(byte)))
        % 4;
    longest * (quarters + 1) / 4
}

fn listing(call: &Call) -> Option<Listing> {
    match call.action().as_str() {
        "DescribeInstances" => Some(Listing::Instances),
        "GetParametersByPath" => Some(Listing::Parameters),
        _ => None,
    }
}

impl Listing {
    /// The token of the page that a call asks for.
    fn token(self, call: &Call) -> Option<String> {
        match self {
            Self::Instances => call.parameter("NextToken").map(str::to_owned),
            Self::Parameters => {
                let asked: Value = serde_json::from_slice(&call.body).ok()?;
                asked["NextToken"].as_str().map(str::to_owned)
            }
        }
    }

    /// Its things by name.
    fn split(self, answer: &str) -> Result<BTreeMap<String, String>> {
        match self {
            Self::Instances => Ok(reservations(answer)
                .into_iter()
                .map(|item| {
                    let id = super::client::element(item, "instanceId").unwrap_or_default();
                    (id, item.to_owned())
                })
                .collect()),
            Self::Parameters => {
                let answer: Value = serde_json::from_str(answer)?;
                let parameters = answer["Parameters"].as_array().context("no Parameters")?;
                Ok(parameters
                    .iter()
                    .map(|one| {
                        (
                            one["Name"].as_str().unwrap_or_default().to_owned(),
                            one.to_string(),
                        )
                    })
                    .collect())
            }
        }
    }

    /// The answer with these things in place of its own.
    fn join(self, answer: &str, things: &[String]) -> Result<String> {
        match self {
            Self::Instances => {
                let own = reservations(answer);
                let Some(end) = answer.find(RESERVATIONS_END) else {
                    // Without any reservation, moto closes the element where it opens it.
                    let filled = format!("<reservationSet>{}{RESERVATIONS_END}", things.concat());
                    return Ok(answer.replacen("<reservationSet/>", &filled, 1));
                };
                let start = end - own.iter().map(|item| item.len()).sum::<usize>();
                Ok(format!(
                    "{}{}{}",
                    &answer[..start],
                    things.concat(),
                    &answer[end..]
                ))
            }
            Self::Parameters => {
                let mut answer: Value = serde_json::from_str(answer)?;
                let parsed: Result<Vec<Value>, _> =
                    things.iter().map(|one| serde_json::from_str(one)).collect();
                answer["Parameters"] = parsed?.into();
                Ok(answer.to_string())
            }
        }
    }

    fn empty(self, token: &str) -> String {
        match self {
            Self::Instances => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                 <requestId>lab</requestId><reservationSet/><nextToken>{token}</nextToken></DescribeInstancesResponse>"
            ),
            Self::Parameters => {
                serde_json::json!({ "Parameters": [], "NextToken": token }).to_string()
            }
        }
    }
}

/// The reservations in an answer, one after the other up to the end of their set. An item of a
/// reservation begins with its id; the items inside of it do not.
fn reservations(xml: &str) -> Vec<&str> {
    let Some(end) = xml.find(RESERVATIONS_END) else {
        return Vec::new();
    };
    let starts: Vec<usize> = xml[..end]
        .match_indices("<reservationId>")
        .filter_map(|(id, _)| xml[..id].rfind("<item>"))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([end]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &xml[*start..end])
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::body::Bytes;
    use axum::http::{HeaderMap, Method};
    use serde_json::json;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(8);
    /// Names that lag for a quarter and for the whole of the time.
    const SOON: &str = "/a";
    const LATE: &str = "/d";

    fn call(body: &str, target: Option<&str>) -> Call {
        let headers = target.map(|target| {
            let name = axum::http::HeaderName::from_static("x-amz-target");
            (name, target.parse().unwrap())
        });
        Call {
            method: Method::POST,
            path: "/".to_owned(),
            headers: HeaderMap::from_iter(headers),
            body: Bytes::from(body.to_owned()),
        }
    }

    fn by_path(token: Option<&str>) -> Call {
        let body = json!({ "Path": "/", "NextToken": token });
        call(&body.to_string(), Some("AmazonSSM.GetParametersByPath"))
    }

    fn parameters(values: &[(&str, &str)]) -> String {
        let all: Vec<Value> = values
            .iter()
            .map(|(name, value)| json!({ "Name": name, "Value": value }))
            .collect();
        json!({ "Parameters": all }).to_string()
    }

    fn instances(states: &[(&str, &str)]) -> String {
        let items: String = states
            .iter()
            .map(|(id, state)| {
                format!(
                    "<item><reservationId>r-{id}</reservationId><groupSet/><instancesSet><item>\
                     <instanceId>{id}</instanceId><tagSet><item><key>a</key></item></tagSet>\
                     <name>{state}</name></item></instancesSet></item>"
                )
            })
            .collect();
        let set = if items.is_empty() {
            "<reservationSet/>".to_owned()
        } else {
            format!("<reservationSet>{items}</reservationSet>")
        };
        format!(
            "<DescribeInstancesResponse>{set}<requestId>1</requestId></DescribeInstancesResponse>"
        )
    }

    /// What is shown of `fresh`, this many seconds after the start.
    fn shown(lag: &mut Lag, call: &Call, fresh: &str, now: Instant) -> String {
        let answer = lag.answer(call, fresh, (LONGEST, false), now);
        answer.unwrap().unwrap()
    }

    #[test]
    fn each_parameter_is_shown_late_by_its_own_time() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let before = parameters(&[(LATE, "1")]);
        let after = parameters(&[(SOON, "1"), (LATE, "2")]);
        let call = by_path(None);
        assert_eq!(shown(&mut lag, &call, &before, at(0)), before);
        assert_eq!(shown(&mut lag, &call, &after, at(1)), before);
        let half = parameters(&[(SOON, "1"), (LATE, "1")]);
        assert_eq!(shown(&mut lag, &call, &after, at(3)), half);
        assert_eq!(shown(&mut lag, &call, &after, at(8)), half);
        assert_eq!(shown(&mut lag, &call, &after, at(9)), after);
        // A parameter that was deleted is shown for a while, too.
        let none = parameters(&[]);
        let without = parameters(&[(LATE, "2")]);
        assert_eq!(shown(&mut lag, &call, &none, at(10)), after);
        assert_eq!(shown(&mut lag, &call, &none, at(12)), without);
        assert_eq!(shown(&mut lag, &call, &none, at(18)), none);
    }

    #[test]
    fn instances_are_shown_late_with_everything_in_them() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        let call = call("Action=DescribeInstances&MaxResults=1000", None);
        let (none, one) = (instances(&[]), instances(&[("i-1", "running")]));
        assert!(reservations(&shown(&mut lag, &call, &none, start)).is_empty());
        let hidden = shown(&mut lag, &call, &one, start);
        assert!(!hidden.contains("i-1"), "{hidden}");
        let later = start + LONGEST;
        assert_eq!(shown(&mut lag, &call, &one, later), one);
        let two = instances(&[("i-1", "terminated"), ("i-2", "running")]);
        assert_eq!(shown(&mut lag, &call, &two, later), one);
        assert_eq!(shown(&mut lag, &call, &two, later + LONGEST), two);
        let gone = shown(&mut lag, &call, &none, later + LONGEST);
        assert!(gone.contains("i-1") && gone.contains("i-2"), "{gone}");
    }

    #[test]
    fn an_empty_page_comes_before_the_first_and_its_token_leads_there() {
        let mut lag = Lag::default();
        let fresh = parameters(&[(SOON, "1")]);
        let pages = (Duration::ZERO, true);
        let mut answer = |call: &Call| {
            lag.answer(call, &fresh, pages, Instant::now())
                .unwrap()
                .unwrap()
        };
        let empty: Value = serde_json::from_str(&answer(&by_path(None))).unwrap();
        assert_eq!(empty["Parameters"], json!([]));
        let token = empty["NextToken"].as_str().unwrap();
        assert_eq!(answer(&by_path(Some("10"))), fresh);
        assert_eq!(
            lag.held_back(&by_path(Some(token))).as_deref(),
            Some(&*fresh)
        );
        assert_eq!(lag.held_back(&by_path(Some(token))), None);
        let call = call("Action=DescribeInstances", None);
        let empty = lag.answer(&call, &instances(&[]), pages, Instant::now());
        let empty = empty.unwrap().unwrap();
        assert!(
            empty.contains("<reservationSet/><nextToken>lab-2</nextToken>"),
            "{empty}"
        );
    }

    #[test]
    fn other_calls_never_lag() {
        let call = call("{}", Some("AmazonSSM.PutParameter"));
        let answer = Lag::default().answer(&call, "{}", (LONGEST, true), Instant::now());
        assert_eq!(answer.unwrap(), None);
    }
}
