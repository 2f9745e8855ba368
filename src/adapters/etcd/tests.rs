#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_blocking,
};

use super::*;
use crate::{
    error::Kind,
    ports::{Alarm, Database},
    testing::sealed,
};

/// A CA, and certificates signed by it.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client's files, as kubeadm names them.
    fn write(&self, folder: &Path) {
        let (certificate, key) = self.sign(&["healthcheck"]);
        for (name, content) in [
            ("ca.crt", self.certificate.pem()),
            ("healthcheck-client.crt", certificate.pem()),
            ("healthcheck-client.key", key.serialize_pem()),
        ] {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }

    fn server(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let (certificate, key) = self.sign(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}

/// A member's answers by call: status and body.
type Answers = BTreeMap<&'static str, Box<dyn Fn(&Value) -> (u16, String) + Send + Sync>>;

/// A member that speaks the gateway's protocol; it requires client certificates as etcd does.
struct Server {
    answers: Mutex<Answers>,
    asked: Mutex<Vec<String>>,
    tls: Mutex<Arc<ServerConfig>>,
}

impl Server {
    /// Serves connections, one request each.
    fn serve(self: Arc<Self>, listener: TcpListener) {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = self.clone();
                spawn_blocking(move || server.one(stream));
            }
        });
    }

    fn one(&self, stream: TcpStream) -> Option<()> {
        use std::io::{BufRead, BufReader, Read, Write};
        let stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let tls = self.tls.lock().unwrap().clone();
        let connection = rustls::ServerConnection::new(tls).unwrap();
        let mut stream = BufReader::new(rustls::StreamOwned::new(connection, stream));
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let call = line.split(' ').nth(1)?.strip_prefix("/v3/")?.to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).ok()?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.asked.lock().unwrap().push(format!("{call} {body}"));
        let (status, text) = match self.answers.lock().unwrap().get(call.as_str()) {
            Some(answer) => answer(&body),
            None => (404, r#"{"code":5,"message":"Not Found"}"#.to_owned()),
        };
        let length = text.len();
        let out = stream.get_mut();
        let head =
            format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        out.write_all(head.as_bytes()).ok()?;
        out.write_all(text.as_bytes()).ok()?;
        out.conn.send_close_notify();
        out.flush().ok()
    }
}

/// Members at 127.0.0.1, 127.0.0.2, … on one port, and the adapter with certificates for them.
struct Stand {
    servers: Vec<Arc<Server>>,
    folder: tempfile::TempDir,
    etcd: EtcdGateway,
}

impl Stand {
    async fn of(count: u8) -> Self {
        let authority = Authority::new();
        let folder = tempfile::tempdir().unwrap();
        authority.write(folder.path());
        let (servers, port) = Self::listen(count, &authority).await;
        let etcd = EtcdGateway::at(folder.path(), Ipv4Addr::LOCALHOST, port);
        Self {
            servers,
            folder,
            etcd,
        }
    }

    /// All on the first port that is free on every address.
    async fn listen(count: u8, authority: &Authority) -> (Vec<Arc<Server>>, u16) {
        'port: loop {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            let mut listeners = vec![first];
            for last in 2..=count {
                match TcpListener::bind((Ipv4Addr::from([127, 0, 0, last]), port)).await {
                    Ok(listener) => listeners.push(listener),
                    Err(_) => continue 'port,
                }
            }
            let servers = listeners.into_iter().map(|listener| {
                let server = Arc::new(Server {
                    answers: Mutex::default(),
                    asked: Mutex::default(),
                    tls: Mutex::new(authority.server()),
                });
                server.clone().serve(listener);
                server
            });
            return (servers.collect(), port);
        }
    }

    /// Sets a member's answer to a call from now on.
    fn on(&self, member: usize, call: &'static str, status: u16, body: impl Into<String>) {
        let body = body.into();
        self.when(member, call, move |_| (status, body.clone()));
    }

    fn when(
        &self,
        member: usize,
        call: &'static str,
        answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static,
    ) {
        let mut answers = self.servers[member].answers.lock().unwrap();
        answers.insert(call, Box::new(answer));
    }

    fn asked(&self, member: usize) -> Vec<String> {
        std::mem::take(&mut self.servers[member].asked.lock().unwrap())
    }

    fn snapshot_is(&self, lines: &str) {
        self.on(0, "maintenance/snapshot", 200, lines);
    }

    async fn take(&self) -> (Result<Snapshot>, Vec<String>) {
        let folder = self.folder.path().join("snapshots");
        let taken = self.etcd.snapshot(&folder.join("one")).await;
        let left = std::fs::read_dir(folder).map(|entries| {
            entries
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect()
        });
        (taken, left.unwrap_or_default())
    }
}

