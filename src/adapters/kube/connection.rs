//! The client's credentials and the API server's address, looked up as late as possible.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::Mutex;

use crate::error::{Context, Error, Result};

/// A client that is created when needed, and again if one of its files has changed or it failed.
pub struct Connection {
    source: Source,
    current: Mutex<Option<(Files, Client)>>,
}

/// What a client was created from, by path: the kubeconfig and the files that it names.
type Files = Vec<(PathBuf, Vec<u8>)>;

enum Source {
    Files {
        kubeconfigs: Vec<PathBuf>,
        endpoint: String,
    },
    Fixed(Client),
}

impl Connection {
    pub fn to(kubeconfigs: Vec<PathBuf>, endpoint: String) -> Self {
        Self {
            source: Source::Files {
                kubeconfigs,
                endpoint,
            },
            current: Mutex::new(None),
        }
    }

    pub fn fixed(client: Client) -> Self {
        Self {
            source: Source::Fixed(client),
            current: Mutex::new(None),
        }
    }

    /// A connection to another server, as the same user.
    pub fn elsewhere(&self, server: SocketAddr) -> Self {
        match &self.source {
            Source::Files { kubeconfigs, .. } => Self::to(kubeconfigs.clone(), server.to_string()),
            Source::Fixed(client) => Self::fixed(client.clone()),
        }
    }

    pub async fn client(&self) -> Result<Client> {
        let (kubeconfigs, endpoint) = match &self.source {
            Source::Fixed(client) => return Ok(client.clone()),
            Source::Files {
                kubeconfigs,
                endpoint,
            } => (kubeconfigs, endpoint),
        };
        let mut current = self.current.lock().await;
        if let Some((files, client)) = &*current
            && are_unchanged(files).await
        {
            return Ok(client.clone());
        }
        let (files, client) = connect(kubeconfigs, endpoint).await?;
        *current = Some((files, client.clone()));
        Ok(client)
    }

    /// Drops the client if a new one may work: rotated credentials, a new CA, a changed address.
    pub async fn doubt(&self, error: &kube::Error) {
        let keep = matches!(error, kube::Error::Api(status) if status.code != 401);
        if !keep {
            *self.current.lock().await = None;
        }
    }
}

/// Whether the credentials on disk are unchanged: kubelets and agents renew theirs.
async fn are_unchanged(files: &Files) -> bool {
    for (path, content) in files {
        let now = tokio::fs::read(path).await;
        if now.ok().as_ref() != Some(content) {
            return false;
        }
    }
    true
}

async fn connect(kubeconfigs: &[PathBuf], endpoint: &str) -> Result<(Files, Client)> {
    let mut found = None;
    for path in kubeconfigs {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => {
                found = Some((path, text));
                break;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(
                    Error::failed(format!("cannot read {}", path.display())).because(&error)
                );
            }
        }
    }
    let (path, text) = found.ok_or_else(|| {
        let names: Vec<String> = kubeconfigs
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        Error::failed(format!(
            "no kubeconfig yet: {} do not exist",
            names.join(", ")
        ))
    })?;
    let what = || format!("cannot use {}", path.display());
    let kubeconfig = Kubeconfig::from_yaml(&text).attempting(what)?;
    let mut files = vec![(path.clone(), text.clone().into_bytes())];
    let users = kubeconfig.auth_infos.iter();
    for user in users.filter_map(|user| user.auth_info.as_ref()) {
        let named = [&user.client_certificate, &user.client_key];
        for path in named.into_iter().flatten().map(PathBuf::from) {
            let content = tokio::fs::read(&path).await;
            let content = content.attempting(|| format!("cannot read {}", path.display()))?;
            files.push((path, content));
        }
    }
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .attempting(what)?;

    let (host, address) = resolve(endpoint).await?;
    // No retries here: the agent's own waits have reasons and deadlines, and 429 is the answer of a
    // disruption budget.
    config.default_retry = false;
    config.cluster_url = format!("https://{address}")
        .parse()
        .attempting(|| format!("cannot use the endpoint {endpoint}"))?;
    config.tls_server_name = host;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_mins(1));
    config.write_timeout = Some(Duration::from_mins(1));
    config.proxy_url = None;

    // rustls uses the process's default provider; whoever is first sets it, always to this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok((files, Client::try_from(config).attempting(what)?))
}

