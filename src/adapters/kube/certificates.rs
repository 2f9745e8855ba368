//! `CertificateSigningRequest`s.

use std::future::ready;

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api,
    api::{ListParams, PostParams},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::Value;

use super::{KubeCluster, apply::MANAGER};
use crate::{
    error::{Context, Error, Result},
    ports::CertificateRequests,
};

/// How long one watch lasts, in seconds: less than the limit for a silent connection. The next
/// watch continues where it ended.
const WATCH_SECONDS: u32 = 45;

fn is_undecided(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    status.is_none_or(|s| s.conditions.as_ref().is_none_or(Vec::is_empty))
}

/// The notice for an event of the watch, if any.
fn notice(event: watcher::Result<Event<CertificateSigningRequest>>) -> Option<Result<()>> {
    match event {
        Ok(Event::Apply(request) | Event::InitApply(request)) => {
            is_undecided(&request).then_some(Ok(()))
        }
        Ok(_) => None,
        Err(error) => Some(Err(Error::failed(
            "cannot watch CertificateSigningRequests",
        )
        .because(&error))),
    }
}

#[async_trait]
impl CertificateRequests for KubeCluster {
    async fn waiting(&self) -> Result<BoxStream<'static, Result<()>>> {
        let requests = Api::<CertificateSigningRequest>::all(self.connection.client().await?);
        let events = watcher(requests, watcher::Config::default().timeout(WATCH_SECONDS));
        Ok(events.filter_map(|event| ready(notice(event))).boxed())
    }

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
            .filter(is_undecided)
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
                // 409: somebody else has decided. 404: it has been deleted.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kube::Client;
    use serde_json::json;
    use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

    use super::*;

    fn request(name: &str, conditions: &Value) -> Value {
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name, "resourceVersion": "2"},
            "spec": {"request": "", "signerName": "example.com/signer"},
            "status": {"conditions": conditions},
        })
    }

    #[tokio::test]
    async fn pending_and_new_requests_are_announced_until_the_watch_is_refused() {
        let approved = json!([{"type": "Approved", "status": "True"}]);
        let list = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequestList",
            "metadata": {"resourceVersion": "1"},
            "items": [request("decided", &approved), request("waits", &json!([]))],
        });
        let events = [
            json!({"type": "MODIFIED", "object": request("decided", &approved)}),
            json!({"type": "ADDED", "object": request("comes", &json!([]))}),
        ];
        let watched = format!("{}\n{}\n", events[0], events[1]);
        let server = MockServer::start().await;
        Mock::given(any())
            .respond_with(move |asked: &Request| {
                let query = asked.url.query().unwrap_or_default();
                if !query.contains("watch=true") {
                    ResponseTemplate::new(200).set_body_json(&list)
                } else if query.contains("resourceVersion=1") {
                    ResponseTemplate::new(200).set_body_string(&*watched)
                } else {
                    ResponseTemplate::new(403).set_body_json(json!({
                        "kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "code": 403, "reason": "Forbidden", "message": "not for you",
                    }))
                }
            })
            .mount(&server)
            .await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new(server.uri().parse().unwrap());
        let cluster = KubeCluster::with_client(Client::try_from(config).unwrap());
        let mut waiting = cluster.waiting().await.unwrap();
        for _ in 0..2 {
            waiting.next().await.unwrap().unwrap();
        }
        let refused = waiting.next().await.unwrap().unwrap_err();
        assert!(refused.one_line().contains("not for you"), "{refused}");
    }
}
