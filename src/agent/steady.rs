//! The steady state: checks, repairs and reports the node until it leaves.

use std::{convert::Infallible, time::Duration};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{Agent, renewal};
use crate::{
    certificates::Inventory,
    error::{Error, Result},
    leader::{
        addons, dns, healing::Healing, issuer, left_nodes, maintenance::Maintenance,
        snapshots::Schedule,
    },
    plan::{self, decommission::Notice},
    ports::Role,
    report::Stage,
    snapshots::Subject,
    wait::{
        Every,
        schedules::{self, CYCLE, FULL_CHECK, HEALING},
    },
};

/// Workers of a large cluster observe their peers less often, so that all instances together make
/// about four calls a second. EC2 allows an account about twenty a second and throttles the rest.
const SHARE: Duration = Duration::from_millis(250);

/// How long a node of this role waits between observations if it loses no API server.
fn between_looks(role: Role, instances: usize) -> Duration {
    match role {
        Role::ControlPlane => CYCLE,
        Role::Worker => CYCLE.max(SHARE * u32::try_from(instances).unwrap_or(u32::MAX)),
    }
}

/// Logs the error and returns it as one line.
fn warned(error: &Error) -> String {
    let line = error.one_line();
    warn!(HINT = error.remedy(), "{line}");
    line
}

/// What ends the steady state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The node is about to end.
    Notice(Notice),
    /// The node's cluster was abandoned, for this reason.
    Abandoned(String),
}

