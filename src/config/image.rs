//! References of container images.

use std::collections::BTreeMap;

/// What is before the first slash: the registry's host, if the reference names one.
pub fn registry_of(image: &str) -> &str {
    image.split_once('/').map_or("", |(host, _)| host)
}

/// The server of a registry. Docker's is the only one whose name is not its host.
pub fn registry_server(host: &str) -> &str {
    match host {
        "docker.io" => "registry-1.docker.io",
        host => host,
    }
}

/// Whether a mirror's URL already has the API's version in its path, so that none is to be added.
pub fn has_api_version(mirror: &url::Url) -> bool {
    let mut segments = mirror.path_segments().into_iter().flatten();
    segments.any(|segment| segment == "v2")
}

/// Whether the reference names its registry's host. Without one, each program adds a default host of
/// its own.
pub fn names_its_registry(image: &str) -> bool {
    let host = registry_of(image);
    (host.contains(['.', ':']) || host == "localhost") && !image.contains(char::is_whitespace)
}

/// The reference in full, as the kubelet completes it: with its registry, its repository and a tag.
/// <https://github.com/distribution/reference/blob/main/normalize.go>
pub fn in_full(image: &str) -> String {
    let named = if names_its_registry(image) {
        image.to_owned()
    } else if image.contains('/') {
        format!("docker.io/{image}")
    } else {
        format!("docker.io/library/{image}")
    };
    if named.contains('@') || repository(&named) != named {
        named
    } else {
        format!("{named}:latest")
    }
}

/// A private registry of ECR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrivateRegistry<'a> {
    /// `ACCOUNT.dkr.ecr.REGION.amazonaws.com`
    pub host: &'a str,
    /// Its region, which need not be the instance's.
    pub region: &'a str,
}

/// The private registry of ECR that an image is in; `None` for all others.
/// <https://docs.aws.amazon.com/AmazonECR/latest/userguide/Registries.html>
pub fn private_registry(image: &str) -> Option<PrivateRegistry<'_>> {
    let (host, _) = image.split_once('/')?;
    let (account, rest) = host.split_once(".dkr.ecr.")?;
    let (region, domain) = rest.split_once('.')?;
    let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let is_aws = ["amazonaws.com", "amazonaws.com.cn", "amazonaws.eu"].contains(&domain);
    (is_account && is_aws).then_some(PrivateRegistry { host, region })
}

/// The override that applies to an image, and the image that replaces it. An override applies if it
/// is the whole reference, or the reference without tag and digest.
pub fn overridden<'a>(
    overrides: &'a BTreeMap<String, String>,
    image: &str,
) -> Option<(&'a str, &'a str)> {
    let found = overrides
        .get_key_value(image)
        .or_else(|| overrides.get_key_value(repository(image)))?;
    Some((found.0, found.1))
}

/// The reference without its tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    match image.rsplit_once(':') {
        // A port, not a tag.
        Some((_, after)) if after.contains('/') => image,
        Some((name, _)) => name,
        None => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_a_reference_without_tag_and_digest() {
        for (image, expected) in [
            ("quay.io/a/b:1", "quay.io/a/b"),
            ("quay.io/a/b@sha256:00", "quay.io/a/b"),
            ("localhost:5000/b:1@sha256:00", "localhost:5000/b"),
            ("localhost:5000/b", "localhost:5000/b"),
            ("busybox", "busybox"),
        ] {
            assert_eq!(repository(image), expected, "{image}");
        }
    }

    #[test]
    fn a_short_reference_is_completed_as_the_kubelet_does() {
        for (image, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("rancher/a:v1", "docker.io/rancher/a:v1"),
            ("quay.io/a/b", "quay.io/a/b:latest"),
            ("localhost:5000/b", "localhost:5000/b:latest"),
            ("quay.io/a/b@sha256:00", "quay.io/a/b@sha256:00"),
            ("registry.k8s.io/pause:3", "registry.k8s.io/pause:3"),
        ] {
            assert_eq!(in_full(image), expected, "{image}");
        }
    }

    #[test]
    fn a_private_registry_of_ecr_is_known_by_its_host() {
        let host = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
        let image = format!("{host}/team/visits:1");
        let found = private_registry(&image).map(|registry| (registry.host, registry.region));
        assert_eq!(found, Some((host, "eu-central-1")));
        let china = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/a";
        assert_eq!(
            private_registry(china).map(|found| found.region),
            Some("cn-north-1")
        );
        for other in [
            "public.ecr.aws/a/b:1",
            "docker.io/library/redis",
            "1.dkr.ecr.eu-central-1.amazonaws.com/a",
            "123456789012.dkr.ecr.eu-central-1.example.com/a",
            "redis",
        ] {
            assert_eq!(private_registry(other), None, "{other}");
        }
    }

    #[test]
    fn a_registry_is_a_host_before_the_first_slash() {
        for (image, expected) in [
            ("docker.io/library/redis:8", true),
            ("localhost/redis", true),
            ("registry:5000/redis", true),
            ("redis:8", false),
            ("library/redis:8", false),
            ("docker.io/library/redis :8", false),
            ("", false),
        ] {
            assert_eq!(names_its_registry(image), expected, "{image}");
        }
    }
}
