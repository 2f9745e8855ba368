//! `credential-provider`: lets the kubelet pull from private registries of ECR, with the instance's
//! role.
//!
//! The kubelet runs this command for an image of such a registry, and keeps the answer. Protocol:
//! <https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/>

use std::path::Path;

use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{print, who_am_i};
use crate::{
    adapters::{arguments::read_text, wiring::Wiring},
    config::private_registry,
    error::{Error, Result},
    kubernetes::credential_provider::{API_VERSION, CACHED_FOR},
};

/// Answers one request on standard input.
pub async fn credential_provider() -> Result<()> {
    let image = image(&read_text(Path::new("-"))?)?;
    let Some(registry) = private_registry(&image) else {
        return Err(Error::usage(format!(
            "`{image}` is not an image of a private registry of ECR"
        ))
        .hint("the kubelet asks only for what `matchImages` in its configuration names"));
    };
    let wiring = Wiring::new()?;
    let (settings, ..) = who_am_i(&wiring).await?;
    let login = wiring.ecr(registry.region, &settings)?.login().await?;
    let password = login.password.expose_secret();
    print(&answer(registry.host, &login.username, password).to_string())
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

fn answer(registry: &str, username: &str, password: &str) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "CredentialProviderResponse",
        "cacheKeyType": "Registry",
        "cacheDuration": CACHED_FOR,
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
        let answer = answer("1.dkr.ecr.eu-central-1.amazonaws.com", "AWS", "secret");
        assert_eq!(answer["kind"], "CredentialProviderResponse");
        let login = &answer["auth"]["1.dkr.ecr.eu-central-1.amazonaws.com"];
        assert_eq!(login["password"], "secret");
    }
}
