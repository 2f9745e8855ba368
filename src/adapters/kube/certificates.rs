//! `CertificateSigningRequest`s.

use async_trait::async_trait;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::Value;

use super::{KubeCluster, apply::MANAGER};
use crate::{
    error::{Context, Result},
    ports::CertificateRequests,
};

#[async_trait]
impl CertificateRequests for KubeCluster {
    async fn undecided(&self, signer: &str) -> Result<Vec<Value>> {
        let what = format!("list CertificateSigningRequests for {signer}");
        let of_signer = ListParams::default().fields(&format!("spec.signerName={signer}"));
        let found = self
            .ask(&what, async |client| {
                Api::<CertificateSigningRequest>::all(client)
                    .list(&of_signer)
                    .await
            })
            .await?;
        found
            .items
            .into_iter()
            .filter(|request| {
                let status = request.status.as_ref();
                status.is_none_or(|s| s.conditions.as_ref().is_none_or(Vec::is_empty))
            })
            .map(|request| serde_json::to_value(request).attempting(|| what.clone()))
            .collect()
    }

    async fn decide(&self, request: &Value) -> Result<bool> {
        let name = request["metadata"]["name"].as_str().unwrap_or_default();
        let what = format!("decide on CertificateSigningRequest {name}");
        self.ask(&what, async |client| {
            let params = PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..Default::default()
            };
            let requests = Api::<CertificateSigningRequest>::all(client);
            let written = requests
                .replace_subresource("approval", name, &params, request)
                .await;
            match written {
                Ok(_) => Ok(true),
                // 409: somebody else has decided. 404: it is gone.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }
}
