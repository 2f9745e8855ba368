//! Calls that nobody signed: objects of public buckets, and tokens that are exchanged for keys of a
//! role. moto allows either to everybody, so the lab judges them as AWS does.
//!
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>

use anyhow::{Context, Result, bail, ensure};
use axum::http::{Method, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use reqwest::Url;
use serde_json::Value;

use super::ACCOUNT;
use super::client::{Aws, element};
use super::replay::Call;
use crate::layout::Layout;
use crate::tls::bucket_of;

/// Judges them.
pub struct Unsigned {
    /// The account's owner.
    aws: Aws,
}

/// What becomes of a call.
pub enum Verdict {
    /// It is allowed: moto answers.
    Allowed,
    /// A public object with this content.
    Object(String),
}

impl Unsigned {
    /// For the lab's account.
    pub fn new(layout: &Layout) -> Result<Self> {
        Ok(Self {
            aws: Aws::over_socket(layout)?,
        })
    }

    /// An error is a refusal, with its reason.
    pub async fn judge(&self, call: &Call) -> Result<Verdict> {
        if call.action() == "AssumeRoleWithWebIdentity" {
            self.trusts(call).await?;
            return Ok(Verdict::Allowed);
        }
        let Some((bucket, key)) = object(call) else {
            bail!("the request has no signature");
        };
        self.public(&bucket, &key).await.map(Verdict::Object)
    }

    /// An object that its bucket's policy shows to everybody.
    async fn public(&self, bucket: &str, key: &str) -> Result<String> {
        let policy = format!("{bucket}?policy");
        let policy = self.aws.s3("GET", &policy, String::new()).await?;
        let policy: Value = serde_json::from_str(&policy)?;
        ensure!(
            shows_to_everybody(&policy, &format!("arn:aws:s3:::{bucket}/{key}")),
            "the policy of {bucket} does not show {key} to everybody"
        );
        let object = format!("{bucket}/{key}");
        self.aws.s3("GET", &object, String::new()).await
    }

    /// Whether the role trusts the token, and the token's issuer signed it.
    async fn trusts(&self, call: &Call) -> Result<()> {
        let parameter = |name: &str| {
            let value = call.parameter(name).and_then(decoded);
            value.with_context(|| format!("the call has no {name}"))
        };
        let (role, token) = (parameter("RoleArn")?, parameter("WebIdentityToken")?);
        let claims = claims(&token)?;
        let issuer = claims["iss"].as_str().context("the token has no issuer")?;
        let name = issuer.strip_prefix("https://").context("the issuer")?;
        let provider = format!("arn:aws:iam::{ACCOUNT}:oidc-provider/{name}");
        let clients = self.clients(&provider).await?;
        let policy = self.trust_of(&role).await?;
        ensure!(
            is_trusted(&policy, &provider, name, &claims),
            "{role} does not trust {} of {issuer}",
            claims["sub"]
        );
        let keys = self.keys_of(issuer).await?;
        verify(&token, &keys, issuer, &clients)
    }

    /// The audiences that an identity provider accepts.
    async fn clients(&self, provider: &str) -> Result<Vec<String>> {
        let parameters = [("OpenIDConnectProviderArn".to_owned(), provider.to_owned())];
        let action = "GetOpenIDConnectProvider";
        let xml = self.aws.call("iam", action, &parameters).await?;
        let list = element(&xml, "ClientIDList").unwrap_or_default();
        let members = list.split("<member>").skip(1);
        Ok(members
            .filter_map(|rest| rest.split_once("</member>"))
            .map(|(client, _)| client.to_owned())
            .collect())
    }

    async fn trust_of(&self, role: &str) -> Result<Value> {
        let name = role.rsplit('/').next().unwrap_or_default();
        let parameters = [("RoleName".to_owned(), name.to_owned())];
        let xml = self.aws.call("iam", "GetRole", &parameters).await?;
        let document = element(&xml, "AssumeRolePolicyDocument").context("no trust policy")?;
        // IAM encodes the document as in a form.
        let document = decoded(&document).context("the trust policy cannot be decoded")?;
        serde_json::from_str(&document).context("the trust policy is not JSON")
    }

    /// The issuer's keys, found by its discovery document: read as anybody reads them.
    async fn keys_of(&self, issuer: &str) -> Result<JwkSet> {
        let discovery = format!("{issuer}/.well-known/openid-configuration");
        let discovery: Value = serde_json::from_str(&self.read(&discovery).await?)?;
        ensure!(
            discovery["issuer"] == issuer,
            "{discovery} is of another issuer"
        );
        let address = discovery["jwks_uri"].as_str().context("no jwks_uri")?;
        serde_json::from_str(&self.read(address).await?).context("the keys cannot be read")
    }

    async fn read(&self, address: &str) -> Result<String> {
        let url = Url::parse(address)?;
        let bucket = bucket_of(url.host_str().unwrap_or_default());
        let bucket = bucket.with_context(|| format!("{address} is not in a bucket of the lab"))?;
        self.public(bucket, url.path().trim_start_matches('/'))
            .await
    }
}

/// The object that a call reads.
fn object(call: &Call) -> Option<(String, String)> {
    let host = call.headers.get(header::HOST)?.to_str().ok()?;
    let (bucket, key) = (bucket_of(host)?, call.path.strip_prefix('/')?);
    let reads = call.method == Method::GET && !key.is_empty() && !key.contains('?');
    reads.then(|| (bucket.to_owned(), key.to_owned()))
}

/// A value of a form, without its encoding.
fn decoded(value: &str) -> Option<String> {
    let url = Url::parse(&format!("http://lab/?p={value}")).ok()?;
    let (_, decoded) = url.query_pairs().next()?;
    Some(decoded.into_owned())
}

/// What a token claims, unverified.
fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("the token is no JWT")?;
    let payload = URL_SAFE_NO_PAD.decode(payload)?;
    serde_json::from_slice(&payload).context("the token is no JWT")
}

