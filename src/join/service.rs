//! The join service: carries the decisions out.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tracing::info;

use super::{
    Limits, Refusal,
    judge::{Case, NodeIs, Rules, judge},
    lock, node,
    nonces::Nonces,
    proof, settle, tokens,
};
use crate::{
    config::Settings,
    error::{Error, Kind, Result as Fallible},
    identity::Identity,
    kubernetes::{ca, node::reference, paths},
    ports::{Applicant, Caller, Instance, Proof, Role, World},
};

/// How old a list of instances may be: a thousand joiners at once must not send a thousand requests
/// to EC2.
const FRESH: Duration = Duration::from_secs(2);

/// The body of a POST to `/join`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Who wants to join.
    pub applicant: Applicant,
    /// A call to STS, signed by the applicant, that proves which instance it is.
    pub proof: Proof,
}

/// The answer: a [`crate::ports::JoinTicket`] on the wire.
#[derive(Serialize, Deserialize)]
pub struct Admission {
    /// A bootstrap token for this node, `abcdef.0123456789abcdef`.
    pub token: String,
    /// The cluster CA's certificate as PEM.
    pub ca: String,
    /// Decrypts the control plane's certificates in the cluster; only for control planes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_key: Option<String>,
    /// When the token expires.
    pub expires: Timestamp,
}

/// One control plane's join service, without its sockets.
pub struct JoinService {
    world: World,
    region: String,
    cluster: String,
    instance: String,
    worker_roles: Vec<String>,
    control_plane_roles: Vec<String>,
    nonces: Mutex<Nonces>,
    limits: Mutex<Limits>,
    own: OnceCell<Caller>,
    instances: AsyncMutex<Option<(Duration, Vec<Instance>)>>,
    /// kubeadm replaces its earlier upload: one at a time.
    uploading: AsyncMutex<()>,
}

impl JoinService {
    /// The service of this control plane.
    pub fn new(world: World, settings: &Settings, me: &Identity) -> Self {
        Self {
            world,
            region: me.region.clone(),
            cluster: me.cluster.clone(),
            instance: me.instance_id.clone(),
            worker_roles: settings.join.worker_roles.clone(),
            control_plane_roles: settings.join.control_plane_roles.clone(),
            nonces: Mutex::default(),
            limits: Mutex::default(),
            own: OnceCell::new(),
            instances: AsyncMutex::default(),
            uploading: AsyncMutex::default(),
        }
    }

