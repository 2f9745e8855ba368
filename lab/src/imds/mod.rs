//! The metadata service at 169.254.169.254: it identifies instances by source address.

pub mod answer;
pub mod tokens;
pub mod tree;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State as Shared};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::net::TcpListener;

use crate::ec2::credentials::Credentials;
use crate::ec2::faults::{Faults, Metadata};
use crate::layout::Layout;
use crate::network::METADATA;
use crate::state::StateReader;
use crate::state::{Machine, Phase, now};
use answer::{Answer, Request as Asked, answer, protocol};

/// The IP hop limit of every packet except those with a token.
const USUAL_HOP_LIMIT: u32 = 64;

/// What the handlers share.
pub struct Service {
    state: Arc<StateReader>,
    layout: Layout,
    tokens: Mutex<tokens::Tokens>,
    log: Mutex<File>,
    credentials: Credentials,
    faults: Arc<Mutex<Faults>>,
}

/// A client's address and its socket, on which the hop limit is set.
#[derive(Clone)]
struct Client {
    address: Option<SocketAddr>,
    socket: Option<Arc<StdStream>>,
}

impl Connected<IncomingStream<'_, TcpListener>> for Client {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let duplicate: Option<OwnedFd> = stream.io().as_fd().try_clone_to_owned().ok();
        Self {
            address: Some(*stream.remote_addr()),
            socket: duplicate.map(|fd| Arc::new(StdStream::from(fd))),
        }
    }
}

/// Serves until the lab ends.
pub async fn serve(
    state: Arc<StateReader>,
    layout: &Layout,
    credentials: Credentials,
    faults: Arc<Mutex<Faults>>,
) -> Result<()> {
    let path = layout.imds_log();
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open the request log {}", path.display()))?;
    let service = Arc::new(Service {
        state,
        layout: layout.clone(),
        tokens: Mutex::default(),
        log: Mutex::new(log),
        credentials,
        faults,
    });
    let address = SocketAddr::from((METADATA, 80));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let app = axum::Router::new().fallback(handle).with_state(service);
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<Client>(),
    )
    .await?;
    Ok(())
}

async fn handle(
    Shared(service): Shared<Arc<Service>>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request<Body>,
) -> Response {
    // The body is not read: no request to the service has one.
    let (request, _) = request.into_parts();
    let state = service.state.get();
    let machine = match client.address.map(|a| a.ip()) {
        Some(IpAddr::V4(address)) => state.at(address).filter(|m| m.phase != Phase::Terminated),
        _ => None,
    };
    let Some(machine) = machine else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let header = |name: &str| request.headers.get(name).and_then(|v| v.to_str().ok());
    let asked = Asked {
        method: request.method.as_str(),
        path: request.uri.path(),
        token: header("x-aws-ec2-metadata-token"),
        ttl: header("x-aws-ec2-metadata-token-ttl-seconds"),
        forwarded: request.headers.contains_key("x-forwarded-for"),
    };
    let of_agent = header("user-agent").is_some_and(|name| name.starts_with("k8s-bootstrap/"));
    if of_agent {
        let verdict = service.faults.lock();
        let verdict = verdict
            .unwrap_or_else(PoisonError::into_inner)
            .judge_metadata();
        match verdict {
            Metadata::Pass => {}
            Metadata::Deny => return StatusCode::UNAUTHORIZED.into_response(),
            Metadata::Close => {
                if let Some(socket) = &client.socket {
                    let _ = socket.shutdown(Shutdown::Both);
                }
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
        }
    }
    let user_data =
        std::fs::read_to_string(service.layout.machine(&machine.name).join("user-data")).ok();
    let given = {
        let mut tokens = service
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        answer(
            machine,
            user_data.as_deref(),
            &mut tokens,
            &asked,
            Instant::now(),
        )
    };
    let hop_limit = match given {
        Answer::Token { hop_limit, .. } => u32::from(hop_limit),
        _ => USUAL_HOP_LIMIT,
    };
    if let Some(socket) = &client.socket {
        let _ = socket.set_ttl(hop_limit);
    }
    let response = render(&service, machine, given).await;
    let client = request
        .headers
        .get("user-agent")
        .and_then(|name| name.to_str().ok());
    service.record(machine, &asked, client, response.status());
    response
}

async fn render(service: &Service, machine: &Machine, given: Answer) -> Response {
    match given {
        Answer::Body(body) => ([("content-type", "text/plain")], body).into_response(),
        Answer::Token { token, ttl, .. } => {
            let header = [("x-aws-ec2-metadata-token-ttl-seconds", ttl.to_string())];
            (header, token).into_response()
        }
        Answer::Refused(status) => StatusCode::from_u16(status)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            .into_response(),
        Answer::Credentials => match service.credentials.of(machine).await {
            Ok(keys) => ([("content-type", "text/plain")], keys).into_response(),
            Err(error) => {
                tracing::warn!(
                    instance = machine.id,
                    error = format!("{error:#}"),
                    "no credentials from STS"
                );
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
        },
    }
}

impl Service {
    fn record(
        &self,
        machine: &Machine,
        asked: &Asked<'_>,
        client: Option<&str>,
        status: StatusCode,
    ) {
        let line = serde_json::json!({
            "time": now(),
            "instance": machine.id,
            "name": machine.name,
            "method": asked.method,
            "path": asked.path,
            "protocol": protocol(asked).name(),
            "user_agent": client,
            "status": status.as_u16(),
        });
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(log, "{line}");
    }
}
