//! The running service, its world, and the log that it writes.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use wiremock::MockServer;

use super::sts::{self, Keys, SECRET, SESSION, Signed};
use crate::{
    adapters::{
        aws::{Aws, endpoint::Endpoints, sts::StsApi},
        http::Clients,
        join::{Certificate, JoinClient, Times, client, server},
    },
    config::Settings,
    error::Result,
    join::{BODY, CLUSTER_HEADER, CONTENT_TYPE, JoinService, NONCE_HEADER},
    kubernetes::ca::ca_cert_hash,
    ports::{
        Applicant, Clock, Instance, InstanceState, JoinServices, JoinTicket, Role, Sts, World,
    },
    testing::{FakeWorld, Log, Pki, StoppedClock, control_plane, running, settings, worker},
};

pub const CLUSTER: &str = "demo";
pub const ACCOUNT: &str = "123456789012";
pub const NODE: &str = "ip-10-42-0-11.eu-central-1.compute.internal";
pub const CONTROL_PLANE: &str = "ip-10-42-0-10.eu-central-1.compute.internal";
/// The key that kubeadm prints; it decrypts the certificates.
const CERTIFICATE_KEY: &str = "abababababababababababababababababababababababababababababababab";

/// A control plane that serves at `address`; its clients connect from loopback.
pub struct Stage {
    pub fake: FakeWorld,
    pub clock: Arc<StoppedClock>,
    pub sts: MockServer,
    pub address: SocketAddr,
    pub pin: String,
    log: Log,
}

/// The keys of this control plane.
fn own() -> Keys {
    Keys::of("ASIAOWN", ACCOUNT, "control-planes", "i-cp")
}

/// The keys of the worker.
pub fn workers() -> Keys {
    Keys::of("ASIAWORKER", ACCOUNT, "workers", "i-w")
}

/// The worker's instance. It connects from loopback, so that is its address.
pub fn instance() -> Instance {
    let mut instance = running(&worker("i-w"), 0);
    instance.private_ip = Some(Ipv4Addr::LOCALHOST);
    instance.private_dns_name = Some(NODE.to_owned());
    instance.profile = Some("workers".to_owned());
    instance
}

/// The worker's own statement.
pub fn applicant() -> Applicant {
    Applicant {
        cluster: CLUSTER.to_owned(),
        role: Role::Worker,
        node: NODE.to_owned(),
        instance: "i-w".to_owned(),
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        taints: [].into(),
    }
}

impl Stage {
    /// With the shipped settings.
    pub async fn new() -> Self {
        Self::with(settings(), sts::start(vec![own(), workers()]).await).await
    }

    /// With these settings.
    pub async fn set(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        Self::with(settings, sts::start(vec![own(), workers()]).await).await
    }

    /// With these keys known to STS, in addition to the control plane's own.
    pub async fn knowing(keys: Keys) -> Self {
        Self::with(settings(), sts::start(vec![own(), keys]).await).await
    }

    async fn with(settings: Settings, sts: MockServer) -> Self {
        let log = Log::start();
        let pki = Pki::new();
        let pin = ca_cert_hash(&pki.files["ca.crt"]).unwrap();
        let fake = FakeWorld::founded().with_pki(&pki);
        fake.etcd.voter("cp", 10);
        fake.ec2.list([instance(), control_plane_instance()]);
        let clock = StoppedClock::showing("2026-11-23T12:00:00Z");
        let world = World {
            clock: clock.clone(),
            sts: signer(&sts, &own(), clock.clone()),
            ..fake.ports()
        };
        let listener = server::listen(Ipv4Addr::LOCALHOST, 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let certificate = Certificate::new(world.host.clone());
        let service = JoinService::new(world, &settings, &control_plane("i-cp"));
        let times = Times {
            each: Duration::from_secs(1),
            all: Duration::from_secs(20),
        };
        tokio::spawn(server::serve(listener, certificate, service, times));
        Self {
            fake,
            clock,
            sts,
            address,
            pin,
            log,
        }
    }

    /// An honest joiner with these keys.
    pub async fn join_as(&self, keys: &Keys, applicant: &Applicant) -> Result<JoinTicket> {
        let sts = signer(&self.sts, keys, self.clock.clone());
        JoinClient::new(sts)
            .ask(self.address, &self.pin, applicant)
            .await
    }

    /// The same, as the worker.
    pub async fn join(&self) -> Result<JoinTicket> {
        self.join_as(&workers(), &applicant()).await
    }

    /// Any request.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let client = client::client(self.address, &self.pin).unwrap();
        let url = format!(
            "https://kubernetes.default.svc:{}{path}",
            self.address.port()
        );
        client.request(method.parse().unwrap(), url)
    }

