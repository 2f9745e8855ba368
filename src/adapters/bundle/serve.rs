//! The registry that a node's agent serves from its bundle, on loopback: the part of the OCI
//! distribution API that pulls use.
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>

use std::{
    io::SeekFrom,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path as UrlPath, Query, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    net::TcpListener,
    sync::OnceCell,
};
use tokio_util::io::ReaderStream;

use super::{
    contents::{Contents, Span},
    sha256_of,
};
use crate::{
    error::{Context, Error, Result},
    kubernetes::BUNDLE_SERVER,
};

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// Serves the bundle in this file until the process ends. The file may arrive later.
pub async fn serve(file: &Path) -> Result<()> {
    let address: SocketAddr = BUNDLE_SERVER
        .parse()
        .attempting(|| BUNDLE_SERVER.to_owned())?;
    let listener = TcpListener::bind(address)
        .await
        .attempting(|| format!("cannot listen on {address} to serve the bundle"))
        .map_err(|error| error.hint("another program uses the port: stop it"))?;
    axum::serve(listener, router(file))
        .await
        .attempting(|| "cannot serve the bundle".to_owned())
}

pub(super) fn router(file: &Path) -> Router {
    Router::new()
        .route("/v2/", get(|| async { Json(json!({})) }))
        .route("/v2/{*path}", get(answer))
        .with_state(Arc::new(Bundle {
            file: file.to_owned(),
            contents: OnceCell::new(),
        }))
}

struct Bundle {
    file: PathBuf,
    contents: OnceCell<Contents>,
}

impl Bundle {
    async fn contents(&self) -> Result<&Contents> {
        let read = || async {
            let file = self.file.clone();
            let read = tokio::task::spawn_blocking(move || Contents::read(&file)).await;
            read.attempting(|| format!("cannot read the bundle {}", self.file.display()))?
        };
        self.contents.get_or_try_init(read).await
    }
}

#[derive(Deserialize)]
struct Asked {
    /// The registry's host, as containerd tells its mirrors.
    #[serde(default)]
    ns: String,
}

async fn answer(
    State(bundle): State<Arc<Bundle>>,
    UrlPath(path): UrlPath<String>,
    Query(asked): Query<Asked>,
    method: Method,
) -> Response {
    let contents = match bundle.contents().await {
        Ok(contents) => contents,
        Err(error) => return refused(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", &error),
    };
    let found = if let Some((_, digest)) = path.rsplit_once("/blobs/") {
        blob(contents, digest).map(|span| {
            (
                "application/octet-stream".to_owned(),
                digest.to_owned(),
                span,
            )
        })
    } else if let Some((name, reference)) = path.rsplit_once("/manifests/") {
        manifest(contents, &asked.ns, name, reference)
    } else {
        None
    };
    let Some((media_type, digest, span)) = found else {
        let error = Error::failed(format!("the bundle does not have {path}"));
        return refused(StatusCode::NOT_FOUND, "NOT_FOUND", &error);
    };
    let body = if method == Method::HEAD {
        Ok(Body::empty())
    } else {
        bytes(&contents.file, span).await
    };
    match body {
        Ok(body) => Response::builder()
            .header(header::CONTENT_TYPE, media_type)
            .header(header::CONTENT_LENGTH, span.length)
            .header("Docker-Content-Digest", digest)
            .body(body)
            .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        Err(cause) => {
            let error = Error::failed("cannot read the bundle").because(&cause);
            refused(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", &error)
        }
    }
}

fn blob(contents: &Contents, digest: &str) -> Option<Span> {
    contents.blob(sha256_of(digest)?)
}

/// An image's manifest or index by tag or digest: media type, digest and place.
fn manifest(
    contents: &Contents,
    host: &str,
    name: &str,
    reference: &str,
) -> Option<(String, String, Span)> {
    if sha256_of(reference).is_some() {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
        }
        let span = blob(contents, reference)?;
        let typed: Typed = serde_json::from_slice(&contents.small(span).ok()?).ok()?;
        // OCI manifests may omit it; images of today that do are no indexes.
        let media_type = typed
            .media_type
            .unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
        return Some((media_type, reference.to_owned(), span));
    }
    let image = contents.image(&format!("{host}/{name}:{reference}"))?;
    let span = blob(contents, &image.digest)?;
    Some((image.media_type.clone(), image.digest.clone(), span))
}

async fn bytes(file: &Path, span: Span) -> std::io::Result<Body> {
    let mut file = File::open(file).await?;
    file.seek(SeekFrom::Start(span.at)).await?;
    Ok(Body::from_stream(ReaderStream::with_capacity(
        file.take(span.length),
        CHUNK,
    )))
}

fn refused(status: StatusCode, code: &str, error: &Error) -> Response {
    let errors = json!({ "errors": [{ "code": code, "message": error.one_line() }] });
    (status, Json(errors)).into_response()
}
