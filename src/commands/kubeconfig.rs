//! `kubeconfig`: access to the cluster for people outside of it.

use std::path::Path;

use super::{print, require_root, who_am_i};
use crate::{
    adapters::wiring::Wiring,
    error::{Error, Result},
    kubernetes::API_PORT,
    kubernetes::paths,
    steps::kubeadm::kubeconfig::for_people,
};

/// Prints the administrator's kubeconfig with an address that can be reached from outside the node:
/// `server` (`HOST` or `HOST:PORT`), else the load balancer in the settings, else this control
/// plane's private address.
pub async fn kubeconfig(server: Option<String>) -> Result<()> {
    let wiring = Wiring::new()?;
    require_root(&wiring, "to read the administrator's key").await?;
    let Some(admin) = wiring.host.read(Path::new(paths::ADMIN_CONF)).await? else {
        return Err(
            Error::refused(format!("this node has no {}", paths::ADMIN_CONF))
                .hint("run it on a control plane that is Ready"),
        );
    };
    let server = match server {
        Some(given) if given.contains(':') => given,
        Some(host) => format!("{host}:{API_PORT}"),
        None => {
            let (settings, me, _) = who_am_i(&wiring).await?;
            match settings.cluster.endpoint.as_str() {
                "local" => format!("{}:{API_PORT}", me.private_ip),
                named => named.to_owned(),
            }
        }
    };
    print(&for_people(&admin, &server)?)
}