const MEMBERS: &str = r#"{"header":{"cluster_id":"1","member_id":"7","raft_term":"2"},"members":[
    {"ID":"13148557906461751675","name":"b","peerURLs":["https://127.0.0.2:2380"],"clientURLs":["https://127.0.0.2:2379"]},
    {"ID":"7","name":"a","peerURLs":["https://127.0.0.1:2380"],"clientURLs":["https://127.0.0.1:2379"]},
    {"ID":"9","peerURLs":["https://127.0.0.3:2380"],"isLearner":true}]}"#;

fn status(leader: &str, agreed: u64, applied: u64) -> String {
    format!(
        r#"{{"header":{{"member_id":"7"}},"version":"3.6.8","leader":"{leader}","raftIndex":"{agreed}","raftAppliedIndex":"{applied}"}}"#
    )
}

fn member(id: u64, last: u8) -> Member {
    Member {
        id,
        name: "x".to_owned(),
        address: Ipv4Addr::from([127, 0, 0, last]),
        learner: false,
    }
}

const NO_LEADER: &str = r#"{"code":14,"message":"etcdserver: no leader"}"#;

#[tokio::test]
async fn members_are_read_with_their_ids_names_and_addresses() {
    let stand = Stand::of(1).await;
    stand.on(0, "cluster/member/list", 200, MEMBERS);
    let members = stand.etcd.members().await.unwrap();
    let seen: Vec<_> = members
        .iter()
        .map(|m| (m.id, m.name.as_str(), m.address.octets()[3], m.learner))
        .collect();
    assert_eq!(
        seen,
        [
            (9, "", 3, true),
            (7, "a", 1, false),
            (13_148_557_906_461_751_675, "b", 2, false)
        ]
    );
    assert_eq!(
        stand.asked(0),
        [r#"cluster/member/list {"linearizable":true}"#]
    );
}

#[tokio::test]
async fn without_a_majority_the_last_known_members_are_listed() {
    let stand = Stand::of(1).await;
    stand.when(0, "cluster/member/list", |body| {
        if body["linearizable"] == true {
            (503, NO_LEADER.to_owned())
        } else {
            (200, MEMBERS.to_owned())
        }
    });
    assert_eq!(stand.etcd.members().await.unwrap().len(), 3);
}

#[tokio::test]
async fn members_can_be_listed_by_another_member() {
    let stand = Stand::of(2).await;
    stand.on(1, "cluster/member/list", 200, MEMBERS);
    let other = Ipv4Addr::from([127, 0, 0, 2]);
    assert_eq!(stand.etcd.members_by(other).await.unwrap().len(), 3);
    assert!(stand.asked(0).is_empty());
}

#[tokio::test]
async fn removing_an_absent_member_succeeds() {
    let stand = Stand::of(1).await;
    let gone = r#"{"code":5,"message":"etcdserver: member not found"}"#;
    stand.on(0, "cluster/member/remove", 404, gone);
    stand.etcd.remove(u64::MAX).await.unwrap();
    assert_eq!(
        stand.asked(0),
        [r#"cluster/member/remove {"ID":"18446744073709551615"}"#]
    );
}

#[tokio::test]
async fn a_refused_removal_reports_etcds_message_and_what_to_do() {
    let stand = Stand::of(1).await;
    for (status, body) in [
        (
            503,
            r#"{"code":14,"message":"etcdserver: unhealthy cluster"}"#,
        ),
        (
            400,
            r#"{"code":9,"message":"etcdserver: re-configuration failed due to not enough started members"}"#,
        ),
    ] {
        stand.on(0, "cluster/member/remove", status, body);
        let error = stand.etcd.remove(7).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.one_line().contains("etcdserver: "), "{error}");
        assert!(error.one_line().contains("/v3/cluster/member/remove"));
        assert!(error.remedy().unwrap().contains("down first"), "{error}");
    }
}

#[tokio::test]
async fn a_call_that_waits_for_a_majority_times_out_with_a_hint() {
    let stand = Stand::of(1).await;
    // A listener that never answers: connections wait in its queue.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut etcd = EtcdGateway::at(stand.folder.path(), Ipv4Addr::LOCALHOST, port);
    etcd.answers_within = Duration::from_millis(100);
    let error = etcd.remove(7).await.unwrap_err();
    assert!(error.one_line().contains("no answer within"), "{error}");
    assert!(error.remedy().unwrap().contains("etcd members"), "{error}");
}

#[tokio::test]
async fn a_learner_is_promoted_and_a_voter_is_left_alone() {
    let stand = Stand::of(1).await;
    let call = "cluster/member/promote";
    stand.on(0, call, 200, r#"{"header":{}}"#);
    stand.etcd.promote(9).await.unwrap();
    let voting = r#"{"code":9,"message":"etcdserver: can only promote a learner member"}"#;
    stand.on(0, call, 400, voting);
    stand.etcd.promote(9).await.unwrap();
    let behind = r#"{"code":9,"message":"etcdserver: can only promote a learner member which is in sync with leader"}"#;
    stand.on(0, call, 400, behind);
    let error = stand.etcd.promote(9).await.unwrap_err();
    assert!(error.one_line().contains("in sync"), "{error}");
}

#[tokio::test]
async fn the_leader_itself_transfers_the_leadership() {
    let stand = Stand::of(2).await;
    stand.on(0, "cluster/member/list", 200, MEMBERS);
    stand.on(
        0,
        "maintenance/status",
        200,
        status("13148557906461751675", 9, 9),
    );
    stand.on(1, "maintenance/transfer-leadership", 200, "{}");
    stand.etcd.transfer_leadership(7).await.unwrap();
    assert_eq!(
        stand.asked(1),
        [r#"maintenance/transfer-leadership {"targetID":"7"}"#]
    );
    stand.on(0, "maintenance/status", 200, status("7", 9, 9));
    stand.etcd.transfer_leadership(7).await.unwrap();
    assert!(stand.asked(1).is_empty(), "it is the leader already");
}

#[tokio::test]
async fn there_may_be_no_leader() {
    let stand = Stand::of(1).await;
    let lost = r#"{"header":{"member_id":"7"},"errors":["etcdserver: no leader"]}"#;
    stand.on(0, "maintenance/status", 200, lost);
    assert_eq!(stand.etcd.leader().await.unwrap(), None);
    let status = stand.etcd.status(&member(7, 1)).await.unwrap();
    assert_eq!((status.leader, status.in_step), (None, false));
    let error = stand.etcd.transfer_leadership(7).await.unwrap_err();
    assert!(!error.one_line().is_empty());
}

#[tokio::test]
async fn a_member_is_in_step_if_it_follows_the_same_leader_and_keeps_up() {
    let stand = Stand::of(2).await;
    stand.on(0, "maintenance/status", 200, status("7", 9_000, 9_000));
    let alarm = r#"{"leader":"7","raftIndex":"9000","raftAppliedIndex":"9000","errors":["memberID:8 alarm:NOSPACE "]}"#;
    for (case, theirs, in_step) in [
        ("in step", status("7", 9_000, 8_990), true),
        ("far behind", status("7", 9_000, 17), false),
        ("another leader", status("8", 9_000, 9_000), false),
        ("with an alarm", alarm.to_owned(), true),
    ] {
        stand.on(1, "maintenance/status", 200, theirs);
        let status = stand.etcd.status(&member(8, 2)).await.unwrap();
        assert_eq!(status.in_step, in_step, "{case}");
    }
    let silent = stand.etcd.status(&member(9, 3)).await.unwrap_err();
    assert!(silent.one_line().contains("127.0.0.3"), "{silent}");
}

#[tokio::test]
async fn a_member_reports_its_alarms_and_the_size_of_its_database() {
    let stand = Stand::of(1).await;
    // etcd uses both spellings of protobuf's text, depending on its version.
    let said = r#"{"header":{"cluster_id":"17","member_id":"7","revision":"700"},"leader":"7",
        "dbSize":"67108864","dbSizeInUse":"1048576","dbSizeQuota":"8589934592",
        "errors":["memberID:7 alarm:NOSPACE ","memberID:9  alarm:CORRUPT","etcdserver: no leader"]}"#;
    stand.on(0, "maintenance/status", 200, said);
    let status = stand.etcd.status(&member(7, 1)).await.unwrap();
    assert_eq!((status.cluster, status.revision), (17, 700));
    let raised: Vec<_> = status.alarms.iter().map(|a| (a.member, a.alarm)).collect();
    assert_eq!(raised, [(7, Alarm::NoSpace), (9, Alarm::Corrupt)]);
    let database = Database {
        bytes: 64 << 20,
        in_use: 1 << 20,
        quota: 8 << 30,
    };
    assert_eq!(status.database, database);
}

#[tokio::test]
async fn space_is_freed_by_compaction_and_defragmentation() {
    let stand = Stand::of(2).await;
    stand.on(0, "kv/compaction", 200, r#"{"header":{}}"#);
    stand.etcd.compact(700).await.unwrap();
    let again = r#"{"code":11,"message":"etcdserver: mvcc: required revision has been compacted"}"#;
    stand.on(0, "kv/compaction", 400, again);
    stand.etcd.compact(700).await.unwrap();
    stand.on(1, "maintenance/defragment", 200, "{}");
    stand.etcd.defragment(&member(8, 2)).await.unwrap();
    stand.on(0, "maintenance/alarm", 200, r#"{"header":{}}"#);
    let alarm = RaisedAlarm {
        member: 8,
        alarm: Alarm::NoSpace,
    };
    stand.etcd.disarm(alarm).await.unwrap();
    assert_eq!(stand.asked(1), ["maintenance/defragment {}"]);
    let compaction = r#"kv/compaction {"physical":true,"revision":"700"}"#;
    assert_eq!(
        stand.asked(0),
        [
            compaction,
            compaction,
            r#"maintenance/alarm {"action":"DEACTIVATE","alarm":"NOSPACE","memberID":"8"}"#
        ]
    );
}

#[tokio::test]
async fn renewed_certificates_are_used_at_once() {
    let stand = Stand::of(1).await;
    stand.on(0, "maintenance/status", 200, status("7", 9, 9));
    stand.etcd.leader().await.unwrap();
    let renewed = Authority::new();
    *stand.servers[0].tls.lock().unwrap() = renewed.server();
    let error = stand.etcd.leader().await.unwrap_err();
    assert!(
        error.one_line().contains("/v3/maintenance/status"),
        "{error}"
    );
    renewed.write(stand.folder.path());
    assert_eq!(stand.etcd.leader().await.unwrap(), Some(7));
}

#[tokio::test]
async fn a_machine_without_etcd_is_an_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let error = EtcdGateway::new(folder.path()).members().await.unwrap_err();
    assert!(
        error.one_line().contains("ca.crt does not exist"),
        "{error}"
    );
    assert!(error.remedy().unwrap().contains("control planes"));
    for name in ["ca.crt", "healthcheck-client.crt", "healthcheck-client.key"] {
        std::fs::write(folder.path().join(name), "nonsense").unwrap();
    }
    let error = EtcdGateway::new(folder.path()).members().await.unwrap_err();
    assert!(error.one_line().contains("cannot use "), "{error}");
}

/// A snapshot as the gateway streams it, in parts of 1000 bytes.
fn stream(snapshot: &[u8]) -> String {
    let mut remaining = snapshot.len();
    let mut lines = String::new();
    for part in snapshot.chunks(1000) {
        remaining -= part.len();
        let mut result = json!({"blob": BASE64_STANDARD.encode(part), "version": "3.6.0"});
        if remaining > 0 {
            result["remaining_bytes"] = remaining.to_string().into();
        }
        lines += &format!("{}\n", json!({"result": result}));
    }
    lines
}

#[tokio::test]
async fn a_snapshot_is_complete_and_readable_only_by_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let stand = Stand::of(1).await;
    let content = sealed(&[3; 4096]);
    stand.snapshot_is(&stream(&content));
    let (taken, left) = stand.take().await;
    assert_eq!(taken.unwrap().bytes, 4128);
    assert_eq!(left, ["one"]);
    let file = stand.folder.path().join("snapshots/one");
    assert_eq!(std::fs::read(&file).unwrap(), content);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_broken_snapshot_leaves_no_file() {
    let stand = Stand::of(1).await;
    let content = sealed(&[3; 4096]);
    let whole = stream(&content);
    let two_lines = whole.find("}}\n").unwrap() + 3;
    let trouble = r#"{"error":{"code":14,"message":"etcdserver: server stopped"}}"#;
    let mut changed = content.clone();
    changed[17] ^= 1;
    for (case, lines, said) in [
        ("cut", whole[..two_lines].to_owned(), "was interrupted"),
        ("empty", String::new(), "was interrupted"),
        (
            "an error in the stream",
            format!("{}{trouble}\n", &whole[..two_lines]),
            "server stopped",
        ),
        ("damaged", stream(&changed), "digest"),
        ("not JSON", "<html>".to_owned(), "cannot be read"),
        ("endless", "x".repeat(3 << 20), "not a snapshot stream"),
    ] {
        stand.snapshot_is(&lines);
        let (taken, left) = stand.take().await;
        let error = taken.unwrap_err();
        assert!(error.one_line().contains(said), "{case}: {error}");
        assert!(left.is_empty(), "{case}: {left:?}");
    }
    stand.on(0, "maintenance/snapshot", 503, NO_LEADER);
    let (taken, left) = stand.take().await;
    assert!(taken.unwrap_err().one_line().contains("no leader"));
    assert!(left.is_empty());
}
