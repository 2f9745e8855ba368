//! The VPC's resolver: private names of machines, AWS's names, the hosted zone, and an immediate
//! NXDOMAIN for everything else.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use hickory_server::proto::op::{Message, MessageType, ResponseCode};
use hickory_server::proto::rr::rdata::{A, PTR};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Duration, timeout};

use crate::layout::Layout;
use crate::network::{API, RESOLVER};
use crate::state::State;
use crate::state::StateReader;
use crate::tls::{aws_names, bucket_of};
use crate::zone::{Records, View};

/// How long answers may be cached: short, because machines come and go.
const TTL_SECONDS: u32 = 5;

/// What a name resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The address of this name.
    Address(Ipv4Addr),
    /// A record set of the hosted zone: addresses and TTL.
    Record(Vec<Ipv4Addr>, u32),
    /// The name at this reverse address.
    Pointer(String),
}

/// Looks a name up, written without the final dot, in any case.
pub fn look_up(state: &State, zone: &Records, name: &str) -> Option<Known> {
    let name = name.to_ascii_lowercase();
    if aws_names().contains(&name) || bucket_of(&name).is_some() {
        return Some(Known::Address(API));
    }
    if let Some((addresses, ttl)) = zone.get(&name) {
        return Some(Known::Record(addresses.clone(), *ttl));
    }
    if let Some(reverse) = name.strip_suffix(".in-addr.arpa") {
        let mut octets: Vec<u8> = reverse
            .split('.')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        octets.reverse();
        let octets: [u8; 4] = octets.try_into().ok()?;
        let machine = state.at(Ipv4Addr::from(octets))?;
        return Some(Known::Pointer(machine.private_dns()));
    }
    let machine = state
        .present()
        .find(|m| name == m.private_dns() || name == m.hostname())?;
    Some(Known::Address(machine.address))
}

/// The name that a DNS message asks for, in lower case and without its final dot.
fn asked(query: &[u8]) -> Option<String> {
    let request = Message::from_vec(query).ok()?;
    Some(bare(&request.queries.first()?.name))
}

fn bare(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// Answers one DNS message; `None` if it is not a query.
pub fn answer(state: &State, zone: &Records, query: &[u8]) -> Option<Vec<u8>> {
    let request = Message::from_vec(query).ok()?;
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    let Some(question) = request.queries.first() else {
        response.metadata.response_code = ResponseCode::FormErr;
        return response.to_vec().ok();
    };
    response.add_query(question.clone());
    match look_up(state, zone, &bare(&question.name)) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(known) => {
            let ttl = match &known {
                Known::Record(_, ttl) => *ttl,
                _ => TTL_SECONDS,
            };
            for data in record_data(&known, question.query_type) {
                response.add_answer(Record::from_rdata(question.name.clone(), ttl, data));
            }
        }
    }
    response.to_vec().ok()
}

/// A name that exists without a record of the requested type gets an empty answer, not NXDOMAIN:
/// otherwise a query for AAAA would deny the A record too.
fn record_data(known: &Known, wanted: RecordType) -> Vec<RData> {
    match (known, wanted) {
        (Known::Address(address), RecordType::A) => vec![RData::A(A(*address))],
        (Known::Record(addresses, _), RecordType::A) => {
            addresses.iter().map(|a| RData::A(A(*a))).collect()
        }
        (Known::Pointer(name), RecordType::PTR) => Name::from_ascii(format!("{name}."))
            .map(|name| RData::PTR(PTR(name)))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

/// The answer to one DNS message at this moment.
async fn reply(state: &StateReader, zone: &View, query: &[u8]) -> Option<Vec<u8>> {
    let state = state.get();
    let records = match asked(query) {
        Some(name) if crate::zone::holds(&name) => zone.records(&state.zone).await,
        _ => Records::new(),
    };
    answer(&state, &records, query)
}

/// Serves UDP and TCP on the VPC's resolver address.
pub async fn serve(state: Arc<StateReader>, layout: &Layout) -> Result<()> {
    let address = SocketAddr::from((RESOLVER, 53));
    let udp = UdpSocket::bind(address)
        .await
        .with_context(|| format!("cannot listen on udp {address}"))?;
    let tcp = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on tcp {address}"))?;
    let zone = Arc::new(View::new(layout)?);
    let by_tcp = (Arc::clone(&state), Arc::clone(&zone));
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            let (state, zone) = by_tcp.clone();
            tokio::spawn(async move {
                let _ = timeout(Duration::from_secs(10), serve_stream(stream, &state, &zone)).await;
            });
        }
    });
    let udp = Arc::new(udp);
    let mut buffer = vec![0_u8; 4096];
    loop {
        let (length, from) = udp.recv_from(&mut buffer).await?;
        let (udp, state, zone) = (Arc::clone(&udp), Arc::clone(&state), Arc::clone(&zone));
        let query = buffer[..length].to_vec();
        tokio::spawn(async move {
            if let Some(reply) = reply(&state, &zone, &query).await {
                let _ = udp.send_to(&reply, from).await;
            }
        });
    }
}

