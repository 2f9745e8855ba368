//! /livez, /readyz, /status and /metrics.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    error::{Context, Result},
    report::{Status, metrics},
};

type Shared = State<watch::Receiver<Status>>;

/// Starts to listen; the address is refused here and not later.
pub async fn listen(address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .attempting(|| format!("cannot listen on {address} for /readyz and /metrics"))
        .map_err(|error| error.hint("another program has the port, or choose one by report.listen"))
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, status: watch::Receiver<Status>) -> Result<()> {
    axum::serve(listener, router(status))
        .await
        .attempting(|| "cannot serve /readyz and /metrics".to_owned())
}

fn router(status: watch::Receiver<Status>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route(
            "/status",
            get(|State(status): Shared| async move { Json(status.borrow().clone()) }),
        )
        .route("/metrics", get(scrape))
        .with_state(status)
}

/// 200 on a Ready node, else 503; the body says why either way.
async fn readyz(State(status): Shared) -> (StatusCode, String) {
    let status = status.borrow();
    let code = if status.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, format!("{}\n", status.line()))
}

async fn scrape(State(status): Shared) -> Response {
    let text = metrics::text(&status.borrow());
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
    use crate::report::{Reporter, Stage};

    #[tokio::test]
    async fn readyz_follows_the_stage() {
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        let reporter = Reporter::new(now);
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, reporter.subscribe()));
        let client = crate::adapters::http::Clients::new()
            .unwrap()
            .metadata()
            .unwrap();
        let get = |path: &str| client.get(format!("{base}{path}")).send();
        assert_eq!(get("/readyz").await.unwrap().status(), 503);
        reporter.stage(Stage::Ready, "node is Ready", now);
        let answer = get("/readyz").await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "Ready: node is Ready\n");
        let status: Status = get("/status").await.unwrap().json().await.unwrap();
        assert_eq!(status.stage, Stage::Ready);
        assert!(
            get("/metrics")
                .await
                .unwrap()
                .text()
                .await
                .unwrap()
                .ends_with("# EOF\n")
        );
    }
}
