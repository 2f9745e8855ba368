//! etcd's own tool for its data, run in a container of etcd's image: the format on disk is etcd's
//! own concern.

use std::{path::Path, time::Duration};

use super::{Purpose, WORK};
use crate::{
    config::Settings,
    error::Result,
    identity::Identity,
    ports::{Command, World},
    steps::{Step, host::Images},
    wait::Notes,
};

/// containerd's client, installed when the host was prepared.
const CTR: &str = "/usr/local/bin/ctr";

/// Added to etcd's revision, so that every revision that a client saw after the snapshot is in the
/// past. <https://etcd.io/docs/v3.6/op-guide/recovery/>
const BUMP: &str = "1000000000";

/// etcd's image; already on this machine.
pub async fn image(world: &World, settings: &Settings) -> Result<String> {
    let kubernetes = &settings.kubernetes;
    let image = format!(
        "{}/etcd:{}",
        kubernetes.image_repository, kubernetes.etcd_tag
    );
    let pulled = Images {
        images: vec![image.clone()],
        deadline: settings.deadlines.download,
    };
    pulled.apply(world, &Notes::unread()).await?;
    Ok(image)
}

/// The tool, with a folder that it may write to.
pub struct Etcdutl<'a> {
    /// The world that it runs in.
    pub world: &'a World,
    /// etcd's image, which contains etcdutl.
    pub image: &'a str,
    /// The container's name, by which one that an interrupted run left is found.
    pub container: &'a str,
    /// The folder that it may write to.
    pub folder: &'a str,
}

impl Etcdutl<'_> {
    /// Removes the container of an interrupted run.
    pub async fn clear_way(&self) -> Result<()> {
        for left in [&["tasks", "rm", "--force"][..], &["containers", "rm"]] {
            let remove = [&["--namespace", "k8s.io"], left, &[self.container]].concat();
            // Usually nothing is left.
            let _ = self.world.commands.run(Command::new(CTR, remove)).await?;
        }
        Ok(())
    }

    /// Makes the data of a cluster with only this node's member from the snapshot.
    pub async fn restore(&self, me: &Identity, purpose: Purpose, data: &str) -> Result<()> {
        let peer = format!("https://{}:2380", me.private_ip);
        let cluster = format!("{}={peer}", me.node_name);
        self.run(&[
            "snapshot",
            "restore",
            &purpose.data().display().to_string(),
            "--data-dir",
            data,
            "--name",
            &me.node_name,
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            &peer,
            "--bump-revision",
            BUMP,
            "--mark-compacted",
        ])
        .await
        .map(drop)
    }

    /// Reads a whole database; returns the tool's JSON about it.
    pub async fn status(&self, database: &Path) -> Result<String> {
        let database = database.display().to_string();
        self.run(&["snapshot", "status", &database, "--write-out", "json"])
            .await
    }

    async fn run(&self, args: &[&str]) -> Result<String> {
        let from = format!("type=bind,src={WORK},dst={WORK},options=rbind:ro");
        let to = format!("type=bind,src={0},dst={0},options=rbind:rw", self.folder);
        let container = [
            "--namespace",
            "k8s.io",
            "run",
            "--rm",
            "--mount",
            &from,
            "--mount",
            &to,
            self.image,
            self.container,
            "/usr/local/bin/etcdutl",
        ];
        run(self.world, CTR, &[&container, args].concat()).await
    }
}

/// Runs a program and returns its output.
pub async fn run(world: &World, program: &str, args: &[&str]) -> Result<String> {
    let command = Command::new(program, args.iter().copied()).within(Duration::from_mins(10));
    Ok(world.commands.succeed(command).await?.stdout)
}
