//! The joiner's side.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{Client, Response, redirect::Policy};

use super::{SERVER_NAME, pin};
use crate::{
    adapters::http::USER_AGENT,
    error::{Context, Error, Result},
    join::service::{Admission, Application},
    kubernetes::ca::ca_cert_hash,
    ports::{Applicant, JoinServices, JoinTicket, Sts},
};

/// A nonce and a ticket are far smaller.
const LONGEST: usize = 32 << 10;

/// Sends requests to join services, with proofs signed by this instance's role.
pub struct JoinClient(Arc<dyn Sts>);

impl JoinClient {
    /// Uses this instance's own signatures.
    pub fn new(sts: Arc<dyn Sts>) -> Self {
        Self(sts)
    }
}

#[async_trait]
impl JoinServices for JoinClient {
    async fn ask(
        &self,
        server: SocketAddr,
        pin: &str,
        applicant: &Applicant,
    ) -> Result<JoinTicket> {
        let attempted = || format!("cannot join through {server}");
        let outcome = self.attempt(server, pin, applicant).await;
        outcome.map_err(|error| error.during(attempted()))
    }
}

impl JoinClient {
    async fn attempt(
        &self,
        server: SocketAddr,
        pin: &str,
        applicant: &Applicant,
    ) -> Result<JoinTicket> {
        let client = client(server, pin)?;
        let base = format!("https://{SERVER_NAME}:{}", server.port());
        let nonce = client.get(format!("{base}/nonce")).send().await;
        let nonce = accepted(nonce).await?;
        let application = Application {
            applicant: applicant.clone(),
            proof: self.0.prove(&nonce, &applicant.cluster).await?,
        };
        let body = serde_json::to_vec(&application)
            .attempting(|| "cannot serialize the application".to_owned())?;
        let answer = client.post(format!("{base}/join")).body(body).send().await;
        let answer = accepted(answer).await?;
        // serde_json's own message would quote the ticket.
        let admission: Admission = serde_json::from_str(&answer)
            .map_err(|_| Error::failed("the answer is not a join ticket"))?;
        if ca_cert_hash(admission.ca.as_bytes())? != pin {
            return Err(Error::failed(
                "the ticket's CA is not the one in the cluster's record",
            ));
        }
        Ok(JoinTicket {
            token: admission.token.into(),
            ca: admission.ca,
            certificate_key: admission.certificate_key.map(Into::into),
            expires: admission.expires,
        })
    }
}

/// For this server only: no proxy, no redirect, no name lookup.
pub(super) fn client(server: SocketAddr, pin: &str) -> Result<Client> {
    Client::builder()
        .user_agent(USER_AGENT)
        .tls_backend_preconfigured(pin::config(pin)?)
        .no_proxy()
        .redirect(Policy::none())
        .resolve(SERVER_NAME, server)
        .connect_timeout(Duration::from_secs(3))
        // For control planes, kubeadm uploads certificates during the call.
        .timeout(Duration::from_mins(1))
        .build()
        .attempting(|| "cannot set up the HTTP client for the join service".to_owned())
}

/// The body of a success; otherwise an error with the reason.
async fn accepted(answer: reqwest::Result<Response>) -> Result<String> {
    let mut answer = answer
        .map_err(reqwest::Error::without_url)
        .attempting(|| "no answer".to_owned())?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(part) = answer
        .chunk()
        .await
        .map_err(reqwest::Error::without_url)
        .attempting(|| "the answer was interrupted".to_owned())?
    {
        body.extend_from_slice(&part);
        if body.len() > LONGEST {
            return Err(Error::failed("the answer is too long"));
        }
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    if status == 200 {
        return Ok(text);
    }
    let reason: String = text.trim().chars().take(300).collect();
    Err(Error::failed(format!("refused ({status}): {reason}")))
}
