//! Logins to registries: anonymous, or the ones that `docker login` has stored for this user.
//! <https://distribution.github.io/distribution/spec/auth/token/>

use base64::{Engine, prelude::BASE64_STANDARD};
use docker_credential::DockerCredential;
use http::{HeaderValue, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::error::{Context, Error, Result};

/// The `Authorization` that a registry wants for a request to this URL; `None` if it wants none.
pub(super) async fn authorization(
    client: &reqwest::Client,
    host: &str,
    url: &str,
) -> Result<Option<HeaderValue>> {
    let attempt = || format!("cannot log in to {host}");
    let answer = client.head(url).send().await.attempting(attempt)?;
    if answer.status() != StatusCode::UNAUTHORIZED {
        return Ok(None);
    }
    let wanted = answer.headers().get(header::WWW_AUTHENTICATE);
    let wanted = wanted
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let challenges = http_auth::parse_challenges(wanted).unwrap_or_default();
    let known = stored(host);
    for challenge in challenges {
        let value = |name: &str| {
            let mut params = challenge.params.iter();
            let found = params.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("basic")
            && let Some(basic) = &known
        {
            return header_of("Basic", basic).map(Some);
        }
        if challenge.scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            let query: Vec<(&str, String)> = ["service", "scope"]
                .into_iter()
                .filter_map(|name| Some((name, value(name)?)))
                .collect();
            let mut realm = url::Url::parse(&realm).attempting(attempt)?;
            realm.query_pairs_mut().extend_pairs(query);
            let mut request = client.get(realm);
            if let Some(basic) = &known {
                request = request.header(header::AUTHORIZATION, header_of("Basic", basic)?);
            }
            let answer = request.send().await.attempting(attempt)?;
            if !answer.status().is_success() {
                return Err(Error::doubtful(format!(
                    "{host} answered {} to the login",
                    answer.status()
                ))
                .hint(format!(
                    "log in with `docker login {host}`, or check the image's name"
                )));
            }
            let token: Token = answer.json().await.attempting(attempt)?;
            let token = token.token.or(token.access_token);
            let token = token.ok_or_else(|| {
                Error::doubtful(format!("{host} answered the login without a token"))
            })?;
            return header_of("Bearer", &token).map(Some);
        }
    }
    Err(
        Error::doubtful(format!("{host} serves {url} only after a login"))
            .hint(format!("log in with `docker login {host}`")),
    )
}

#[derive(Deserialize)]
struct Token {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
}

/// A header that is never printed.
fn header_of(scheme: &str, secret: &SecretString) -> Result<HeaderValue> {
    let text = format!("{scheme} {}", secret.expose_secret());
    let mut value =
        HeaderValue::from_str(&text).attempting(|| "the login has no usable form".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// What `docker login` or its credential helper has stored for this registry, as `Basic` sends it.
fn stored(host: &str) -> Option<SecretString> {
    // Docker's own registry is stored under its older name.
    let server = match host {
        "docker.io" => "https://index.docker.io/v1/",
        host => host,
    };
    match docker_credential::get_credential(server).ok()? {
        DockerCredential::UsernamePassword(user, password) => {
            Some(BASE64_STANDARD.encode(format!("{user}:{password}")).into())
        }
        DockerCredential::IdentityToken(_) => None,
    }
}