async fn serve_stream(mut stream: TcpStream, state: &StateReader, zone: &View) -> Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0_u8; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let Some(reply) = reply(state, zone, &query).await else {
            return Ok(());
        };
        stream.write_u16(u16::try_from(reply.len())?).await?;
        stream.write_all(&reply).await?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::state::Phase;
    use crate::state::tests::machine;
    use hickory_server::proto::op::{OpCode, Query};

    fn lab() -> State {
        let mut gone = machine("w2", 11);
        gone.phase = Phase::Terminated;
        State {
            machines: vec![machine("w1", 10), gone],
            ..State::default()
        }
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let query = message.to_vec().unwrap();
        Message::from_vec(&answer(&lab(), &zone(), &query).unwrap()).unwrap()
    }

    fn zone() -> Records {
        let addresses = vec![[10, 42, 0, 11].into(), [10, 42, 0, 12].into()];
        Records::from([("visits.demo.internal".to_owned(), (addresses, 5))])
    }

    #[test]
    fn a_record_set_is_answered_whole_in_its_order_with_its_own_ttl() {
        let reply = ask("Visits.demo.internal.", RecordType::A);
        let found: Vec<_> = reply
            .answers
            .iter()
            .map(|answer| (answer.data.to_string(), answer.ttl))
            .collect();
        let expected = ["10.42.0.11", "10.42.0.12"].map(|address| (address.to_owned(), 5));
        assert_eq!(found, expected);
        let none = ask("www.demo.internal.", RecordType::A);
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn names_resolve_by_the_table() {
        let w1 = Some(Known::Address(Ipv4Addr::new(10, 42, 0, 10)));
        for (name, expected) in [
            ("ip-10-42-0-10.eu-central-1.compute.internal", w1.clone()),
            ("IP-10-42-0-10.EU-central-1.compute.internal", w1.clone()),
            ("ip-10-42-0-10", w1),
            ("ip-10-42-0-11", None),
            ("ec2.eu-central-1.amazonaws.com", Some(Known::Address(API))),
            ("sts.amazonaws.com", Some(Known::Address(API))),
            (
                "a-bucket.s3.eu-central-1.amazonaws.com",
                Some(Known::Address(API)),
            ),
            ("ec2.us-east-1.amazonaws.com", None),
            ("example.com", None),
            (
                "10.0.42.10.in-addr.arpa",
                Some(Known::Pointer(
                    "ip-10-42-0-10.eu-central-1.compute.internal".into(),
                )),
            ),
            ("11.0.42.10.in-addr.arpa", None),
        ] {
            assert_eq!(look_up(&lab(), &zone(), name), expected, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_denied_at_once() {
        let reply = ask("example.com.", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.metadata.id, 7);
    }

    #[test]
    fn a_known_name_without_ipv6_has_no_data_but_exists() {
        let reply = ask("ip-10-42-0-10.", RecordType::AAAA);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.answers.is_empty());
        assert_eq!(ask("ip-10-42-0-10.", RecordType::A).answers.len(), 1);
    }

    #[test]
    fn garbage_gets_no_answer() {
        assert!(answer(&lab(), &zone(), b"\x01").is_none());
    }
}
