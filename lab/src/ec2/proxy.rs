//! The AWS API as machines see it: TLS and faults on command, in front of moto.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State as Shared;
use axum::http::response::Builder;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::faults::{Faults, Verdict, Wanted, error_body};
use super::groups;
use super::lag::Lag;
use super::listings::Keys;
use super::moto;
use super::replay::{Call, Journal, seed, send};
use super::states;
use super::unsigned::{self, Unsigned};
use crate::layout::Layout;
use crate::state::StateReader;

/// Largest body of a call: a snapshot of etcd, which grows with every machine that joins and
/// leaves.
const LARGEST_BODY: usize = 256 << 20;
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// moto, and what is needed to restore its state.
struct Backend {
    process: Child,
    journal: Journal,
    keys: Keys,
}

/// Whose permissions apply to a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// Those of the role that signed it.
    Machine,
    /// The lab's own: it owns the account.
    Lab,
}

/// The API: it forwards one call at a time, so that each call gets its own seed.
pub struct Api {
    layout: Layout,
    client: reqwest::Client,
    faults: Arc<Mutex<Faults>>,
    lag: Mutex<Lag>,
    backend: AsyncMutex<Backend>,
    restarts: Arc<AtomicUsize>,
    state: StateReader,
    unsigned: Unsigned,
}

impl Api {
    /// Starts moto behind a new API.
    pub async fn start(layout: &Layout) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            layout: layout.clone(),
            client: super::client::plain()?,
            faults: Arc::default(),
            lag: Mutex::default(),
            restarts: Arc::default(),
            state: StateReader::new(layout),
            unsigned: Unsigned::new(layout)?,
            backend: AsyncMutex::new(Backend {
                process: moto::start(layout).await?,
                journal: Journal::default(),
                keys: Keys::default(),
            }),
        }))
    }

    /// Forwards a call to moto and records it if it changed something.
    async fn forward(&self, call: Call, mut caller: Caller) -> Result<Response> {
        let lags = caller == Caller::Machine;
        if caller == Caller::Machine && call.key_id().is_none() {
            match self.unsigned.judge(&call).await {
                Ok(unsigned::Verdict::Allowed) => caller = Caller::Lab,
                Ok(unsigned::Verdict::Object(content)) => {
                    return whole(Response::builder(), content.into());
                }
                Err(why) => return Ok(denied(&why)),
            }
        }
        if lags && let Some(page) = self.lag().held_back(&call) {
            return whole(Response::builder(), page.into());
        }
        let mut backend = self.backend.lock().await;
        if caller == Caller::Machine
            && let Some(harmless) = backend.keys.stand_in(&call)?
        {
            let answer = send(&self.client, &moto::base(), &harmless).await?;
            if !answer.status().is_success() {
                let (about, body) = parts(answer).await?;
                return whole(about, body);
            }
            caller = Caller::Lab;
        }
        let changes = call.changes_state();
        if changes {
            seed(&self.client, &moto::base(), backend.journal.next_seed()).await?;
        }
        if caller == Caller::Lab {
            moto::enforce(&self.client, false).await?;
        }
        let answer = send(&self.client, &moto::base(), &call).await;
        if caller == Caller::Lab {
            moto::enforce(&self.client, true).await?;
        }
        let answer = answer?;
        let status = answer.status();
        let (about, mut body) = parts(answer).await?;
        match call.action().as_str() {
            "AssumeRole" => backend.keys.keep(&String::from_utf8_lossy(&body)),
            "DescribeInstances" => {
                body =
                    states::going_down(&String::from_utf8_lossy(&body), &self.state.get()).into();
            }
            "DescribeAutoScalingInstances" => {
                body = groups::waiting(&String::from_utf8_lossy(&body), &self.state.get()).into();
            }
            // moto checks the permission first, and only then fails on the unknown action.
            "CompleteLifecycleAction" if status.is_server_error() => {
                return groups::complete(&self.layout, &call);
            }
            _ => {}
        }
        if lags && status.is_success() {
            let lag = self.faults().lag();
            let fresh = String::from_utf8_lossy(&body).into_owned();
            if let Some(late) = self.lag().answer(&call, &fresh, lag, Instant::now())? {
                body = late.into();
            }
        }
        if changes && status.is_success() {
            backend.journal.keep(call);
        }
        whole(about, body)
    }

    /// Kills moto, starts it again and restores its state.
    async fn restart(&self) -> Result<()> {
        let mut backend = self.backend.lock().await;
        backend.process.kill().await?;
        backend.process = moto::start(&self.layout).await?;
        backend.keys = Keys::default();
        moto::enforce(&self.client, false).await?;
        backend.journal.replay(&self.client, &moto::base()).await?;
        moto::enforce(&self.client, true).await?;
        self.restarts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The live count of moto's restarts.
    pub fn restarts(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.restarts)
    }

    /// The live faults, those of the metadata service among them.
    pub fn shared_faults(&self) -> Arc<Mutex<Faults>> {
        Arc::clone(&self.faults)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer's status and headers, and its body.
async fn parts(answer: reqwest::Response) -> Result<(Builder, Bytes)> {
    let mut about = Response::builder().status(answer.status().as_u16());
    for (name, value) in answer.headers() {
        if name != header::TRANSFER_ENCODING
            && name != header::CONNECTION
            && name != header::CONTENT_LENGTH
        {
            about = about.header(name, value);
        }
    }
    Ok((about, answer.bytes().await?))
}

fn whole(about: Builder, body: Bytes) -> Result<Response> {
    about
        .body(Body::from(body))
        .context("moto's answer cannot be forwarded")
}

async fn read_call(request: Request<Body>) -> Result<Call> {
    let (parts, body) = request.into_parts();
    let path = parts
        .uri
        .path_and_query()
        .map_or("/", |p| p.as_str())
        .to_owned();
    Ok(Call {
        method: parts.method,
        path,
        headers: parts.headers,
        body: to_bytes(body, LARGEST_BODY).await?,
    })
}

/// A call of a machine, subject to faults.
async fn machines_call(Shared(api): Shared<Arc<Api>>, request: Request<Body>) -> Response {
    let call = match read_call(request).await {
        Ok(call) => call,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error),
    };
    let verdict = api.faults().judge(&call.action());
    if verdict == Verdict::Pass {
        return answered(api.forward(call, Caller::Machine).await);
    }
    let (status, kind, body) = error_body(call.service(), verdict, &call.action());
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

fn answered(answer: Result<Response>) -> Response {
    answer.unwrap_or_else(|error| failed(StatusCode::BAD_GATEWAY, &error))
}

/// A refusal as STS and S3 write it.
fn denied(why: &anyhow::Error) -> Response {
    let body = format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>\
         <Message>{why:#}</Message></Error><RequestId>lab</RequestId></ErrorResponse>"
    );
    let kind = [(header::CONTENT_TYPE, "text/xml")];
    (StatusCode::FORBIDDEN, kind, body).into_response()
}

fn failed(status: StatusCode, error: &anyhow::Error) -> Response {
    (status, format!("{error:#}\n")).into_response()
}

/// The API for machines: TLS on the VPC's API address.
pub async fn serve_machines(api: Arc<Api>, tls: Arc<rustls::ServerConfig>) -> Result<()> {
    let address = (crate::network::API, 443);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {}:443", crate::network::API))?;
    let (sender, receiver) = mpsc::channel(64);
    let local = listener.local_addr()?;
    let gate = Arc::clone(&api);
    tokio::spawn(accept(listener, TlsAcceptor::from(tls), gate, sender));
    let app = Router::new().fallback(machines_call).with_state(api);
    axum::serve(Handshaken { receiver, local }, app).await?;
    Ok(())
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    api: Arc<Api>,
    ready: mpsc::Sender<Accepted>,
) {
    while let Ok((stream, from)) = listener.accept().await {
        // Closed at once, as a client sees it while an endpoint is down.
        if api.faults().refuses(Instant::now()) {
            continue;
        }
        let (tls, ready) = (tls.clone(), ready.clone());
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                let _ = ready.send((stream, from)).await;
            }
        });
    }
}

