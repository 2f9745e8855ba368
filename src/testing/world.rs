//! All fakes in one world.

use std::{path::Path, sync::Arc};

use super::{
    FakeCertificates, FakeClock, FakeCluster, FakeCommands, FakeDns, FakeDownloads, FakeEc2,
    FakeEtcd, FakeHost, FakeJoin, FakeMetadata, FakePeers, FakeScaling, FakeSts, Files,
    MemoryStore, Pki, control_plane, output, rotating_kubeconfig, running,
};
use crate::{
    adapters::archive::Archives,
    error::Result,
    kubernetes::{ca::ca_cert_hash, paths},
    observe::{Claim, Initialized, Settled, record},
    ports::{Clock, Command, JoinTicket, LeaseMemory, Output, World},
    steps::{State, Step},
    wait::Notes,
};

/// A world with a folder as its host; everything else is in memory.
#[allow(missing_docs)] // each is the fake of the port with its name
pub struct FakeWorld {
    /// The files of `host`.
    pub files: Arc<Files>,
    pub host: Arc<FakeHost>,
    pub commands: Arc<FakeCommands>,
    pub cluster: Arc<FakeCluster>,
    pub etcd: Arc<FakeEtcd>,
    pub store: Arc<MemoryStore>,
    pub ec2: Arc<FakeEc2>,
    pub metadata: Arc<FakeMetadata>,
    pub scaling: Arc<FakeScaling>,
    pub dns: Arc<FakeDns>,
    pub certificates: Arc<FakeCertificates>,
    pub sts: Arc<FakeSts>,
    pub join: Arc<FakeJoin>,
    pub peers: Arc<FakePeers>,
    pub downloads: Arc<FakeDownloads>,
    /// The clock; tests that wait pause tokio's time.
    pub clock: Arc<FakeClock>,
    /// What the process remembers of Leases.
    pub leases: Arc<LeaseMemory>,
}

impl FakeWorld {
    /// A world in which nothing has happened yet.
    pub fn new() -> Self {
        let files = Arc::new(Files::none());
        files.put("/proc/filesystems", "nodev\tproc\n\text4\n");
        files.put("/usr/sbin/nft", "");
        let commands = Arc::new(FakeCommands::new(files.clone()));
        Self {
            host: Arc::new(FakeHost::new(&files, commands.clone())),
            downloads: Arc::new(FakeDownloads::onto(files.clone())),
            etcd: Arc::new(FakeEtcd::on(files.clone())),
            files,
            commands,
            cluster: Arc::default(),
            store: Arc::default(),
            ec2: Arc::default(),
            dns: Arc::default(),
            metadata: Arc::default(),
            scaling: Arc::default(),
            certificates: Arc::default(),
            sts: Arc::default(),
            join: Arc::default(),
            peers: Arc::default(),
            clock: Arc::new(FakeClock::at_noon()),
            leases: Arc::default(),
        }
    }

    /// A world in which this host has founded the cluster: its PKI is complete, and kubeadm uploads
    /// certificates.
    pub fn founded() -> Self {
        let fake = Self::new().with_pki(&Pki::new());
        let said = format!("Using certificate key:\n{}\n", "ab".repeat(32));
        fake.on("kubeadm init phase upload-certs", move |_, _| {
            output(0, &said, "")
        });
        fake
    }

    /// Same, with these certificates and keys on the host.
    pub fn with_pki(self, pki: &Pki) -> Self {
        for (name, content) in &pki.files {
            self.files.put(Path::new(paths::PKI).join(name), content);
        }
        self
    }

    /// Same, with the kubeconfigs and the kubelet's certificates too.
    pub fn with_certificates(self, pki: &Pki) -> Self {
        for (path, content) in pki.on_disk() {
            self.files.put(path, content);
        }
        self
    }

    /// Same, with a kernel that has every feature built in and every parameter at 0.
    pub fn with_a_whole_kernel(self) -> Self {
        self.files.put("/proc/filesystems", "nodev\toverlay\n");
        for parameter in [
            "net/bridge/bridge-nf-call-iptables",
            "net/bridge/bridge-nf-call-ip6tables",
            "net/ipv4/ip_forward",
            "net/netfilter/nf_conntrack_max",
            "vm/overcommit_memory",
        ] {
            self.files.put(format!("/proc/sys/{parameter}"), "0\n");
        }
        self
    }

    /// Same, with a control plane, i-cp at 10.42.0.2, whose join service gives this ticket.
    pub fn with_a_join_service(self, ticket: JoinTicket) -> Self {
        self.ec2.list([running(&control_plane("i-cp"), 2)]);
        self.join.gives(ticket);
        self
    }

