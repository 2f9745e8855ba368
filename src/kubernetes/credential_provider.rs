//! How the kubelet finds this agent as its credential provider.
//! <https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/>

use serde_json::json;

/// The protocol's version.
pub const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// How long the kubelet keeps a login to ECR: half of what ECR grants.
pub const CACHED_FOR: &str = "6h0m0s";

/// The same for a login that people change.
pub const STORED_CACHED_FOR: &str = "10m0s";

/// The `CredentialProviderConfig`, as JSON, for ECR and these other registries. The kubelet looks for the provider's name in the folder
/// of its flag `--image-credential-provider-bin-dir`.
pub fn config<'a>(others: impl Iterator<Item = &'a String>) -> String {
    // A star stands for one part of a host name.
    let ecr = [
        "*.dkr.ecr.*.amazonaws.com",
        "*.dkr.ecr.*.amazonaws.com.cn",
        "*.dkr.ecr.*.amazonaws.eu",
    ];
    let images: Vec<&str> = ecr.into_iter().chain(others.map(String::as_str)).collect();
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "k8s-bootstrap",
            "apiVersion": API_VERSION,
            "args": ["credential-provider"],
            "defaultCacheDuration": CACHED_FOR,
            "matchImages": images,
        }],
    });
    format!("{config:#}\n")
}
