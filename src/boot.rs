//! From first boot to a Ready node: the flow of the agent on one screen.

pub mod api_servers;
mod settling;
mod who;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::watch, try_join};
use tracing::{info, warn};

use crate::{
    adapters::balancer::Health,
    config::Settings,
    decide::{Agreement, Decision, Judge, rests_on_absence},
    error::{Error, Result},
    identity::Identity,
    journal::{Course, Membership},
    observe::{self, Claim, Memory, Observation, Settled, evidence, record},
    plan,
    ports::{Created, MachineFacts, Role, World},
    report::{Reporter, Stage},
    runner::{Phase, Runner, Summary},
    steps::{Step, leaving::Removal},
    wait::{Notes, Patience, Probe, until},
};

pub use who::{remember_name, who_am_i};

/// One node's agent: what it was asked for, who it is, and what it works with.
#[derive(Clone)]
pub struct Agent {
    /// What the user asked for.
    pub settings: Arc<Settings>,
    /// Who this instance is.
    pub me: Arc<Identity>,
    /// What machine it runs on.
    pub machine: Arc<MachineFacts>,
    /// The world that it acts on.
    pub world: World,
    /// How it decides whether to found or to join.
    pub judge: Judge,
    /// Carries its plans out.
    pub runner: Arc<Runner>,
    /// Tells people and programs.
    pub reporter: Arc<Reporter>,
    /// The control planes' addresses, for the node's API balancer.
    pub api_servers: watch::Sender<Vec<SocketAddr>>,
    /// Which of them are ready, as far as the balancer knows.
    pub api_health: Arc<Health>,
}

/// What an instance is to do once it has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// Found or join this cluster.
    Belong(Membership),
    /// Take off this machine what it has of an abandoned cluster, because of this.
    StartOver(String),
}

/// Looks at EC2 and the store, and where what follows rests on there being no cluster, at the
/// control planes themselves.
pub async fn look(
    world: &World,
    me: &Identity,
    memory: Memory,
    join_port: u16,
) -> Result<Observation> {
    let mut seen = observe::observe(world, me, memory).await?;
    if rests_on_absence(me, &seen) {
        seen.evidence = evidence::gather(world, me, &seen, join_port).await;
    }
    Ok(seen)
}

impl Agent {
    /// Prepares the host while it finds out which cluster to found or join, then does that.
    pub async fn boot(&self) -> Result<Summary> {
        let host = plan::host(&self.settings, &self.me)?;
        self.boot_by(&host, &Removal::to_start_over(), |memory| {
            plan::cluster(&self.settings, &self.me, &self.machine, memory)
        })
        .await
    }

    /// The same by these plans: the last is made once the instance has chosen its cluster, the
    /// other one is carried out where that was given up.
    pub async fn boot_by<A: Step + Serialize, B: Step + Serialize>(
        &self,
        host: &[Phase<A>],
        removal: &[Phase<B>],
        cluster: impl FnOnce(&Memory) -> Result<Vec<Phase<A>>>,
    ) -> Result<Summary> {
        let now = self.world.clock.now();
        self.reporter.stage(Stage::Working, "", now);
        let before_claim = plan::before_claim(host);
        // To start over needs a prepared host as well: kubeadm, and a containerd that runs.
        let (prepared, belonging) = try_join!(self.runner.run(host), async {
            if let Choice::StartOver(why) = self.choose_cluster(&before_claim).await? {
                return Ok(Err(why));
            }
            let plan = cluster(&self.runner.memory().await)?;
            // Biased, so that a simulation with the same seed takes the same way.
            tokio::select! {
                biased;
                outcome = self.runner.run(&plan) => outcome.map(Ok),
                Some(why) = self.until_given_up() => Ok(Err(why)),
                never = self.settle_in_time() => match never {},
            }
        })?;
        match belonging {
            Ok(belonging) => Ok(Summary {
                done: prepared.done + belonging.done,
                held: prepared.held + belonging.held,
            }),
            Err(why) => Err(self.start_over(&why, removal).await),
        }
    }