/// One value or a list of them.
fn has(values: &Value, wanted: &str) -> bool {
    match values {
        Value::Array(values) => values.iter().any(|value| value == wanted),
        value => value == wanted,
    }
}

fn shows_to_everybody(policy: &Value, object: &str) -> bool {
    let statements = policy["Statement"].as_array().into_iter().flatten();
    statements
        .filter(|statement| statement["Effect"] == "Allow" && statement["Principal"] == "*")
        .any(|statement| {
            has(&statement["Action"], "s3:GetObject") && has(&statement["Resource"], object)
        })
}

/// Whether a statement lets this token in. Conditions are comparisons with the token's claims; what
/// the lab does not know counts as not fulfilled.
fn is_trusted(policy: &Value, provider: &str, issuer: &str, claims: &Value) -> bool {
    let fulfilled = |condition: &Value| {
        let operators = condition.as_object().into_iter().flatten();
        operators.into_iter().all(|(operator, comparisons)| {
            let mut comparisons = comparisons.as_object().into_iter().flatten();
            operator == "StringEquals"
                && comparisons.all(|(key, expected)| {
                    let claim = key
                        .strip_prefix(issuer)
                        .and_then(|key| key.strip_prefix(':'));
                    let value = claim.map_or(&Value::Null, |claim| &claims[claim]);
                    let values = match value {
                        Value::Array(values) => &values[..],
                        value => std::slice::from_ref(value),
                    };
                    let mut values = values.iter().filter_map(Value::as_str);
                    values.any(|value| has(expected, value))
                })
        })
    };
    let statements = policy["Statement"].as_array().into_iter().flatten();
    statements
        .filter(|statement| statement["Effect"] == "Allow")
        .filter(|statement| has(&statement["Action"], "sts:AssumeRoleWithWebIdentity"))
        .filter(|statement| has(&statement["Principal"]["Federated"], provider))
        .any(|statement| fulfilled(&statement["Condition"]))
}

/// Checks signature, issuer, audience and time.
fn verify(token: &str, keys: &JwkSet, issuer: &str, clients: &[String]) -> Result<()> {
    let id = decode_header(token)?
        .kid
        .context("the token names no key")?;
    let key = keys.find(&id);
    let key = key.with_context(|| format!("the issuer has published no key {id}"))?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[issuer]);
    validation.set_audience(clients);
    decode::<Value>(token, &DecodingKey::from_jwk(key)?, &validation)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    const ISSUER: &str = "keys.s3.eu-central-1.amazonaws.com";

    fn trust(operator: &str, subject: &str) -> Value {
        json!({"Statement": [{
            "Effect": "Allow",
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Principal": {"Federated": "arn:provider"},
            "Condition": {operator: {
                format!("{ISSUER}:sub"): subject,
                format!("{ISSUER}:aud"): "sts.amazonaws.com",
            }},
        }]})
    }

    #[test]
    fn a_role_trusts_the_token_that_its_conditions_describe() {
        let account = "system:serviceaccount:default:reader";
        let token = json!({"sub": account, "aud": ["sts.amazonaws.com"]});
        let trusted = |policy: &Value, provider: &str, token: &Value| {
            is_trusted(policy, provider, ISSUER, token)
        };
        let policy = trust("StringEquals", account);
        assert!(trusted(&policy, "arn:provider", &token));
        assert!(!trusted(&policy, "arn:other", &token));
        let other = json!({"sub": "system:serviceaccount:default:x", "aud": ["sts.amazonaws.com"]});
        assert!(!trusted(&policy, "arn:provider", &other));
        let elsewhere = json!({"sub": account, "aud": ["https://kubernetes.default.svc"]});
        assert!(!trusted(&policy, "arn:provider", &elsewhere));
        assert!(!trusted(&policy, "arn:provider", &json!({"sub": account})));
        let unknown = trust("StringLike", account);
        assert!(!trusted(&unknown, "arn:provider", &token));
    }

    #[test]
    fn an_object_is_public_by_its_own_name_alone() {
        let policy = json!({"Statement": [
            {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": ["arn:a/keys"]},
            {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:a/other"},
        ]});
        assert!(shows_to_everybody(&policy, "arn:a/keys"));
        assert!(!shows_to_everybody(&policy, "arn:a/other"));
        assert!(!shows_to_everybody(&json!({}), "arn:a/keys"));
    }

    #[test]
    fn a_token_is_not_valid_without_its_signature() {
        // A key of RFC 7517, and a token that another one signed.
        let keys: JwkSet = serde_json::from_value(json!({"keys": [{
            "kty": "RSA", "kid": "k", "alg": "RS256", "use": "sig", "e": "AQAB",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        }]}))
        .unwrap();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = |id: &str| {
            let header = part(json!({"alg": "RS256", "kid": id}));
            let claims = part(json!({"iss": "i", "aud": ["a"], "exp": 4_102_444_800_u64}));
            format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([7; 256]))
        };
        let refusal = |id: &str| {
            let refused = verify(&token(id), &keys, "i", &["a".to_owned()]).unwrap_err();
            refused.to_string()
        };
        assert_eq!(refusal("k"), "InvalidSignature");
        assert_eq!(refusal("other"), "the issuer has published no key other");
    }
}
