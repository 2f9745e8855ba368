//! /livez, /readyz, /status and /metrics: served by the agent, and requested by `status`.

use std::{net::SocketAddr, path::Path};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use super::http::Clients;
use crate::{
    error::{Context, Error, Result},
    ports::Host,
    report::{Status, Work, metrics},
};

/// What is served.
#[derive(Clone)]
pub struct Served {
    /// The status and its changes.
    pub status: watch::Receiver<Status>,
    /// What the agent has done.
    pub work: Work,
}

type Shared = State<Served>;

/// Where `run` stores the address that it serves on, for `status`.
const ADDRESS_FILE: &str = "/run/k8s-bootstrap/http";

/// Listens, and answers once it has the status.
pub struct Server(TcpListener);

impl Server {
    /// Starts listening; a bad address is refused here and not later.
    pub async fn listen(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .attempting(|| format!("cannot listen on {address} for /readyz and /metrics"));
        let listener = listener.map_err(|error| {
            error.hint("another program may use the port: stop it, or set another report.listen")
        })?;
        Ok(Self(listener))
    }

    /// Answers until the process ends.
    pub async fn serve(self, served: Served) -> Result<()> {
        axum::serve(self.0, router(served))
            .await
            .attempting(|| "cannot serve /readyz and /metrics".to_owned())
    }
}

/// Stores the address for [`ask`].
pub async fn remember(host: &dyn Host, address: SocketAddr) -> Result<()> {
    let text = address.to_string();
    host.write(Path::new(ADDRESS_FILE), text.as_bytes(), 0o644)
        .await
}

/// The address that an agent last served on, on this machine.
pub async fn remembered(host: &dyn Host) -> Result<Option<SocketAddr>> {
    let text = host.read(Path::new(ADDRESS_FILE)).await?;
    Ok(text.and_then(|text| String::from_utf8_lossy(&text).trim().parse().ok()))
}

/// The status of the agent that runs on this machine.
pub async fn ask(host: &dyn Host, clients: &Clients) -> Result<Status> {
    let not_running =
        "is it running? `systemctl status k8s-bootstrap`, `journalctl -u k8s-bootstrap`";
    let address = remembered(host).await?.ok_or_else(|| {
        Error::failed(format!(
            "the agent has recorded no address in {ADDRESS_FILE}"
        ))
        .hint(not_running)
    })?;
    let url = format!("http://{address}/status");
    let attempt = || format!("cannot query the agent at {url}");
    let answer = clients
        .metadata()?
        .get(&url)
        .send()
        .await
        .attempting(attempt);
    let answer = answer.map_err(|error| error.hint(not_running))?;
    answer.json().await.attempting(attempt)
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route(
            "/status",
            get(|State(served): Shared| async move { Json(served.status.borrow().clone()) }),
        )
        .route("/metrics", get(scrape))
        .with_state(served)
}

/// 200 on a Ready node, else 503; the body says why either way.
async fn readyz(State(served): Shared) -> (StatusCode, String) {
    let status = served.status.borrow();
    let code = if status.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, format!("{}\n", status.line()))
}

async fn scrape(State(served): Shared) -> Response {
    let text = metrics::text(&served.status.borrow(), &served.work.counts());
    match text {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.one_line()).into_response(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        report::{Reporter, Stage},
        testing::FakeWorld,
    };

    #[tokio::test]
    async fn readyz_follows_the_stage() {
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        let reporter = Reporter::new(now);
        let server = Server::listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = server.0.local_addr().unwrap();
        let base = format!("http://{address}");
        let work = Work::default();
        let served = Served {
            status: reporter.subscribe(),
            work: work.clone(),
        };
        tokio::spawn(server.serve(served));
        let clients = Clients::new().unwrap();
        let client = clients.metadata().unwrap();
        let get = |path: &str| client.get(format!("{base}{path}")).send();
        assert_eq!(get("/readyz").await.unwrap().status(), 503);
        reporter.stage(Stage::Ready, "node is Ready", now);
        let answer = get("/readyz").await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "Ready: node is Ready\n");
        let fake = FakeWorld::new();
        let host = fake.host.as_ref();
        assert!(ask(host, &clients).await.is_err());
        remember(host, address).await.unwrap();
        let status = ask(host, &clients).await.unwrap();
        assert_eq!(status.stage, Stage::Ready);
        work.program("kubeadm");
        let metrics = get("/metrics").await.unwrap().text().await.unwrap();
        assert!(metrics.contains("programs_total{program=\"kubeadm\"} 1\n"));
        assert!(metrics.ends_with("# EOF\n"));
    }
}
