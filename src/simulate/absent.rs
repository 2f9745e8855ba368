//! What a simulated instance does not have: each call fails with an error that says so.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;

use super::place::Place;
use crate::{
    error::{Error, Result},
    ports::{
        Caller, CertificateRequests, Dns, Download, Downloads, Hook, InstanceFacts, Metadata,
        Notices, Proof, RecordSet, Scaling, Sts,
    },
};

/// The error of a port that the simulation does not have.
pub fn absent<T>(what: &str) -> Result<T> {
    Err(Error::refused(format!("a simulation has no {what}")))
}

#[async_trait]
impl Dns for Place {
    async fn record(&self, _: &str, _: &str) -> Result<Option<RecordSet>> {
        absent("hosted zones")
    }

    async fn write(&self, _: &str, _: &str, _: &RecordSet) -> Result<()> {
        absent("hosted zones")
    }
}

#[async_trait]
impl Scaling for Place {
    async fn waiting_for(&self, _: &str) -> Result<Vec<Hook>> {
        absent("Auto Scaling hooks")
    }

    async fn complete(&self, _: &Hook, _: &str) -> Result<()> {
        absent("Auto Scaling hooks")
    }
}

#[async_trait]
impl CertificateRequests for Place {
    async fn waiting(&self) -> Result<BoxStream<'static, Result<()>>> {
        absent("requests for certificates")
    }

    async fn undecided(&self, _: &str) -> Result<Vec<Value>> {
        absent("requests for certificates")
    }

    async fn decide(&self, _: &Value) -> Result<bool> {
        absent("requests for certificates")
    }
}

#[async_trait]
impl Sts for Place {
    async fn prove(&self, _: &str, _: &str) -> Result<Proof> {
        absent("token service")
    }

    async fn identify(&self, _: &Proof) -> Result<Caller> {
        absent("token service")
    }
}

#[async_trait]
impl Metadata for Place {
    async fn facts(&self) -> Result<InstanceFacts> {
        absent("metadata service")
    }

    async fn tags(&self) -> Result<Option<BTreeMap<String, String>>> {
        absent("metadata service")
    }

    async fn vpc_networks(&self) -> Result<Vec<String>> {
        absent("metadata service")
    }

    async fn notices(&self) -> Result<Notices> {
        absent("metadata service")
    }

    async fn user_data(&self) -> Result<Option<Vec<u8>>> {
        absent("metadata service")
    }
}

#[async_trait]
impl Downloads for Place {
    async fn fetch(&self, download: &Download) -> Result<()> {
        absent(&download.url)
    }

    async fn text(&self, url: &str, _sha256: &str) -> Result<String> {
        absent(url)
    }
}
