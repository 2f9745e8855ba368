//! Who issues the tokens of service accounts, and where their keys are published.

use url::Url;

use super::settings::ServiceAccounts;
use crate::{
    error::{Error, Result},
    ports::Place,
};

/// Where `OpenID` Connect looks for an issuer's discovery document.
/// <https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig>
pub const DISCOVERY: &str = ".well-known/openid-configuration";

/// Where Kubernetes serves the public keys.
pub const KEYS: &str = "openid/v1/jwks";

impl ServiceAccounts {
    /// Whether others than the cluster can check its tokens.
    pub fn are_public(&self) -> bool {
        !self.issuer.is_empty()
    }

    /// The address of the keys below the issuer's.
    pub fn keys_url(&self) -> String {
        format!("{}/{KEYS}", self.issuer)
    }

    /// Where the leader publishes; `None` if it does not.
    pub fn place(&self) -> Result<Option<Place>> {
        if self.publish_to.is_empty() {
            return Ok(None);
        }
        Place::parse(&self.publish_to).map(Some)
    }
}

/// Refuses an issuer that AWS would refuse, and a place that is not behind it.
pub fn validate(settings: &ServiceAccounts) -> Result<()> {
    let ServiceAccounts { issuer, publish_to } = settings;
    if issuer.is_empty() {
        return if publish_to.is_empty() {
            Ok(())
        } else {
            Err(
                Error::refused("service_accounts.publish_to: there is no service_accounts.issuer")
                    .hint("name the address at which that bucket is read"),
            )
        };
    }
    let url = Url::parse(issuer).ok().filter(|url| is_issuer(url, issuer));
    let Some(url) = url else {
        return Err(Error::refused(format!(
            "service_accounts.issuer: `{issuer}` is not the address of an issuer"
        ))
        .hint(
            "it is https:// with a host and perhaps a path, without a port or a last slash: \
             issuer = \"https://BUCKET.s3.REGION.amazonaws.com/PREFIX\"",
        ));
    };
    let place = settings.place().map_err(|error| {
        Error::refused(format!("service_accounts.publish_to: {}", error.one_line()))
            .hint(error.remedy().unwrap_or_default())
    })?;
    let behind = bucket_behind(&url);
    match (place, behind) {
        (Some(place), Some(behind)) if place.to_string() != behind => Err(Error::refused(format!(
            "service_accounts.publish_to: {place} is not what {issuer} shows"
        ))
        .hint(format!("publish_to = \"{behind}\""))),
        _ => Ok(()),
    }
}

/// As IAM wants it of an identity provider, and so that nothing but a path can follow.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateOpenIDConnectProvider.html>
fn is_issuer(url: &Url, text: &str) -> bool {
    url.scheme() == "https"
        && url.host_str().is_some_and(|host| host.contains('.'))
        && url.port().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && text.len() <= 255
        // Compared byte by byte by everybody: no second spelling.
        && url.as_str().strip_suffix('/').unwrap_or(url.as_str()) == text
}

/// The place whose objects S3 shows at this address, if the address is one of S3's.
fn bucket_behind(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    let (bucket, rest) = host.split_once(".s3.")?;
    let is_s3 = rest.ends_with("amazonaws.com") || rest.ends_with("amazonaws.com.cn");
    is_s3.then(|| format!("s3://{bucket}{}", url.path().trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn settings(issuer: &str, publish_to: &str) -> ServiceAccounts {
        ServiceAccounts {
            issuer: issuer.to_owned(),
            publish_to: publish_to.to_owned(),
        }
    }

    #[test]
    fn an_issuer_is_published_behind_its_address_or_by_somebody_else() {
        let s3 = "https://keys.s3.eu-central-1.amazonaws.com";
        for (issuer, publish_to) in [
            ("", ""),
            (s3, ""),
            (s3, "s3://keys"),
            (&format!("{s3}/prod/a"), "s3://keys/prod/a"),
            ("https://id.example.com", "s3://behind-a-cdn/prod"),
            ("https://id.example.com/prod", "file:///srv/www"),
        ] {
            validate(&settings(issuer, publish_to)).unwrap();
        }
        let keys = settings(s3, "").keys_url();
        assert_eq!(keys, format!("{s3}/openid/v1/jwks"));
    }

    #[test]
    fn what_is_no_issuer_or_not_behind_it_is_refused() {
        for (issuer, publish_to, expected) in [
            (
                "http://id.example.com",
                "",
                "is not the address of an issuer",
            ),
            ("https://id.example.com/", "", "is not the address"),
            ("https://id.example.com:8443", "", "is not the address"),
            ("https://id.example.com/?a=b", "", "is not the address"),
            ("https://ID.example.com", "", "is not the address"),
            ("https://user@id.example.com", "", "is not the address"),
            ("https://localhost", "", "is not the address"),
            ("id.example.com", "", "is not the address"),
            ("", "s3://keys", "there is no service_accounts.issuer"),
            (
                "https://id.example.com",
                "s3://K",
                "`s3://K` is not a destination",
            ),
            (
                "https://keys.s3.eu-central-1.amazonaws.com/a",
                "s3://keys/b",
                "publish_to: s3://keys/b is not what https://keys.s3",
            ),
        ] {
            let error = validate(&settings(issuer, publish_to)).unwrap_err();
            assert!(error.one_line().contains(expected), "{issuer}: {error}");
            assert!(error.remedy().is_some(), "{issuer}");
        }
    }
}
