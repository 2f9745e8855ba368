//! A world of fakes with fixtures, for the tests of everything above the adapters.
//!
//! Tests on a fake that differs from the real service prove nothing, so each fake is as small as
//! possible and is checked against the real service if it can be:
//!
//! | fake | stands for | checked by |
//! |---|---|---|
//! | [`FakeHost`] | this machine | files are the real [`LocalHost`]'s in a folder; only the kernel is fake |
//! | [`MemoryStore`] | Parameter Store, a folder | [`promises`], which `FolderStore` passes too |
//! | [`FakeCommands`] | systemd, containerd, kubeadm, modprobe, swapoff | the end-to-end tests only |
//! | [`FakeCluster`] | the API server | the end-to-end tests only |
//! | [`FakeEtcd`] | etcd | the end-to-end tests only; its rules are those of `--strict-reconfig-check` |
//! | [`FakeCertificates`], [`FakeJoin`], [`FakePeers`] | the API server, join services, other control planes | the end-to-end tests only |
//! | [`FakeEc2`], [`FakeSts`], [`FakeDownloads`], [`FakeDns`], [`FakeMetadata`], [`FakeScaling`] | EC2, STS, download hosts, Route 53, the metadata service, Auto Scaling | scripted answers; the adapters' own tests have servers |
//! | [`FakeClock`] | the wall clock | tokio's paused time, which its sleeps follow |
//!
//! [`LocalHost`]: crate::adapters::host::LocalHost
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod clock;
mod cloud;
mod cluster;
mod commands;
mod etcd;
mod files;
mod host;
mod identity;
mod join;
mod log;
mod pki;
mod store;
mod world;

pub use agent::agent;
pub use clock::{FakeClock, StoppedClock};
pub use cloud::{FakeDns, FakeDownloads, FakeEc2, FakeMetadata, FakeScaling, running};
pub use cluster::{FakeCluster, not_ready, ready};
pub use commands::{FakeCommands, output};
pub use etcd::{FakeEtcd, sealed};
pub use files::Files;
pub use host::FakeHost;
pub use identity::{control_plane, identity, installable, machine, settings, worker};
pub use join::{FakeCertificates, FakeJoin, FakePeers, FakeSts};
pub use log::Log;
pub use pki::{Pki, kubeconfig, rotating_kubeconfig};
pub use store::{MemoryStore, promises};
pub use world::FakeWorld;
