//! References of container images.

use std::collections::BTreeMap;

/// Whether the reference names its registry's host. Without one, each program adds a default host of
/// its own.
pub fn names_its_registry(image: &str) -> bool {
    let host = image.split_once('/').map_or("", |(host, _)| host);
    (host.contains(['.', ':']) || host == "localhost") && !image.contains(char::is_whitespace)
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
