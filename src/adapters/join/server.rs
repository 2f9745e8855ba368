//! The control plane's side.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::{Instrument, warn};

use super::Certificate;
use crate::{
    error::{Context, Result},
    join::{JoinService, Refusal},
    wait::schedules::ACCEPT,
};

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// For each of the TLS handshake, the header and the body.
    pub each: Duration,
    /// For the whole connection.
    pub all: Duration,
}

impl Default for Times {
    /// EC2 and STS may be slow, and kubeadm uploads certificates.
    fn default() -> Self {
        Self {
            each: Duration::from_secs(5),
            all: Duration::from_secs(55),
        }
    }
}

/// An application has about two thousand bytes.
const LARGEST_BODY: usize = 16 << 10;

/// The most bytes of a header that are read.
const LARGEST_HEADER: usize = 8 << 10;

/// The most headers of a request.
const HEADERS: usize = 24;

/// Starts listening on the node's private address.
pub async fn listen(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port))
        .await
        .attempting(|| format!("cannot listen on {address}:{port} for joining nodes"))
        .map_err(|error| {
            error.hint("another program uses the port: stop it, or set another join.port")
        })
}

/// Serves until the process ends.
pub async fn serve(
    listener: TcpListener,
    certificate: Certificate,
    service: JoinService,
    times: Times,
) {
    let shared = Arc::new((certificate, service));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually out of file descriptors: existing connections must continue.
                warn!("cannot accept a joiner's connection: {error}");
                tokio::time::sleep(ACCEPT).await;
                continue;
            }
        };
        let source = from.ip();
        if let Err(refusal) = shared.1.begin(source) {
            // Closed without an answer: an answer would cost a handshake.
            log(source, &refusal);
            continue;
        }
        let open = Open(shared.clone(), source);
        let connection = async move {
            let served = connection(stream, from, &open.0.0, &open.0.1, times);
            let served = timeout(times.all, served).await;
            if served.is_err() {
                log(source, &Refusal::slow("the connection lasted too long"));
            }
        };
        tokio::spawn(connection.in_current_span());
    }
}

/// An open connection, counted until it is dropped.
struct Open(Arc<(Certificate, JoinService)>, IpAddr);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.1.end(self.1);
    }
}

/// Logs a refusal; every refusal goes through here.
fn log(source: IpAddr, refusal: &Refusal) {
    warn!("join refused to {source}: {refusal}");
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    certificate: &Certificate,
    service: &JoinService,
    times: Times,
) {
    let source = from.ip();
    let config = match certificate.config().await {
        Ok(config) => config,
        Err(error) => {
            let reason = "there is no certificate to present";
            return log(source, &Refusal::unavailable(reason, &error));
        }
    };
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = match timeout(times.each, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return log(source, &Refusal::malformed(format!("TLS failed: {error}")));
        }
        Err(_) => return log(source, &Refusal::slow("the TLS handshake took too long")),
    };
    let answer = service_fn(async |request| {
        let answered = answer(service, source, request, times).await;
        let answered = answered.inspect_err(|refusal| log(source, refusal));
        Ok::<_, std::convert::Infallible>(respond(answered))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.each)
        .max_headers(HEADERS)
        .max_header_size(LARGEST_HEADER)
        // One request per connection, so that the limits count requests.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        log(
            source,
            &Refusal::malformed(format!("invalid request: {error}")),
        );
    }
}

async fn answer(
    service: &JoinService,
    source: IpAddr,
    request: Request<Incoming>,
    times: Times,
) -> Result<String, Refusal> {
    if request.uri().query().is_some() {
        return Err(Refusal::malformed("the request must not have a query"));
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/nonce") => service.nonce(source),
        (&Method::POST, "/join") => {
            let admission = service.join(source, &body(request, times).await?).await?;
            serde_json::to_string(&admission)
                .map_err(|_| Refusal::malformed("the answer cannot be serialized"))
        }
        (_, "/nonce" | "/join") => Err(Refusal::malformed("the method is not allowed")),
        _ => Err(Refusal::unknown("there is no such path")),
    }
}

async fn body(request: Request<Incoming>, times: Times) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), LARGEST_BODY).collect();
    let collected = timeout(times.each, body)
        .await
        .map_err(|_| Refusal::slow("the body took too long"))?;
    let body = collected.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return Refusal::large("the body is too large");
        }
        Refusal::malformed("the body was interrupted")
    })?;
    Ok(body.to_bytes())
}

fn respond(answered: Result<String, Refusal>) -> Response<Full<Bytes>> {
    let (status, text) = match answered {
        Ok(text) => (200, text),
        Err(refusal) => (refusal.status, refusal.reason),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