/// The address of `host:port`, and the name that the certificate must have if the host is a name.
async fn resolve(endpoint: &str) -> Result<(Option<String>, SocketAddr)> {
    if let Ok(address) = endpoint.parse() {
        return Ok((None, address));
    }
    let wrong = || {
        Error::refused(format!(
            "cluster.endpoint `{endpoint}` is neither `local` nor `host:port`"
        ))
        .hint("example: \"api.example.com:6443\"")
    };
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let resolving = || format!("cannot resolve {host}");
    let found = hickory_resolver::Resolver::builder_tokio()
        .and_then(hickory_resolver::ResolverBuilder::build)
        .attempting(resolving)?
        .lookup_ip(host)
        .await
        .attempting(resolving)?;
    let ip: IpAddr = found
        .iter()
        .next()
        .ok_or_else(|| Error::failed(format!("{host} has no address")))?;
    Ok((Some(host.to_owned()), SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::error::Kind;

    #[tokio::test]
    async fn an_address_is_never_looked_up() {
        let (name, address) = resolve("127.0.0.1:7443").await.unwrap();
        assert_eq!(
            (name, address.to_string().as_str()),
            (None, "127.0.0.1:7443")
        );
    }

    #[tokio::test]
    async fn an_endpoint_without_a_port_is_refused() {
        assert_eq!(
            resolve("api.example.com").await.unwrap_err().kind(),
            Kind::Refused
        );
        assert_eq!(
            resolve("api.example.com:https").await.unwrap_err().kind(),
            Kind::Refused
        );
    }

    /// A kubeconfig whose user has this token and, if given, the certificate in this file.
    fn kubeconfig(token: &str, certificate: Option<&std::path::Path>) -> String {
        let user = match certificate {
            Some(path) => format!(
                "client-certificate: {0}\n    client-key: {0}",
                path.display()
            ),
            None => format!("token: {token}"),
        };
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    \
             server: https://127.0.0.1:1\nusers:\n- name: u\n  user:\n    {user}\ncontexts:\n\
             - name: c\n  context: {{cluster: c, user: u}}\n"
        )
    }

    #[tokio::test]
    async fn a_client_is_rebuilt_when_its_kubeconfig_or_certificate_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admin.conf");
        let pem = folder.path().join("kubelet.pem");
        let certificates = || {
            let pki = crate::testing::Pki::new();
            [&pki.files["apiserver.crt"][..], &pki.files["apiserver.key"]].concat()
        };
        let connection = Connection::to(vec![file.clone()], "127.0.0.1:1".into());
        let made_of = async || {
            connection.client().await.unwrap();
            let current = connection.current.lock().await;
            current.as_ref().unwrap().0.clone()
        };
        std::fs::write(&file, kubeconfig("one", None)).unwrap();
        let first = made_of().await;
        assert!(are_unchanged(&first).await);
        std::fs::write(&file, kubeconfig("two", None)).unwrap();
        assert!(!are_unchanged(&first).await);
        assert_ne!(made_of().await, first);
        std::fs::write(&pem, certificates()).unwrap();
        std::fs::write(&file, kubeconfig("", Some(&pem))).unwrap();
        let before = made_of().await;
        std::fs::write(&pem, certificates()).unwrap();
        assert_ne!(made_of().await, before);
    }

    #[tokio::test]
    async fn without_a_kubeconfig_the_error_names_the_files() {
        let connection =
            Connection::to(vec!["/nonexistent/admin.conf".into()], "127.0.0.1:1".into());
        let Err(error) = connection.client().await else {
            panic!("connected without a kubeconfig");
        };
        assert_eq!(error.kind(), Kind::Failed);
        assert!(
            error.one_line().contains("/nonexistent/admin.conf"),
            "{error}"
        );
    }
}
