//! The routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::counter::{Counter, Visit};
use crate::ledger::Link;
use crate::metrics::Metrics;
use crate::pages::Pages;

/// The page loads nothing from other sites and runs no script.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the routes share.
pub struct Site {
    /// Assigns the numbers.
    pub counter: Counter,
    /// The rendered pages.
    pub pages: Pages,
    /// Metrics of the process itself.
    pub metrics: Arc<Metrics>,
    /// Set at SIGTERM: answers ask for no further request on their connection.
    pub leaving: AtomicBool,
}

type Sharing = Shared<Arc<Site>>;

/// Answers the pages, the probes and `/metrics`.
pub fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/architecture", get(architecture))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/readyz/serving", get(serving))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page; the count is at /\n") })
        .with_state(site)
}

impl Site {
    fn html(&self, body: impl Into<Body>) -> Response {
        let mut response = Response::new(body.into());
        let headers = response.headers_mut();
        let mut set = |name, value| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(header::CONTENT_TYPE, "text/html; charset=utf-8");
        set(header::CACHE_CONTROL, "no-store");
        set(header::CONTENT_SECURITY_POLICY, POLICY);
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        if self.leaving.load(Ordering::Relaxed) {
            set(header::CONNECTION, "close");
        }
        response
    }
}

async fn index(Shared(site): Sharing) -> Response {
    let visit = site.counter.visit().await;
    site.metrics.answered(matches!(visit, Visit::Counted(_)));
    site.html(match visit {
        Visit::Counted(number) => site.pages.counted(number),
        Visit::Kept(kept) => site.pages.kept(kept),
    })
}

async fn architecture(Shared(site): Sharing) -> Response {
    site.html(site.pages.architecture.clone())
}

/// Whether this process is fully working: it counts, and is not leaving.
async fn ready(Shared(site): Sharing) -> (StatusCode, String) {
    let link = site.counter.state().borrow().link.clone();
    match link {
        _ if site.leaving.load(Ordering::Relaxed) => unready("shutting down".to_owned()),
        Link::Up => (StatusCode::OK, "ok\n".to_owned()),
        Link::Connecting => unready("Redis: connecting".to_owned()),
        Link::Down(why) => unready(format!("Redis: {why}")),
    }
}

/// Whether this process can answer the page, which it can do without Redis too. If pods used
/// /readyz for readiness, an outage of Redis would take every page away.
async fn serving(Shared(site): Sharing) -> (StatusCode, String) {
    match site.counter.state().borrow().link {
        _ if site.leaving.load(Ordering::Relaxed) => unready("shutting down".to_owned()),
        Link::Connecting => unready("Redis: connecting".to_owned()),
        Link::Up | Link::Down(_) => (StatusCode::OK, "ok\n".to_owned()),
    }
}

fn unready(why: String) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, why + "\n")
}

async fn metrics(Shared(site): Sharing) -> Response {
    let state = site.counter.state().borrow().clone();
    match site.metrics.text(&state) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(cause) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot write the metrics: {cause}\n"),
        )
            .into_response(),
    }
}
