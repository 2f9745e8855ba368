//! Restores moto's state after a restart.
//!
//! moto keeps everything in memory. Each call that changes something is made with its own seed for
//! moto's random numbers, and recorded. Replayed in the same order with the same seeds, the calls
//! create the same instances with the same ids.

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::http::{HeaderMap, Method};

/// A call to the AWS API.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the parts of an HTTP request
pub struct Call {
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers, including `Host`, which tells moto the service.
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Call {
    /// The service, from the credential scope of the signature.
    pub fn service(&self) -> &str {
        self.scope(3).unwrap_or("")
    }

    /// The id of the keys that signed it.
    pub fn key_id(&self) -> Option<&str> {
        self.scope(0)
    }

    /// A part of `ID/DATE/REGION/SERVICE/aws4_request`.
    fn scope(&self, part: usize) -> Option<&str> {
        let signature = self.headers.get("authorization")?.to_str().ok()?;
        let scope = signature.split_once("Credential=")?.1;
        scope.split('/').nth(part)
    }

    /// The action: from the target header for a JSON service, else from the query or form.
    pub fn action(&self) -> String {
        if let Some(target) = self
            .headers
            .get("x-amz-target")
            .and_then(|v| v.to_str().ok())
        {
            return target.rsplit('.').next().unwrap_or_default().to_owned();
        }
        self.parameter("Action").unwrap_or_default().to_owned()
    }

    /// A parameter of the query or form, as it was sent.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        let form = std::str::from_utf8(&self.body).unwrap_or("");
        query
            .split('&')
            .chain(form.split('&'))
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Whether it may change something.
    pub fn changes_state(&self) -> bool {
        let action = self.action();
        if action.is_empty() {
            return !matches!(self.method, Method::GET | Method::HEAD);
        }
        // Temporary keys cannot be replayed, because a part of them is random whatever the seed:
        // after a restart there are new ones.
        !["Describe", "Get", "List", "AssumeRole"]
            .iter()
            .any(|reading| action.starts_with(reading))
    }
}

/// The calls that created moto's state, in order. A call's seed is its index.
#[derive(Debug, Default)]
pub struct Journal {
    calls: Vec<Call>,
}

impl Journal {
    /// Records a successful call.
    pub fn keep(&mut self, call: Call) {
        self.calls.push(call);
    }

    /// The seed for the next call that changes something.
    pub fn next_seed(&self) -> usize {
        self.calls.len() + 1
    }

    /// Makes all calls again.
    pub async fn replay(&self, client: &reqwest::Client, base: &str) -> Result<()> {
        for (place, call) in self.calls.iter().enumerate() {
            seed(client, base, place + 1).await?;
            send(client, base, call).await.with_context(|| {
                format!("cannot repeat {} on the restarted moto", call.action())
            })?;
        }
        Ok(())
    }
}

/// Sets the seed of moto's random numbers.
pub async fn seed(client: &reqwest::Client, base: &str, seed: usize) -> Result<()> {
    client
        .post(format!("{base}/moto-api/seed?a={seed}"))
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}

/// Sends a call to moto.
pub async fn send(client: &reqwest::Client, base: &str, call: &Call) -> Result<reqwest::Response> {
    let response = client
        .request(call.method.clone(), format!("{base}{}", call.path))
        .headers(call.headers.clone())
        .body(call.body.clone())
        .send()
        .await?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn call(body: &'static str, headers: &[(&'static str, &'static str)]) -> Call {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Call {
            method: Method::POST,
            path: "/".into(),
            headers: map,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn the_service_and_the_action_are_read_from_the_call() {
        let signed = "AWS4-HMAC-SHA256 Credential=AKIA/20261123/eu-central-1/ec2/aws4_request, SignedHeaders=host";
        let run = call(
            "Action=RunInstances&Version=2016-11-15",
            &[("authorization", signed)],
        );
        assert_eq!(
            (run.service(), run.action().as_str()),
            ("ec2", "RunInstances")
        );
        assert!(run.changes_state());
        let read = call("Version=1&Action=DescribeInstances", &[]);
        assert!(!read.changes_state());
        let put = call("{}", &[("x-amz-target", "AmazonSSM.PutParameter")]);
        assert_eq!(put.action(), "PutParameter");
        assert!(put.changes_state());
    }
}