    /// The ports that the service uses.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Counts a new connection, or refuses it.
    pub fn begin(&self, source: IpAddr) -> Result<(), Refusal> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.begin(source, self.world.clock.elapsed())
    }

    /// Records the end of a connection that was counted.
    pub fn end(&self, source: IpAddr) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.end(source);
    }

    /// Issues a nonce to the source.
    pub fn nonce(&self, source: IpAddr) -> Result<String, Refusal> {
        // 36^32 is more than 2^165.
        let nonce = tokens::random(32);
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.issue(nonce.clone(), source, self.world.clock.elapsed())?;
        Ok(nonce)
    }

    /// Judges an application and admits the applicant, or refuses it.
    pub async fn join(&self, source: IpAddr, body: &[u8]) -> Result<Admission, Refusal> {
        // The parser's own message would quote what it read.
        let application: Application = serde_json::from_slice(body)
            .map_err(|_| Refusal::malformed("the application is malformed"))?;
        let Application { applicant, proof } = application;
        let nonce = proof::inspect(&proof, &self.cluster, &self.region)?;
        self.redeem(nonce, source)?;
        let caller = self.world.sts.identify(&proof).await.map_err(|error| {
            if error.kind() == Kind::Refused {
                return Refusal::denied("STS does not accept the signature");
            }
            Refusal::unavailable("STS cannot verify the proof now", &error)
        })?;
        let rules = Rules {
            cluster: self.cluster.clone(),
            own: self.own().await?,
            worker_roles: self.worker_roles.clone(),
            control_plane_roles: self.control_plane_roles.clone(),
        };
        let instances = self.instances(&applicant).await?;
        let name = applicant.node.to_lowercase();
        let there = self.world.cluster.get(&reference(&name)).await;
        let there = there.map_err(|error| api_is_away(&error))?;
        let case = Case {
            applicant: &applicant,
            source,
            caller: &caller,
            instances: &instances,
            node: there.as_ref(),
        };
        let (instance, node_is) = judge(&rules, &case)?;
        // The Node to be replaced links the member of that name to a dead instance.
        if applicant.role == Role::ControlPlane || node_is == NodeIs::Stale {
            let taken = lock::predecessor(&self.world, instance, node_is).await;
            let taken =
                taken.map_err(|error| Refusal::unavailable("etcd does not answer now", &error))?;
            if let Some(why) = taken {
                return Err(Refusal::busy(why));
            }
        }
        if applicant.role == Role::ControlPlane {
            let waits = lock::take(&self.world, instance, &instances).await;
            if let Some(why) = waits.map_err(|error| api_is_away(&error))? {
                return Err(Refusal::busy(why));
            }
            let settled = settle::before_the_third(&self.world, &self.instance, instance).await;
            settled.map_err(|error| {
                Refusal::unavailable("this cluster cannot be recorded as settled now", &error)
            })?;
        }
        let node = node::node(&applicant, instance, &self.region)?;
        node::put(&self.world, &node, node_is)
            .await
            .map_err(|error| api_is_away(&error))?;
        let admission = self
            .admit(&applicant, instance)
            .await
            .map_err(|error| Refusal::unavailable("no ticket can be created now", &error))?;
        info!(
            "{} {} joins as {name}, proven by the IAM role {}",
            applicant.role, instance.id, caller.role
        );
        Ok(admission)
    }

    fn redeem(&self, nonce: &str, source: IpAddr) -> Result<(), Refusal> {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.redeem(nonce, source, self.world.clock.elapsed())
    }

    /// This control plane's own identity, as STS reports it.
    async fn own(&self) -> Result<Caller, Refusal> {
        let ask = || async {
            let sts = &self.world.sts;
            sts.identify(&sts.prove("own", &self.cluster).await?).await
        };
        let own = self.own.get_or_try_init(ask).await;
        own.cloned().map_err(|error| {
            Refusal::unavailable("this control plane's own IAM role is unknown", &error)
        })
    }

    /// EC2's list; requested again if it is old or lacks the applicant.
    async fn instances(&self, applicant: &Applicant) -> Result<Vec<Instance>, Refusal> {
        let mut held = self.instances.lock().await;
        let now = self.world.clock.elapsed();
        if let Some((asked, list)) = &*held
            && now < *asked + FRESH
            && list
                .iter()
                .any(|instance| instance.id == applicant.instance)
        {
            return Ok(list.clone());
        }
        let list = self.world.ec2.instances(&self.cluster).await;
        let list = list.map_err(|error| Refusal::unavailable("EC2 does not answer now", &error))?;
        *held = Some((now, list.clone()));
        Ok(list)
    }

    async fn admit(&self, applicant: &Applicant, instance: &Instance) -> Fallible<Admission> {
        let ca = self.world.host.read(paths::CA.as_ref()).await?;
        let ca = ca.and_then(|pem| String::from_utf8(pem).ok());
        let ca = ca.ok_or_else(|| Error::failed(format!("cannot read {}", paths::CA)))?;
        let certificate_key = match applicant.role {
            Role::Worker => None,
            Role::ControlPlane => {
                let _one = self.uploading.lock().await;
                Some(ca::upload_certificates(&self.world).await?)
            }
        };
        let name = node::name(instance);
        let (token, expires) = tokens::mint(&self.world, instance, &name).await?;
        Ok(Admission {
            token: token.expose_secret().to_owned(),
            ca,
            certificate_key: certificate_key.map(|key| key.expose_secret().to_owned()),
            expires,
        })
    }
}

fn api_is_away(error: &Error) -> Refusal {
    Refusal::unavailable("the Kubernetes API does not answer now", error)
}
