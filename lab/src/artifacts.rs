//! The artifact server: serves files at `/<host>/<path>`, as the release sites do, with ranges, so
//! that an interrupted download can be resumed.

use std::io::SeekFrom;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;
use tokio_util::io::ReaderStream;

use crate::network::{ARTIFACTS, OUTSIDE};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Serves the folders; the first one that has a file wins.
pub async fn serve(folders: Vec<PathBuf>) -> Result<()> {
    let app = axum::Router::new()
        .fallback(handle)
        .with_state(Arc::new(folders));
    tokio::try_join!(listen(ARTIFACTS, app.clone()), listen(OUTSIDE, app))?;
    Ok(())
}

async fn listen(address: Ipv4Addr, app: axum::Router) -> Result<()> {
    let address = SocketAddr::from((address, 80));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    axum::serve(listener, app).await?;
    Ok(())
}

async fn handle(Shared(folders): Shared<Arc<Vec<PathBuf>>>, request: Request<Body>) -> Response {
    let range = request
        .headers()
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let Some(path) = relative(request.uri().path()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    for folder in folders.iter() {
        if let Ok(file) = File::open(folder.join(&path)).await
            && let Ok(about) = file.metadata().await
            && about.is_file()
        {
            return send(file, about.len(), range)
                .await
                .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response());
        }
    }
    StatusCode::NOT_FOUND.into_response()
}

/// The path below a folder; `None` if it would leave the folder.
fn relative(path: &str) -> Option<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    inside.then(|| path.to_path_buf())
}

/// First and last byte of a `bytes=` range; `Err` if it lies outside the file, `None` if there is
/// no range or its kind is not supported.
fn parse_range(range: Option<&str>, length: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some((first, last)) = range
        .and_then(|text| text.strip_prefix("bytes="))
        .and_then(|text| text.split_once('-'))
    else {
        return Ok(None);
    };
    let Ok(first) = first.parse::<u64>() else {
        return Ok(None);
    };
    let last = last
        .parse()
        .unwrap_or(u64::MAX)
        .min(length.saturating_sub(1));
    if first >= length || first > last {
        return Err(());
    }
    Ok(Some((first, last)))
}

async fn send(mut file: File, length: u64, range: Option<&str>) -> Result<Response> {
    let (status, first, last) = match parse_range(range, length) {
        Err(()) => {
            let header = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, header).into_response());
        }
        Ok(Some((first, last))) => (StatusCode::PARTIAL_CONTENT, first, last),
        Ok(None) => (StatusCode::OK, 0, length.saturating_sub(1)),
    };
    file.seek(SeekFrom::Start(first)).await?;
    let left = if length == 0 { 0 } else { last - first + 1 };
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, left);
    if status == StatusCode::PARTIAL_CONTENT {
        response = response.header(
            header::CONTENT_RANGE,
            format!("bytes {first}-{last}/{length}"),
        );
    }
    Ok(response.body(Body::from_stream(ReaderStream::with_capacity(
        file.take(left),
        CHUNK,
    )))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::body::to_bytes;

    #[test]
    fn a_path_cannot_leave_the_folder() {
        assert_eq!(relative("/dl.k8s.io/a"), Some(PathBuf::from("dl.k8s.io/a")));
        assert_eq!(relative("/dl.k8s.io/../../etc/passwd"), None);
        assert_eq!(relative("//etc/passwd"), Some(PathBuf::from("etc/passwd")));
    }

    #[tokio::test]
    async fn a_broken_download_resumes_where_it_broke() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        for (range, status, body) in [
            (None, 200, "0123456789"),
            (Some("bytes=4-"), 206, "456789"),
            (Some("bytes=4-5"), 206, "45"),
            (Some("bytes=10-"), 416, ""),
        ] {
            let response = send(File::open(&path).await.unwrap(), 10, range)
                .await
                .unwrap();
            assert_eq!(response.status().as_u16(), status, "{range:?}");
            let got = to_bytes(response.into_body(), 100).await.unwrap();
            assert_eq!(got, body.as_bytes(), "{range:?}");
        }
    }
}
