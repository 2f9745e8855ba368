//! `credential-provider`: lets the kubelet pull from private registries: of ECR with the instance's
//! role, of others with the login that the settings name.
//!
//! The kubelet runs this command for an image of such a registry, and keeps the answer. Protocol:
//! <https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/>

use std::path::Path;

use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{print, who_am_i};
use crate::{
    adapters::{arguments::read_text, aws::ecr::Login, wiring::Wiring},
    config::{LoginPlace, Settings, private_registry, registry_of},
    error::{Error, Result},
    identity::Identity,
    kubernetes::credential_provider::{API_VERSION, CACHED_FOR, STORED_CACHED_FOR},
};

/// Answers one request on standard input.
pub async fn credential_provider() -> Result<()> {
    let image = image(&read_text(Path::new("-"))?)?;
    let wiring = Wiring::new()?;
    let (settings, me, _) = who_am_i(&wiring).await?;
    let (host, login, kept_for) = if let Some(registry) = private_registry(&image) {
        let login = wiring.ecr(registry.region, &settings)?.login().await?;
        (registry.host, login, CACHED_FOR)
    } else {
        let host = registry_of(&image);
        let login = stored(&wiring, &settings, &me, host).await?;
        (host, login, STORED_CACHED_FOR)
    };
    let password = login.password.expose_secret();
    print(&answer(host, &login.username, password, kept_for).to_string())
}

/// The login that the settings name for this registry.
async fn stored(wiring: &Wiring, settings: &Settings, me: &Identity, host: &str) -> Result<Login> {
    let place = settings.images.login(host).ok_or_else(|| {
        Error::usage(format!(
            "`{host}` is neither a private registry of ECR nor in images.logins"
        ))
        .hint("the kubelet asks only for what `matchImages` in its configuration names")
    })?;
    let secret = match place {
        LoginPlace::Parameter(name) => wiring.ssm(&me.region, settings)?.secret(name).await?,
        LoginPlace::File(path) => {
            let content = wiring.host.read(path).await?;
            content.map(|content| String::from_utf8_lossy(&content).into_owned().into())
        }
    };
    let place = &settings.images.logins[host];
    let secret = secret.ok_or_else(|| {
        Error::failed(format!("images.logins.\"{host}\": {place} does not exist"))
            .hint("put USER:PASSWORD there")
    })?;
    Login::parse(&secret).ok_or_else(|| {
        Error::failed(format!(
            "images.logins.\"{host}\": {place} is not USER:PASSWORD"
        ))
        .hint("write the user's name, a colon and the password or token, in one line")
    })
}

fn image(request: &str) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Request {
        api_version: String,
        image: String,
    }
    let wrong = || {
        Error::usage("standard input has no CredentialProviderRequest").hint(format!(
            "the kubelet writes one of {API_VERSION}: \
             {{\"apiVersion\": \"{API_VERSION}\", \"kind\": \"CredentialProviderRequest\", \"image\": \"...\"}}"
        ))
    };
    let request: Request = serde_json::from_str(request).map_err(|_| wrong())?;
    if request.api_version != API_VERSION {
        return Err(wrong());
    }
    Ok(request.image)
}

fn answer(registry: &str, username: &str, password: &str, kept_for: &str) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "CredentialProviderResponse",
        "cacheKeyType": "Registry",
        "cacheDuration": kept_for,
        "auth": { registry: { "username": username, "password": password } },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_another_version_or_form_is_refused_with_what_is_expected() {
        let text = |version: &str| {
            format!(
                "{{\"apiVersion\":\"{version}\",\"kind\":\"CredentialProviderRequest\",\"image\":\"a/b\"}}"
            )
        };
        assert_eq!(image(&text(API_VERSION)).unwrap(), "a/b");
        let old = text("credentialprovider.kubelet.k8s.io/v1alpha1");
        for request in ["", "{}", "image", old.as_str()] {
            let error = image(request).unwrap_err().to_string();
            assert!(
                error.contains("hint: the kubelet writes one of credentialprovider"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_answer_is_for_the_whole_registry() {
        let answer = answer(
            "1.dkr.ecr.eu-central-1.amazonaws.com",
            "AWS",
            "secret",
            "6h",
        );
        assert_eq!(answer["kind"], "CredentialProviderResponse");
        let login = &answer["auth"]["1.dkr.ecr.eu-central-1.amazonaws.com"];
        assert_eq!(login["password"], "secret");
    }
}
