//! One process, from its first connection to its last answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::counter::Counter;
use crate::ledger::Redis;
use crate::metrics::Metrics;
use crate::pages::Pages;
use crate::settings::Settings;
use crate::web::{self, Site};

/// How long requests in flight may take after new connections are no longer accepted.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// How long Redis may take for the visits still in memory at the end.
const LAST_COUNT: Duration = Duration::from_secs(3);

/// Serves until SIGTERM or SIGINT, then shuts down without losing a request.
///
/// # Errors One line that says what failed.
pub async fn serve(settings: Settings) -> Result<(), String> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| format!("cannot handle SIGTERM: {e}"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|e| format!("cannot handle SIGINT: {e}"))?;
    let metrics = Arc::new(Metrics::default());
    let (counter, counting) = Counter::start(
        Redis::new(settings.redis),
        settings.redis_timeout,
        Arc::clone(&metrics),
    );
    let state = counter.state();
    let pages = Pages::new(&settings.pod, &settings.node)
        .map_err(|e| format!("cannot render the pages: {e}"))?;
    let site = Arc::new(Site {
        counter,
        pages,
        metrics,
        leaving: AtomicBool::new(false),
    });
    let listener = TcpListener::bind(settings.listen).await.map_err(|cause| {
        format!(
            "cannot listen on {}: {cause}; stop the program that uses the port, or set LISTEN to another one",
            settings.listen
        )
    })?;
    let address = listener
        .local_addr()
        .map_err(|e| format!("cannot read the port: {e}"))?;
    // A page is written in one piece; Nagle's algorithm would only delay it.
    let listener = listener.tap_io(|stream| {
        let _slower = stream.set_nodelay(true);
    });
    tracing::info!(%address, pod = settings.pod, node = settings.node, "listening");

    let (close, mut closed) = watch::channel(false);
    let server =
        axum::serve(listener, web::router(Arc::clone(&site))).with_graceful_shutdown(async move {
            let _dropped = closed.wait_for(|closed| *closed).await;
        });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut server => return Err(format!("the server ended: {ended:?}")),
    }

    // Proxies continue to send until they learn that this process is leaving, so at first it only
    // announces that, on /readyz and by closing each connection after its answer.
    site.leaving.store(true, Ordering::Relaxed);
    tracing::info!(
        seconds = settings.drain.as_secs(),
        "shutting down; still answering"
    );
    sleep(settings.drain).await;
    close.send_replace(true);
    let ended = timeout(LAST_ANSWERS, &mut server).await;
    if ended.is_err() {
        server.abort();
        tracing::warn!("connections were still open after {LAST_ANSWERS:?}");
    }

    // The counter ends when no more visits can arrive and all are counted.
    drop(site);
    let last = timeout(LAST_COUNT, counting).await;
    let kept = state.borrow().kept;
    if last.is_err() && kept > 0 {
        return Err(format!(
            "{kept} visits are lost: Redis did not answer within {LAST_COUNT:?} at shutdown"
        ));
    }
    tracing::info!("all requests are answered and all visits counted");
    Ok(())
}