    /// Observes and decides until there is a cluster to found or to join. Nothing is claimed
    /// before the phases of these names hold: who claims can found.
    async fn choose_cluster(&self, before_claim: &[String]) -> Result<Choice> {
        // The adapter retries throttling by itself, so the first answer can take a while.
        self.reporter
            .message("asking EC2 and the store for the cluster");
        let (notes, mut news) = Notes::new();
        let relay = async {
            while news.changed().await.is_ok() {
                let text = news.borrow_and_update().clone().unwrap_or_default();
                self.reporter.message(text);
            }
            std::future::pending::<()>().await;
        };
        let deadline = Duration::from_secs(self.settings.deadlines.peers);
        let agreement = Mutex::default();
        let choice = until(
            self.world.clock.as_ref(),
            &notes,
            Patience::remote(deadline),
            "a cluster to found or to join",
            async || self.decide_once(&agreement, before_claim, &notes).await,
        );
        // Biased, so that a simulation with the same seed takes the same way.
        let choice = tokio::select! {
            biased;
            chosen = choice => chosen?,
            () = relay => return Err(Error::failed("the relay of notes ended")),
        };
        self.reporter.message("");
        if let Choice::Belong(membership) = &choice {
            self.runner.commit_to(membership.clone()).await?;
            self.reporter.membership(membership);
        }
        Ok(choice)
    }

    async fn decide_once(
        &self,
        agreement: &Mutex<Agreement>,
        before_claim: &[String],
        notes: &Notes,
    ) -> Result<Probe<Choice>> {
        loop {
            let seen = self.observe().await?;
            if let Err(error) = self.keep_record(&seen).await {
                warn!(HINT = error.remedy(), "{}", error.one_line());
            }
            let decision = {
                let mut agreement = agreement.lock().unwrap_or_else(PoisonError::into_inner);
                (self.judge)(&self.me, &seen, &mut agreement)
            };
            let (course, cluster_uid) = match decision {
                Decision::Claim { .. } if !self.runner.hold(before_claim) => {
                    notes.waiting_for("this machine is being prepared; then it claims to found");
                    self.runner.until_hold(before_claim).await;
                    continue;
                }
                Decision::Claim { number, why, .. } => {
                    if self.claim(number, &why).await? == Created::AlreadyThere {
                        // A store whose lists lag would have it claimed without a pause.
                        return Ok(Probe::NotYet(format!(
                            "claim {number} is taken; the store does not list it yet"
                        )));
                    }
                    continue;
                }
                Decision::Found { cluster_uid } => (Course::Found, cluster_uid),
                Decision::Join { cluster_uid, .. } => (Course::Join, cluster_uid),
                Decision::StartOver { why } => return Ok(Probe::Done(Choice::StartOver(why))),
                Decision::Wait { why } => return Ok(Probe::NotYet(why)),
                Decision::Refuse { why, remedy } => return Err(Error::refused(why).hint(remedy)),
            };
            return Ok(Probe::Done(Choice::Belong(Membership {
                cluster_uid,
                course,
            })));
        }
    }

    /// Observes, and tells the API balancer of the control planes that were seen.
    pub async fn observe(&self) -> Result<Observation> {
        let memory = self.runner.memory().await;
        let seen = look(&self.world, &self.me, memory, self.settings.join.port).await?;
        if let Some(membership) = &seen.membership
            && seen.settled.is_none()
            && let Some(settled) = seen.record.settled_record(&membership.cluster_uid)
        {
            self.runner.remember(settled).await?;
        }
        let servers = api_servers::seen(&self.me, &seen);
        let news = self.api_servers.send_if_modified(|known| {
            // Better a stale list than none: EC2's answers can be incomplete for a moment.
            let news = !servers.is_empty() && *known != servers;
            if news {
                known.clone_from(&servers);
            }
            news
        });
        if news {
            api_servers::remember(self.world.host.as_ref(), &servers).await?;
        }
        Ok(seen)
    }

    /// Writes what the store lacks of the record of this control plane's cluster: what it has lost
    /// of a settled one, and that a cluster which works without its founder is settled.
    pub async fn keep_record(&self, seen: &Observation) -> Result<()> {
        let Some(membership) = &seen.membership else {
            return Ok(());
        };
        if self.me.role != Role::ControlPlane {
            return Ok(());
        }
        let store = self.world.store.as_ref();
        let Some(settled) = seen.settled.as_ref() else {
            if seen.evidence.api {
                let settled = Settled {
                    cluster_uid: membership.cluster_uid.clone(),
                    instance: self.me.instance_id.clone(),
                    time: self.world.clock.now(),
                };
                record::settle(store, &settled).await?;
            }
            return Ok(());
        };
        let written = record::write_again(store, &seen.record, settled).await?;
        if written > 0 {
            warn!(
                "the store had lost {written} keys of cluster {}: they are written again",
                settled.cluster_uid()
            );
        }
        Ok(())
    }

    async fn claim(&self, number: u32, why: &str) -> Result<Created> {
        let claim = Claim::new(number, &self.me.instance_id, self.world.clock.now());
        let created = record::claim(self.world.store.as_ref(), &claim).await?;
        if created == Created::Yes {
            info!("claim {number} to found the cluster is ours, because {why}");
        }
        Ok(created)
    }
}

#[cfg(test)]
mod tests;