    /// A fresh nonce.
    pub async fn nonce(&self) -> String {
        let answer = self.request("GET", "/nonce").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    }

    /// What an honest joiner signs; tests change it before it is signed.
    pub fn honest(&self, nonce: &str) -> Signed {
        let header = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Signed {
            method: "POST",
            url: format!("{}/", self.sts.uri()),
            headers: [
                ("content-type", CONTENT_TYPE),
                (NONCE_HEADER, nonce),
                (CLUSTER_HEADER, CLUSTER),
            ]
            .map(header)
            .to_vec(),
            body: BODY.to_owned(),
            region: "eu-central-1",
            service: "sts",
            time: self.clock.now().into(),
        }
    }

    /// Posts an application; returns status and text.
    pub async fn post(&self, application: &Value) -> (u16, String) {
        let request = self.request("POST", "/join").body(application.to_string());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Posts the worker's application with these headers as its proof.
    pub async fn prove(&self, headers: &[(String, String)]) -> (u16, String) {
        self.post(&json!({"applicant": applicant(), "proof": headers}))
            .await
    }

    /// It was refused for this reason, the log has the reason and the source, nothing was given
    /// away and no secret was logged.
    pub fn refused(&self, case: &str, answer: (u16, String), status: u16, reason: &str) {
        assert_eq!(
            (answer.0, answer.1.contains(reason)),
            (status, true),
            "{case}: {answer:?}"
        );
        self.logged(case, reason);
    }

    /// The same for an honest joiner's client.
    pub fn not_let_in(&self, case: &str, outcome: Result<JoinTicket>, reason: &str) {
        let error = match outcome {
            Err(error) => error.one_line(),
            Ok(_) => panic!("{case}: admitted"),
        };
        assert!(error.contains(reason), "{case}: {error}");
        self.logged(case, reason);
    }

    /// The log has the reason and the source but no secret; nothing was given away.
    pub fn logged(&self, case: &str, reason: &str) {
        let log = self.log();
        let source = IpAddr::from(Ipv4Addr::LOCALHOST);
        let start = format!("join refused to {source}: ");
        let found = log
            .lines()
            .any(|line| line.contains(&start) && line.contains(reason));
        assert!(found, "{case}: {log}");
        self.gave_nothing(case);
    }

    /// No token was created and no Node written.
    pub fn gave_nothing(&self, case: &str) {
        let tokens = self.fake.cluster.applied();
        assert!(tokens.is_empty(), "{case}: {tokens:?}");
        self.no_secret(case);
    }

    /// The log has no secret.
    pub fn no_secret(&self, case: &str) {
        let log = self.log();
        for secret in [SECRET, SESSION, CERTIFICATE_KEY, "Signature="] {
            assert!(!log.contains(secret), "{case}: {secret} in {log}");
        }
    }

    /// Everything that this side logged.
    pub fn log(&self) -> String {
        self.log.lines()
    }

    /// Changes EC2's list of instances.
    pub fn ec2_lists(&self, change: impl FnOnce(&mut Instance)) {
        let mut worker = instance();
        change(&mut worker);
        self.fake.ec2.list([worker, control_plane_instance()]);
    }
}

/// The control plane's own instance, at another address.
pub fn control_plane_instance() -> Instance {
    let mut instance = running(&control_plane("i-cp"), 10);
    instance.private_dns_name = Some(CONTROL_PLANE.to_owned());
    instance.state = InstanceState::Running;
    instance
}

fn signer(sts: &MockServer, keys: &Keys, clock: Arc<StoppedClock>) -> Arc<dyn Sts> {
    let endpoints = Endpoints::with_override("eu-central-1", Some(&sts.uri())).unwrap();
    let keys = Arc::new(keys.clone());
    let aws = Aws::new(&Clients::new().unwrap(), endpoints, keys, clock).unwrap();
    Arc::new(StsApi::new(Arc::new(aws)))
}

/// A ticket's token as text.
pub fn token(ticket: &JoinTicket) -> String {
    ticket.token.expose_secret().to_owned()
}
