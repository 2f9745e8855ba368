//! Checks a proof before it is forwarded to STS.
//!
//! A proof consists only of headers: method, host, path and body of the forwarded request are
//! constants of this server, so nobody can make it send anything else or anywhere else. If a joiner
//! signed another method, host, path or body, the signature does not match and STS rejects it. The
//! headers are checked here: only known ones, each once, all of them signed, for the STS of our
//! region, with the cluster's name and the nonce.

use super::Refusal;
use crate::ports::Proof;

/// The header that carries the nonce.
pub const NONCE_HEADER: &str = "x-k8s-bootstrap-nonce";
/// The header that carries the cluster's name.
pub const CLUSTER_HEADER: &str = "x-k8s-bootstrap-cluster";
/// The body of every proof.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>
pub const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
/// The content type of [`BODY`].
pub const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

const AUTHORIZATION: &str = "authorization";
const DATE: &str = "x-amz-date";
const SESSION_TOKEN: &str = "x-amz-security-token";

/// The headers of a proof; [`SESSION_TOKEN`] only with temporary credentials.
const KNOWN: [&str; 6] = [
    AUTHORIZATION,
    CLUSTER_HEADER,
    "content-type",
    DATE,
    NONCE_HEADER,
    SESSION_TOKEN,
];

/// Session tokens have about a thousand characters.
const LONGEST: usize = 4096;

/// Checks a proof for this cluster and region; returns its nonce.
pub fn inspect<'a>(proof: &'a Proof, cluster: &str, region: &str) -> Result<&'a str, Refusal> {
    if proof.0.len() > KNOWN.len() {
        return Err(Refusal::malformed("the proof has too many headers"));
    }
    for (index, (name, value)) in proof.0.iter().enumerate() {
        if !KNOWN.contains(&name.as_str()) {
            return Err(Refusal::malformed("the proof has an unexpected header"));
        }
        if proof.0[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(Refusal::malformed(format!(
                "the proof has the header {name} twice"
            )));
        }
        let printable = value.bytes().all(|b| (b' '..=b'~').contains(&b));
        if value.len() > LONGEST || !printable {
            return Err(Refusal::malformed(format!(
                "the proof's header {name} is too long or not printable"
            )));
        }
    }
    let header = |wanted: &str| {
        let found = proof.0.iter().find(|(name, _)| name == wanted);
        found
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| Refusal::malformed(format!("the proof has no header {wanted}")))
    };
    let signed = signed_headers(header(AUTHORIZATION)?, region)?;
    header(DATE)?;
    if header("content-type")? != CONTENT_TYPE {
        return Err(Refusal::malformed("the proof has the wrong content type"));
    }
    let nonce = header(NONCE_HEADER)?;
    if header(CLUSTER_HEADER)? != cluster {
        return Err(Refusal::denied("the proof was signed for another cluster"));
    }
    let carried = proof.0.iter().map(|(name, _)| name.as_str());
    let must = carried
        .filter(|name| *name != AUTHORIZATION)
        .chain(["host"]);
    for name in must {
        if !signed.contains(&name) {
            return Err(Refusal::denied(format!(
                "the proof's header {name} is not signed"
            )));
        }
    }
    // A name that is signed but not carried would be a header that the forwarding client adds.
    for name in &signed {
        let fixed = *name == "host";
        if !fixed && !proof.0.iter().any(|(carried, _)| carried == name) {
            return Err(Refusal::malformed(
                "the proof signs a header that it does not contain",
            ));
        }
    }
    Ok(nonce)
}

/// Reads `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/sts/aws4_request, SignedHeaders=a;b, Signature=HEX`.
fn signed_headers<'a>(authorization: &'a str, region: &str) -> Result<Vec<&'a str>, Refusal> {
    let wrong =
        || Refusal::malformed("the proof's authorization is not an AWS Signature Version 4");
    let fields = authorization
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .ok_or_else(wrong)?;
    let fields: Vec<&str> = fields.split(',').map(str::trim).collect();
    let [credential, signed, signature] = fields[..] else {
        return Err(wrong());
    };
    let credential = credential.strip_prefix("Credential=").ok_or_else(wrong)?;
    let signed = signed.strip_prefix("SignedHeaders=").ok_or_else(wrong)?;
    let signature = signature.strip_prefix("Signature=").ok_or_else(wrong)?;
    if signature.len() != 64 || !signature.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let scope: Vec<&str> = credential.split('/').collect();
    let [_, _, of, service, end] = scope[..] else {
        return Err(wrong());
    };
    if of != region || service != "sts" || end != "aws4_request" {
        return Err(Refusal::denied(
            "the proof was signed for another region or service",
        ));
    }
    Ok(signed.split(';').collect())
}
