//! What is requested through the user's proxy, and what never is.

use super::{Settings, settings::Proxy};
use crate::error::{Error, Result};

/// Addresses inside a VPC or of this machine, and the metadata service's.
const PRIVATE: [&str; 9] = [
    "localhost",
    "127.0.0.0/8",
    "::1",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fd00:ec2::/32",
];

impl Proxy {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        !self.http.is_empty() || !self.https.is_empty()
    }

    /// The variables that curl, containerd and others read: names and values.
    pub fn variables(&self, no_proxy: &str) -> Vec<(&'static str, String)> {
        let proxies = [("HTTP_PROXY", &self.http), ("HTTPS_PROXY", &self.https)];
        let mut set: Vec<_> = proxies
            .into_iter()
            .filter(|(_, url)| !url.is_empty())
            .map(|(name, url)| (name, url.clone()))
            .collect();
        if !set.is_empty() {
            set.push(("NO_PROXY", no_proxy.to_owned()));
        }
        set
    }
}

impl Settings {
    /// What is requested directly, as a value of `NO_PROXY`: private networks, pods, services, names
    /// inside the cluster and the VPC, the API, and what the user adds.
    pub fn no_proxy(&self) -> String {
        let cluster = &self.cluster;
        let mut all: Vec<String> = PRIVATE.map(str::to_owned).into();
        all.extend([
            cluster.pod_cidr.clone(),
            cluster.service_cidr.clone(),
            ".svc".to_owned(),
            format!(".{}", cluster.dns_domain),
            ".internal".to_owned(),
        ]);
        if let Some((host, _)) = cluster.endpoint.rsplit_once(':') {
            all.push(host.to_owned());
        }
        all.extend(self.proxy.no_proxy.iter().cloned());
        all.join(",")
    }
}

/// Refuses what is not a proxy, and credentials: user-data and units are no place for secrets.
pub(super) fn validate(proxy: &Proxy) -> Result<()> {
    for (place, url) in [("proxy.http", &proxy.http), ("proxy.https", &proxy.https)] {
        if url.is_empty() {
            continue;
        }
        let parsed = url::Url::parse(url).ok();
        let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(parsed) = parsed.filter(|_| !url.contains(['"', '\'', '\\', '$', '%'])) else {
            return Err(
                Error::refused(format!("{place}: `{url}` is not the URL of a proxy"))
                    .hint("example: https = \"http://proxy.example.com:3128\""),
            );
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(
                Error::refused(format!("{place}: the URL contains credentials")).hint(
                    "anybody on the instance can read them: let the proxy accept the addresses of the nodes",
                ),
            );
        }
    }
    let unfit = |entry: &&String| {
        entry.is_empty() || entry.contains([',', ' ', '"', '\'', '\\', '$', '%', '\n'])
    };
    if let Some(entry) = proxy.no_proxy.iter().find(unfit) {
        return Err(Error::refused(format!(
            "proxy.no_proxy: `{entry}` is not a host, a domain or a network"
        ))
        .hint("one entry each: no_proxy = [\".example.com\", \"203.0.113.0/24\"]"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::settings;

    fn proxied(https: &str) -> Settings {
        let mut settings = settings();
        settings.proxy.https = https.to_owned();
        settings
    }

    #[test]
    fn private_networks_the_cluster_and_its_api_are_requested_directly() {
        let mut settings = proxied("http://proxy.example.com:3128");
        settings.cluster.endpoint = "api.example.com:6443".to_owned();
        settings.proxy.no_proxy = vec![".corp.example".to_owned()];
        let direct = settings.no_proxy();
        let all: Vec<&str> = direct.split(',').collect();
        for wanted in [
            "169.254.0.0/16",
            "10.0.0.0/8",
            "192.168.0.0/16",
            "10.96.0.0/12",
            ".svc",
            ".cluster.local",
            ".internal",
            "api.example.com",
            ".corp.example",
        ] {
            assert!(all.contains(&wanted), "{wanted} is not in {direct}");
        }
    }

    #[test]
    fn without_a_proxy_nothing_is_set() {
        let settings = settings();
        assert!(!settings.proxy.is_set());
        assert_eq!(settings.proxy.variables(&settings.no_proxy()), []);
    }

    #[test]
    fn a_url_that_is_not_a_proxy_and_credentials_are_refused() {
        for (url, why) in [
            ("proxy.example.com:3128", "is not the URL of a proxy"),
            ("socks5://proxy:1080", "is not the URL of a proxy"),
            ("http://proxy/\"x", "is not the URL of a proxy"),
            ("http://me:secret@proxy:3128", "contains credentials"),
        ] {
            let error = validate(&proxied(url).proxy).unwrap_err();
            assert!(error.to_string().contains(why), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        validate(&proxied("http://proxy.example.com:3128").proxy).unwrap();
        let mut settings = proxied("");
        settings.proxy.no_proxy = vec!["a, b".to_owned()];
        assert!(validate(&settings.proxy).is_err());
    }
}
