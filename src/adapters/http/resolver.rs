//! Resolves names from /etc/hosts and /etc/resolv.conf, in this process.
//!
//! A static glibc binary that calls `getaddrinfo` loads the machine's own NSS modules, which use a
//! different glibc. Both files are read again for each lookup (reqwest keeps connections, so
//! lookups are rare): cloud-init, resolved and the agent itself rewrite them while an instance
//! boots. There is no fallback to a public resolver: if none is configured, a lookup fails.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
    net::runtime::TokioRuntimeProvider,
    system_conf::parse_resolv_conf,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The resolver that the machine's files describe.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    built: Arc<Mutex<Option<Built>>>,
}

/// The resolver for a resolv.conf with this content; it holds the cache.
#[derive(Debug)]
struct Built {
    content: Vec<u8>,
    resolver: TokioResolver,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::reading(Path::new("/etc/hosts"), Path::new("/etc/resolv.conf"))
    }
}

impl SystemResolver {
    /// A resolver that reads these files instead.
    pub fn reading(hosts: &Path, resolv_conf: &Path) -> Self {
        Self {
            hosts: hosts.to_owned(),
            resolv_conf: resolv_conf.to_owned(),
            built: Arc::default(),
        }
    }

    /// All addresses of a name; only those in /etc/hosts if it has any.
    pub async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let hosts = tokio::fs::read_to_string(&self.hosts).await;
        let listed = in_hosts(&hosts.unwrap_or_default(), name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        if is_localhost(name) {
            return Ok(vec![IpAddr::from([127, 0, 0, 1])]);
        }
        let resolver = self.resolver().await?;
        let found = resolver.lookup_ip(name).await.map_err(|error| {
            io::Error::other(format!(
                "the resolvers in {} cannot resolve {name}: {error}",
                self.resolv_conf.display()
            ))
        })?;
        Ok(found.iter().collect())
    }

    async fn resolver(&self) -> io::Result<TokioResolver> {
        let path = self.resolv_conf.display();
        let content = tokio::fs::read(&self.resolv_conf)
            .await
            .map_err(|error| io::Error::other(format!("cannot read {path}: {error}")))?;
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(built) = &*built
            && built.content == content
        {
            return Ok(built.resolver.clone());
        }
        let unusable = |error| io::Error::other(format!("{path} has no usable resolver: {error}"));
        let (config, mut options) = parse_resolv_conf(&content).map_err(unusable)?;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(unusable)?;
        *built = Some(Built {
            content,
            resolver: resolver.clone(),
        });
        Ok(resolver)
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.addresses(name.as_str()).await?;
            // Port 0 means the URL's port.
            let addresses = found.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// A name's addresses in a hosts(5) file.
fn in_hosts(content: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    content
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|word| word.eq_ignore_ascii_case(name))
                .then_some(address)
        })
        .collect()
}

/// RFC 6761: never sent to a server.
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use tokio::net::UdpSocket;

    use super::*;

    struct Etc {
        folder: tempfile::TempDir,
        resolver: SystemResolver,
    }

    impl Etc {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let resolver = SystemResolver::reading(
                &folder.path().join("hosts"),
                &folder.path().join("resolv.conf"),
            );
            Self { folder, resolver }
        }

        fn has(&self, file: &str, content: &str) {
            std::fs::write(self.folder.path().join(file), content).unwrap();
        }

        async fn error(&self, name: &str) -> String {
            self.resolver.addresses(name).await.unwrap_err().to_string()
        }
    }

    #[test]
    fn hosts_files_are_parsed_as_documented() {
        let content = "127.0.0.1 localhost\n# 9.9.9.9 a\n10.0.0.1\tA.example a # b\n::1 localhost\nbroken a\n10.0.0.2 a";
        let cases: [(&str, &[&str]); 5] = [
            ("a", &["10.0.0.1", "10.0.0.2"]),
            ("a.EXAMPLE.", &["10.0.0.1"]),
            ("localhost", &["127.0.0.1", "::1"]),
            ("b", &[]),
            ("10.0.0.1", &[]),
        ];
        for (name, expected) in cases {
            let expected: Vec<IpAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
            assert_eq!(in_hosts(content, name), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_line_added_to_hosts_applies_at_once_and_needs_no_server() {
        let etc = Etc::new();
        assert!(etc.error("node-1").await.contains("cannot read"));
        etc.has("hosts", "10.0.0.7 node-1\n");
        let found = etc.resolver.addresses("node-1").await.unwrap();
        assert_eq!(found, [IpAddr::from([10, 0, 0, 7])]);
    }

    #[tokio::test]
    async fn without_a_configured_server_a_lookup_fails_with_the_reason() {
        let etc = Etc::new();
        let error = etc.error("dl.k8s.io").await;
        assert!(
            error.contains("cannot read") && error.contains("resolv.conf"),
            "{error}"
        );
        etc.has("resolv.conf", "search example.com\n");
        let error = etc.error("dl.k8s.io").await;
        assert!(error.contains("has no usable resolver"), "{error}");
    }

    #[tokio::test]
    async fn localhost_needs_no_files() {
        let found = Etc::new().resolver.addresses("localhost").await.unwrap();
        assert_eq!(found, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }

    #[tokio::test]
    async fn the_server_in_resolv_conf_is_queried() {
        // resolv.conf has no ports, so the server needs port 53 on an address of its own.
        let Ok(socket) = UdpSocket::bind("127.91.7.53:53").await else {
            eprintln!("SKIPPED: binding port 53 needs privileges");
            return;
        };
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let _ = socket.send_to(&answer(&query[..length]), from).await;
            }
        });
        let etc = Etc::new();
        etc.has(
            "resolv.conf",
            "nameserver 127.91.7.53\noptions timeout:1 attempts:1\n",
        );
        let found = etc.resolver.addresses("ssm.example.com").await.unwrap();
        assert_eq!(found, [IpAddr::from([10, 1, 2, 3])]);
        assert!(
            etc.error("missing.example.com")
                .await
                .contains("cannot resolve missing")
        );
    }

    /// 10.1.2.3 for A queries whose name starts with `ssm`; otherwise NXDOMAIN or no record.
    fn answer(query: &[u8]) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 5;
        let known = query[13..].starts_with(b"ssm");
        let address = known && query[end - 3] == 1;
        let mut reply = query[..end].to_vec();
        reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
        if !known {
            reply[3] = 0x83;
        }
        if address {
            reply[7] = 1;
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3]);
        }
        reply
    }
}