impl Agent {
    fn every(&self, period: Duration) -> Every<'_> {
        Every::new(self.world.clock.as_ref(), period)
    }

    /// Checks, repairs drift and reports, until the node is about to end or has lost its cluster.
    pub async fn stay(&self) -> End {
        tokio::select! {
            notice = self.await_notice() => End::Notice(notice),
            Some(why) = self.until_abandoned() => End::Abandoned(why),
            never = self.look_after_node() => match never {},
            never = self.renew_certificates() => match never {},
            never = self.remove_left_nodes(), if self.me.role == Role::ControlPlane => match never {},
            never = self.reconcile_addons(), if self.me.role == Role::ControlPlane => match never {},
            never = self.heal_and_maintain(), if self.me.role == Role::ControlPlane => match never {},
            never = self.take_backups(), if self.me.role == Role::ControlPlane => match never {},
            never = self.publish_keys(), if self.me.role == Role::ControlPlane => match never {},
            never = self.reconcile_dns(), if self.me.role == Role::ControlPlane && self.settings.dns.enabled => match never {},
        }
    }

    /// Reports when certificates expire, and renews what is due on a control plane.
    async fn renew_certificates(&self) -> Infallible {
        let mut warnings = renewal::Warnings::default();
        let mut cycles = self.every(schedules::CERTIFICATES);
        loop {
            cycles.tick().await;
            let renewed = renewal::renew(&self.world, &self.runner, &self.settings, &self.me).await;
            let failed = renewed.err().map(|error| warned(&error));
            match Inventory::read(self.world.host.as_ref()).await {
                Ok(inventory) => {
                    let mut troubles = warnings.troubles(&inventory, self.world.clock.now());
                    troubles.extend(failed);
                    self.reporter.certificates(&inventory, troubles);
                }
                Err(error) => drop(warned(&error)),
            }
        }
    }

    /// A separate loop, so that a slow add-on does not delay the node's own checks.
    async fn reconcile_addons(&self) -> Infallible {
        let mut upkeep = addons::Upkeep::new(&self.settings, &self.me.instance_id);
        let mut cycles = self.every(CYCLE);
        loop {
            cycles.tick().await;
            match upkeep.cycle(&self.world).await {
                Ok(report) => self.reporter.addons(report),
                Err(error) => warn!(HINT = error.remedy(), "{}", error.one_line()),
            }
        }
    }

    /// Removes what dead instances left, so that successors can take their place, and maintains
    /// etcd. In one loop, so that no member is removed while another is being defragmented.
    async fn heal_and_maintain(&self) -> Infallible {
        let (mut healing, mut maintenance) = (Healing::default(), Maintenance::default());
        let mut cycles = self.every(HEALING);
        loop {
            cycles.tick().await;
            match healing.cycle(&self.world, &self.me).await {
                Ok(troubles) => self.reporter.troubles(troubles),
                Err(error) => warn!(HINT = error.remedy(), "{}", error.one_line()),
            }
            // Healing has just reported an etcd that does not answer.
            let report = maintenance.cycle(&self.world, &self.me).await.ok();
            if let Some(cluster) = report.as_ref().and_then(|report| report.cluster.clone())
                && let Err(error) = self
                    .runner
                    .change_journal(|journal| journal.etcd_cluster = Some(cluster))
                    .await
            {
                warn!(HINT = error.remedy(), "{}", error.one_line());
            }
            self.reporter.etcd(report);
        }
    }

    /// Deletes the Nodes of instances that have left.
    async fn remove_left_nodes(&self) -> Infallible {
        let mut cycles = self.every(schedules::LEFT_NODES);
        loop {
            cycles.tick().await;
            if let Err(error) = left_nodes::cycle(&self.world, &self.me.instance_id).await {
                warn!(HINT = error.remedy(), "{}", error.one_line());
            }
        }
    }

    /// A separate loop, and a more frequent one: clients wait for it.
    async fn reconcile_dns(&self) -> Infallible {
        let (me, cluster) = (&self.me.instance_id, &self.me.cluster);
        let mut cycles = self.every(schedules::DNS);
        let (mut said, mut written) = (None, None);
        loop {
            cycles.tick().await;
            let wish = &self.settings.dns;
            let report = dns::cycle(&self.world, me, cluster, wish, &mut written).await;
            let trouble = report.as_ref().and_then(|report| report.trouble.clone());
            if let Some(trouble) = trouble.as_ref().filter(|_| trouble != said) {
                warn!("{}: {trouble}", self.settings.dns.name);
            }
            said = trouble;
            self.reporter.dns(report);
        }
    }

    /// A separate loop: the bucket may be slow, or gone.
    async fn publish_keys(&self) -> Infallible {
        let wish = &self.settings.service_accounts;
        // Validation has already rejected an invalid place.
        let Ok(Some(place)) = wish.place() else {
            return std::future::pending().await;
        };
        let mut cycles = self.every(schedules::ISSUER);
        let (mut said, mut published) = (None, issuer::Published::new());
        loop {
            cycles.tick().await;
            let me = &self.me.instance_id;
            let report = issuer::cycle(&self.world, me, wish, &place, &mut published).await;
            let trouble = report.as_ref().and_then(|report| report.trouble.clone());
            if let Some(trouble) = trouble.as_ref().filter(|_| trouble != said) {
                warn!("{}: {trouble}", wish.issuer);
            }
            said = trouble;
            self.reporter.issuer(report);
        }
    }

    /// A separate loop: a large snapshot takes time.
    async fn take_backups(&self) -> Infallible {
        // Validation has already rejected an invalid destination.
        let Ok(Some(mut schedule)) = Schedule::new(&self.settings.snapshots) else {
            return std::future::pending().await;
        };
        let mut cycles = self.every(CYCLE);
        loop {
            cycles.tick().await;
            let Some(membership) = self.runner.membership().await else {
                continue;
            };
            let subject = Subject {
                cluster: &self.me.cluster,
                cluster_uid: &membership.cluster_uid,
                instance: &self.me.instance_id,
                kubernetes: &self.settings.kubernetes.version,
            };
            self.reporter
                .snapshots(schedule.cycle(&self.world, subject).await);
        }
    }

    /// Repairs and reports concurrently: a full check may download for minutes, and meanwhile the
    /// status must stay true and lost API servers be noticed.
    async fn look_after_node(&self) -> Infallible {
        let (unrepaired, news) = watch::channel(None);
        tokio::select! {
            never = self.repair_phases(&unrepaired) => never,
            never = self.report_condition(news) => never,
        }
    }

    async fn repair_phases(&self, unrepaired: &watch::Sender<Option<String>>) -> Infallible {
        let mut cycles = self.every(CYCLE);
        let mut full_check_due = self.world.clock.elapsed() + FULL_CHECK;
        loop {
            cycles.tick().await;
            let full = self.world.clock.elapsed() >= full_check_due;
            if full {
                full_check_due = self.world.clock.elapsed() + FULL_CHECK;
            }
            let trouble = self.repair(full).await;
            unrepaired.send_if_modified(|said| std::mem::replace(said, trouble.clone()) != trouble);
        }
    }

    async fn report_condition(
        &self,
        mut unrepaired: watch::Receiver<Option<String>>,
    ) -> Infallible {
        let mut cycles = self.every(CYCLE);
        let mut look_due = self.world.clock.elapsed();
        let (mut unseen, mut dead_before) = (None, 0);
        loop {
            tokio::select! {
                () = cycles.tick() => {}
                Ok(()) = unrepaired.changed() => {}
            }
            let dead = self.api_health.dead();
            let lost = dead > dead_before || self.api_health.all_dead();
            dead_before = dead;
            let now = self.world.clock.elapsed();
            if lost || now >= look_due {
                let seen = self.look_at_peers().await;
                let pause = seen
                    .as_ref()
                    .map_or(CYCLE, |peers| between_looks(self.me.role, *peers));
                // Half a cycle early, so that the tick at its end does not just miss it.
                look_due = (now + pause).saturating_sub(CYCLE / 2);
                unseen = seen.err();
            }
            let troubles = unseen.clone().into_iter();
            let troubles = troubles.chain(unrepaired.borrow_and_update().clone());
            let (stage, message) = self.look_at_node(troubles).await;
            self.reporter.stage(stage, message, self.world.clock.now());
        }
    }

    /// How many instances the cluster has, or why that is not known.
    async fn look_at_peers(&self) -> Result<usize, String> {
        let looked = async {
            let seen = self.observe().await?;
            self.repair_record(&seen).await?;
            Ok(seen.instances.len())
        };
        looked.await.map_err(|error| warned(&error))
    }

    /// The node's stage and message, with these troubles appended.
    ///
    /// The stage is the node's own condition. A problem of the agent, such as an EC2 API that does
    /// not answer, is only appended: it must not take a working node out of service. Nor must one
    /// that only a person can fix, such as a detached IAM role: without the agent the node would
    /// lose its API balancer.
    async fn look_at_node(&self, troubles: impl Iterator<Item = String>) -> (Stage, String) {
        let (stage, mut message) = self.condition().await;
        let troubles: Vec<String> = troubles.collect();
        if !troubles.is_empty() {
            message = format!("{message}; but {}", troubles.join("; "));
        }
        (stage, message)
    }

    /// Carries out the phases of each cycle, or with `full` all phases; returns what failed.
    async fn repair(&self, full: bool) -> Option<String> {
        let outcome = self.carry_out(full).await;
        outcome.err().map(|error| warned(&error))
    }

    async fn carry_out(&self, full: bool) -> Result<()> {
        let memory = self.runner.memory().await;
        let mut phases = plan::each_cycle(&self.settings, &self.me, memory.membership.as_ref())?;
        if full && memory.membership.is_some() {
            phases = plan::host(&self.settings, &self.me)?;
            phases.extend(plan::cluster(
                &self.settings,
                &self.me,
                &self.machine,
                &memory,
            )?);
        }
        let summary = self.runner.run(&phases).await?;
        if full && summary.done > 0 {
            info!("the full check repaired {} phases", summary.done);
        }
        Ok(())
    }

    async fn condition(&self) -> (Stage, String) {
        let node = &self.me.node_name;
        match self.world.cluster.node_ready(node).await {
            Ok(Some(condition)) if condition.ready => (
                Stage::Ready,
                format!(
                    "node {node} is Ready in cluster {}, Kubernetes {}",
                    self.me.cluster, self.settings.kubernetes.version
                ),
            ),
            Ok(Some(condition)) => (
                Stage::Degraded,
                format!("node {node} is not Ready: {}", condition.message),
            ),
            Ok(None) => (
                Stage::Degraded,
                format!("the cluster no longer has the node {node}"),
            ),
            Err(_) if self.api_health.all_dead() => {
                let servers = self.api_servers.borrow();
                let tried: Vec<String> = servers.iter().map(ToString::to_string).collect();
                let message = format!("no API server is ready: tried {}", tried.join(", "));
                (Stage::Degraded, message)
            }
            Err(error) => (Stage::Degraded, error.one_line()),
        }
    }
}

#[cfg(test)]
mod tests;