    /// Same, with a `kubeadm join` that succeeds: the kubelet has its certificate.
    pub fn with_a_way_in(self) -> Self {
        let expires = self.clock.now() + std::time::Duration::from_mins(10);
        let this = self.with_a_join_service(JoinTicket {
            token: "abcdef.0123456789abcdef".into(),
            ca: "the CA".to_owned(),
            certificate_key: None,
            expires,
        });
        this.on("kubeadm join", |_, files| {
            let ca = &Pki::new().files["ca.crt"];
            files.put(paths::CA, ca);
            files.put(paths::KUBELET_CONF, rotating_kubeconfig(ca));
            files.put(paths::KUBELET_CLIENT, "");
            output(0, "", "")
        });
        this
    }

    /// Same, with a cluster that this instance founded with this host's CA and that is not settled.
    pub async fn recorded(self, cluster_uid: &str, founder: &str) -> Self {
        self.record(cluster_uid, founder).await;
        self
    }

    /// Records in the store that this instance founded the cluster.
    pub async fn record(&self, cluster_uid: &str, founder: &str) {
        self.claimed(1, cluster_uid, founder).await;
        let ca = self.files.get(paths::CA);
        let hash = ca.map(|ca| ca_cert_hash(ca.as_bytes()).unwrap());
        let initialized = Initialized {
            cluster_uid: cluster_uid.to_owned(),
            ca_hash: hash.unwrap_or_else(|| "sha256:00".to_owned()),
            founder: founder.to_owned(),
            time: self.clock.now(),
        };
        let store = self.store.as_ref();
        record::initialize(store, &initialized).await.unwrap();
    }

    /// Writes a claim into the store.
    pub async fn claimed(&self, number: u32, cluster_uid: &str, instance: &str) {
        let claim = Claim {
            cluster_uid: cluster_uid.to_owned(),
            ..Claim::new(number, instance, self.clock.now())
        };
        record::claim(self.store.as_ref(), &claim).await.unwrap();
    }

    /// Records in the store that the cluster of the last claim is settled.
    pub async fn settled(&self) {
        let record = record::read(self.store.as_ref()).await.unwrap();
        let last = record.claims.last().unwrap();
        let settled = Settled {
            cluster_uid: last.cluster_uid.clone(),
            instance: last.instance.clone(),
            time: self.clock.now(),
        };
        record::settle(self.store.as_ref(), &settled).await.unwrap();
    }

    /// Another machine in the same world: its own files, the same store, cloud and time.
    pub fn another_host(&self) -> Self {
        let other = Self::new();
        Self {
            cluster: self.cluster.clone(),
            etcd: Arc::new(self.etcd.seen_from(other.files.clone())),
            store: self.store.clone(),
            ec2: self.ec2.clone(),
            dns: self.dns.clone(),
            certificates: self.certificates.clone(),
            sts: self.sts.clone(),
            join: self.join.clone(),
            peers: self.peers.clone(),
            clock: self.clock.clone(),
            ..other
        }
    }

    /// The world as ports.
    pub fn ports(&self) -> World {
        World {
            metadata: self.metadata.clone(),
            ec2: self.ec2.clone(),
            store: self.store.clone(),
            host: self.host.clone(),
            commands: self.commands.clone(),
            downloads: self.downloads.clone(),
            cluster: self.cluster.clone(),
            archive: Arc::new(Archives::at(self.files.root())),
            etcd: self.etcd.clone(),
            dns: self.dns.clone(),
            scaling: self.scaling.clone(),
            certificates: self.certificates.clone(),
            sts: self.sts.clone(),
            join: self.join.clone(),
            peers: self.peers.clone(),
            clock: self.clock.clone(),
            leases: self.leases.clone(),
        }
    }

    /// Scripts a program: see [`FakeCommands::on`].
    pub fn on(
        &self,
        start: &str,
        effect: impl Fn(&Command, &Files) -> Output + Send + Sync + 'static,
    ) {
        self.commands.on(start, effect);
    }

    /// Checks a step.
    pub async fn check(&self, step: &impl Step) -> Result<State> {
        step.check(&self.ports()).await
    }

    /// Applies a step.
    pub async fn apply(&self, step: &impl Step) -> Result<()> {
        step.apply(&self.ports(), &Notes::unread()).await
    }

    /// Carries a step out as the runner does: it differs, is applied, then is as wanted.
    pub async fn carry_out(&self, step: &impl Step) {
        self.differs(step).await;
        self.apply(step).await.unwrap();
        self.holds(step).await;
    }

    /// Asserts that the step has nothing to do.
    pub async fn holds(&self, step: &impl Step) {
        assert_eq!(self.check(step).await.unwrap(), State::AsWanted);
    }

    /// The difference that a step reports.
    pub async fn differs(&self, step: &impl Step) -> String {
        match self.check(step).await.unwrap() {
            State::Differs(why) => why,
            State::AsWanted => panic!("nothing differs"),
        }
    }
}