type Accepted = (TlsStream<TcpStream>, std::net::SocketAddr);

/// Connections after their TLS handshake, so that a slow handshake does not block others.
struct Handshaken {
    receiver: mpsc::Receiver<Accepted>,
    local: std::net::SocketAddr,
}

impl axum::serve::Listener for Handshaken {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.receiver.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.local)
    }
}

/// The API for the lab's own commands on a unix socket: no faults, and control.
pub fn control(api: Arc<Api>) -> Router {
    Router::new()
        .route("/lab/health", get(async || "ok"))
        .route("/lab/faults", post(set_faults))
        .route("/lab/moto-restart", post(restart))
        .fallback(
            async |Shared(api): Shared<Arc<Api>>, request: Request<Body>| match read_call(request)
                .await
            {
                Ok(call) => answered(api.forward(call, Caller::Lab).await),
                Err(error) => failed(StatusCode::BAD_REQUEST, &error),
            },
        )
        .with_state(api)
}

async fn set_faults(Shared(api): Shared<Arc<Api>>, Json(wanted): Json<Wanted>) -> StatusCode {
    api.faults().set(wanted, Instant::now());
    api.lag().forget_versions();
    StatusCode::NO_CONTENT
}

async fn restart(Shared(api): Shared<Arc<Api>>) -> Response {
    match api.restart().await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_snapshot_of_a_cluster_that_has_lived_for_a_while_is_taken() {
        let snapshot = Body::from(vec![0; 100 << 20]);
        let call = read_call(Request::put("/bucket/key").body(snapshot).unwrap()).await;
        assert_eq!(call.unwrap().body.len(), 100 << 20);
    }
}
