//! Visitors of the cluster's page: a steady load by name, as from browsers.
//!
//! Each visit looks the name up, tries the addresses in the order of the answer, and goes on to the
//! next if a connection is refused or times out. A request that was sent is not sent again: its
//! result counts.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use hickory_server::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RData, RecordType};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::network::RESOLVER;

/// How long an address may take to answer a connection before the next one is tried.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a page may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The outcome of all visits.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Visits that got the page.
    pub served: u64,
    /// Successful visits that needed more than one address.
    pub second_try: u64,
    /// All other visits, in the order in which they ended.
    pub failed: Vec<Failure>,
}

/// A visit that failed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When it began, in milliseconds since the epoch.
    pub began_ms: u64,
    /// When it failed, in milliseconds since the epoch.
    pub ended_ms: u64,
    /// The error with its causes, on one line.
    pub why: String,
}

/// Makes `rate` visits a second to a name for this many seconds.
pub async fn run(name: &str, rate: u32, seconds: u64) -> Result<Report> {
    if rate == 0 {
        bail!("the rate must be at least one visit a second");
    }
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    // A pause of this process must not become a burst of visits.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let visits = u64::from(rate) * seconds;
    let sending = async {
        for _ in 0..visits {
            ticks.tick().await;
            let (name, sender) = (name.to_owned(), sender.clone());
            tokio::spawn(async move {
                let began_ms = now_ms();
                let outcome = visit(&name).await.map_err(|error| Failure {
                    began_ms,
                    ended_ms: now_ms(),
                    why: format!("{error:#}"),
                });
                let _ = sender.send(outcome);
            });
        }
    };
    sending.await;
    drop(sender);
    let mut report = Report::default();
    while let Some(outcome) = receiver.recv().await {
        match outcome {
            Ok(tries) => {
                report.served += 1;
                report.second_try += u64::from(tries > 1);
            }
            Err(failure) => report.failed.push(failure),
        }
    }
    Ok(report)
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// One visit; returns how many addresses were tried.
async fn visit(name: &str) -> Result<usize> {
    let addresses = timeout(ANSWER, look_up(name))
        .await
        .context("the resolver does not answer")??;
    for (tried, address) in addresses.iter().enumerate() {
        let to = SocketAddr::from((*address, 80));
        if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(to)).await {
            timeout(ANSWER, fetch(stream, name))
                .await
                .with_context(|| format!("{address} did not answer"))?
                .with_context(|| format!("{address}"))?;
            return Ok(tried + 1);
        }
    }
    bail!("none of {addresses:?} accepts a connection")
}

async fn fetch(mut stream: TcpStream, name: &str) -> Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("it answered {status:?}");
    }
    // An incomplete page is a failure.
    if !answer.contains("</html>") {
        bail!("the page was cut off after {} bytes", answer.len());
    }
    Ok(())
}

async fn look_up(name: &str) -> Result<Vec<Ipv4Addr>> {
    let mut query = Message::new(1, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect((RESOLVER, 53)).await?;
    socket.send(&query.to_vec()?).await?;
    let mut buffer = [0_u8; 4096];
    let length = socket.recv(&mut buffer).await?;
    let answer = Message::from_vec(&buffer[..length])?;
    if answer.metadata.response_code != ResponseCode::NoError {
        bail!("{name}: {}", answer.metadata.response_code);
    }
    let addresses = answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        });
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::net::TcpListener;

    /// The outcome of a visit to a server with this answer.
    async fn fetched(answer: &'static str) -> Result<()> {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        fetch(TcpStream::connect(address).await.unwrap(), "x").await
    }

    #[tokio::test]
    async fn only_a_whole_page_counts_as_served() {
        fetched("HTTP/1.1 200 OK\r\n\r\n<html></html>")
            .await
            .unwrap();
        for (answer, why) in [
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "502"),
            ("HTTP/1.1 200 OK\r\n\r\n<html>", "cut off"),
            ("", "answered \"\""),
        ] {
            let error = fetched(answer).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
