//! The syntax of names and labels, as in Kubernetes' `apimachinery/pkg/util/validation`.

/// Label keys below kubernetes.io and k8s.io that a kubelet may set on its own node.
/// <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>
const KUBELET_KEYS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Domains whose labels, and those of their subdomains, a kubelet may set on its own node.
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// RFC 1123: 1 to 63 of `a-z`, `0-9` and `-`, with a letter or digit at both ends.
pub(super) fn is_dns_label(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123: DNS labels separated by dots, at most 253 characters. As in Kubernetes, only the total
/// length is limited.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= 253
        && text.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(fits)
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

/// `NAME` or `DOMAIN/NAME`.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    if let Some(domain) = domain
        && !is_dns_subdomain(domain)
    {
        return Err(format!("`{domain}` before the `/` is not a DNS name"));
    }
    if name.is_empty() || !is_name(name) {
        return Err(format!("the key's name `{name}` is not {NAME}"));
    }
    Ok(())
}

/// A label's or taint's value, possibly empty.
pub(super) fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!("the value `{value}` is neither empty nor {NAME}"))
}

const NAME: &str = "1 to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends";

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// Whether the kubelet accepts the key in `--node-labels`. If it is given other keys of Kubernetes'
/// own domains, the kubelet does not start, and the API server would not let it set them.
pub(super) fn check_allowed_to_kubelets(key: &str) -> Result<(), String> {
    let Some((domain, _)) = key.split_once('/') else {
        return Ok(());
    };
    let within = |parent: &str| {
        domain
            .strip_suffix(parent)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let kubernetes_own = within("kubernetes.io") || within("k8s.io");
    if !kubernetes_own || KUBELET_KEYS.contains(&key) || KUBELET_DOMAINS.into_iter().any(within) {
        return Ok(());
    }
    Err(format!(
        "a node may not give itself labels of {domain}; use a domain of your own, or node.kubernetes.io"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names() {
        let long = "a".repeat(63);
        for label in ["a", "prod-1", "9", long.as_str()] {
            assert!(is_dns_label(label), "{label}");
        }
        for label in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &format!("{long}a")] {
            assert!(!is_dns_label(label), "{label}");
        }
        let longest = format!("{long}.{long}.{long}.{}", "a".repeat(61));
        for name in ["a", "ip-10-0-0-1.ec2.internal", longest.as_str()] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a.-b",
            "a b",
            &format!("{longest}a"),
        ] {
            assert!(!is_dns_subdomain(name), "{name}");
        }
    }

    #[test]
    fn label_keys_and_values() {
        for key in ["a", "A_b.c-1", "example.com/team", "node.kubernetes.io/x"] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        for key in [
            "",
            "/a",
            "a/",
            "a/b/c",
            "Ex.com/a",
            "-a",
            "a-",
            "a b",
            &"a".repeat(64),
        ] {
            assert!(check_key(key).is_err(), "{key}");
        }
        for value in ["", "a", "A.b_c-1", &"a".repeat(63)] {
            assert_eq!(check_value(value), Ok(()), "{value}");
        }
        for value in ["-", "a b", "a/b", ".a", &"a".repeat(64)] {
            assert!(check_value(value).is_err(), "{value}");
        }
    }

    #[test]
    fn kubernetes_own_domains_are_refused_except_for_the_kubelets_labels() {
        for key in [
            "team",
            "example.com/kubernetes.io",
            "mykubernetes.io/a",
            "node.kubernetes.io/a",
            "x.node.kubernetes.io/a",
            "kubelet.kubernetes.io/a",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        ] {
            assert_eq!(check_allowed_to_kubelets(key), Ok(()), "{key}");
        }
        for key in [
            "node-role.kubernetes.io/worker",
            "kubernetes.io/team",
            "k8s.io/a",
            "x.k8s.io/a",
            "node-restriction.kubernetes.io/a",
            "topology.kubernetes.io/rack",
        ] {
            assert!(check_allowed_to_kubelets(key).is_err(), "{key}");
        }
    }
}
