//! Assembles the real adapters.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    archive::Archives,
    aws::{
        Aws,
        autoscaling::AutoScaling,
        ec2::Ec2Api,
        ecr::Ecr,
        endpoint::Endpoints,
        route53::Route53,
        s3::{Encryption, S3},
        ssm::Ssm,
        sts::StsApi,
    },
    clock::SystemClock,
    commands::LocalCommands,
    downloads::HttpDownloads,
    etcd::EtcdGateway,
    host::LocalHost,
    http::Clients,
    imds::Imds,
    join::{JoinClient, ShownCertificates},
    kube::KubeCluster,
    store::{FolderStore, S3Store, SsmStore, TagStore},
};
use crate::{
    config::{Settings, StoreKind},
    error::Result,
    identity::Identity,
    kubernetes::paths,
    ports::{Clock, Commands, Ec2, Host, Store, World},
    report::Work,
    steps::kubeadm,
};

/// The record that an instance of a cluster without a store keeps itself.
const RECORD: &str = "/var/lib/k8s-bootstrap/record";

/// What can be reached before the instance's cluster is known.
pub struct Wiring {
    /// This machine.
    pub host: Arc<dyn Host>,
    /// Child processes.
    pub commands: Arc<dyn Commands>,
    /// The metadata service.
    pub imds: Arc<Imds>,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// HTTP clients.
    pub clients: Clients,
    /// What all of these count as.
    pub work: Work,
}

impl Wiring {
    /// Does not connect to anything yet.
    pub fn new() -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let work = Work::default();
        let clients = Clients::new()?.counting(work.clone());
        let commands: Arc<dyn Commands> = Arc::new(LocalCommands::counting(work.clone()));
        Ok(Self {
            host: Arc::new(LocalHost::new().with_commands(commands.clone())),
            imds: Arc::new(Imds::new(&clients, clock.clone())?),
            commands,
            clock,
            clients,
            work,
        })
    }

    /// The EC2 API of a region, with this instance's role and the settings' proxy.
    pub fn ec2(&self, region: &str, settings: &Settings) -> Result<Arc<dyn Ec2>> {
        let clients = self.clients.behind(settings)?;
        Ok(Arc::new(Ec2Api::new(self.aws(region, &clients)?)))
    }

    /// The registries of a region, with this instance's role and the settings' proxy.
    pub fn ecr(&self, region: &str, settings: &Settings) -> Result<Ecr> {
        let clients = self.clients.behind(settings)?;
        Ok(Ecr::new(self.aws(region, &clients)?))
    }

    /// Parameter Store of a region, with this instance's role and the settings' proxy.
    pub fn ssm(&self, region: &str, settings: &Settings) -> Result<Ssm> {
        let clients = self.clients.behind(settings)?;
        Ok(Ssm::new(self.aws(region, &clients)?))
    }

    fn aws(&self, region: &str, clients: &Clients) -> Result<Arc<Aws>> {
        let endpoints = Endpoints::of(region)?;
        let (credentials, clock) = (self.imds.clone(), self.clock.clone());
        let aws = Aws::new(clients, endpoints, credentials, clock)?;
        Ok(Arc::new(aws))
    }

    /// All ports, for this instance in its cluster.
    pub fn world(&self, settings: &Settings, me: &Identity) -> Result<World> {
        let clients = self.clients.behind(settings)?;
        let aws = self.aws(&me.region, &clients)?;
        let store: Arc<dyn Store> = match settings.store.kind {
            StoreKind::Ssm => Arc::new(SsmStore::new(
                Ssm::new(aws.clone()),
                &settings.store.prefix,
                &me.cluster,
            )),
            StoreKind::S3 => Arc::new(S3Store::new(
                S3::new(aws.clone()),
                &settings.store.bucket,
                &settings.store.prefix,
                &me.cluster,
            )),
            StoreKind::None => Arc::new(TagStore::new(
                Arc::new(Ec2Api::new(aws.clone())),
                me,
                settings.store.control_planes,
                Path::new(RECORD),
            )),
            StoreKind::Folder => Arc::new(FolderStore::new(
                &settings.store.path,
                &settings.store.prefix,
                &me.cluster,
            )),
        };
        let cluster = Arc::new(KubeCluster::new(
            vec![paths::ADMIN_CONF.into(), paths::KUBELET_CONF.into()],
            kubeadm::config::endpoint(settings),
        ));
        let backups = S3::new(aws.clone()).encrypting(match settings.snapshots.kms_key.as_str() {
            "" => Encryption::OfTheBucket,
            key => Encryption::WithKey(key.to_owned()),
        });
        let sts = Arc::new(StsApi::new(aws.clone()));
        Ok(World {
            metadata: self.imds.clone(),
            ec2: Arc::new(Ec2Api::new(aws.clone())),
            store,
            host: self.host.clone(),
            commands: self.commands.clone(),
            downloads: Arc::new(
                HttpDownloads::new(
                    clients.downloads()?,
                    settings.downloads.parallel,
                    Duration::from_secs(settings.deadlines.download),
                )
                .counting(self.work.clone()),
            ),
            archive: Arc::new(Archives::new(backups)),
            certificates: cluster.clone(),
            cluster,
            etcd: Arc::new(EtcdGateway::new(paths::ETCD_PKI)),
            dns: Arc::new(Route53::new(aws.clone())),
            scaling: Arc::new(AutoScaling::new(aws)),
            join: Arc::new(JoinClient::new(sts.clone())),
            peers: Arc::new(ShownCertificates::new()?),
            sts,
            clock: self.clock.clone(),
            leases: Arc::default(),
        })
    }
}
