#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::testing::{self, FakeWorld};

#[test]
fn the_hash_is_that_of_the_public_key_alone() {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData};
    let key = KeyPair::generate().unwrap();
    // `openssl x509 -pubkey | openssl pkey -pubin -outform der | sha256sum` digests these bytes.
    let expected = format!(
        "sha256:{}",
        hex::encode(Sha256::digest(key.subject_public_key_info()))
    );
    for name in ["kubernetes", "renewed"] {
        let certificate = CertificateParams::new([name.to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        assert_eq!(
            ca_cert_hash(certificate.pem().as_bytes()).unwrap(),
            expected
        );
    }
    assert!(ca_cert_hash(b"-----BEGIN").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_workers_ticket_is_a_token_in_the_api_and_comes_back_from_the_store() {
    let fake = FakeWorld::new();
    fake.files
        .put(paths::CA, &testing::Pki::new().files["ca.crt"]);
    let world = fake.ports();
    let ticket = mint(&world, Role::Worker, Duration::from_hours(2))
        .await
        .unwrap();

    let applied = fake.cluster.applied();
    let data = &applied[0].1[0]["stringData"];
    let token = format!(
        "{}.{}",
        data["token-id"].as_str().unwrap(),
        data["token-secret"].as_str().unwrap()
    );
    assert_eq!(ticket.token.expose_secret(), token);
    assert_eq!(token.len(), 23);
    assert_eq!(data["expiration"], "2026-11-23T14:00:00Z");
    assert_eq!(
        applied[0].1[0]["metadata"]["name"],
        format!("bootstrap-token-{}", &token[..6])
    );
    assert!(!format!("{ticket:?}").contains(&token));

    ticket.publish(&world, Role::Worker).await.unwrap();
    let read = JoinTicket::fetch(&world, Role::Worker)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.token.expose_secret(), token);
    assert_eq!(read.ca_cert_hash, ticket.ca_cert_hash);
    assert!(read.certificate_key.is_none());
    assert!(
        JoinTicket::fetch(&world, Role::ControlPlane)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_control_planes_ticket_carries_the_certificate_key() {
    let fake = FakeWorld::new();
    fake.files
        .put(paths::CA, &testing::Pki::new().files["ca.crt"]);
    let key = "ab".repeat(32);
    let said = format!("[upload-certs] Using certificate key:\n{key}\n");
    fake.on("kubeadm init phase upload-certs", move |_, _| {
        testing::output(0, &said, "")
    });
    let ticket = mint(&fake.ports(), Role::ControlPlane, TICKET_TTL)
        .await
        .unwrap();
    assert_eq!(ticket.certificate_key.unwrap().expose_secret(), key);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_ticket_is_reported_without_its_content() {
    let fake = FakeWorld::new();
    let world = fake.ports();
    let secret = SecretString::from(r#"{"token": "abcdef.secretsecret", "expires": 7}"#.to_owned());
    world
        .store
        .put_secret("join/worker", &secret)
        .await
        .unwrap();
    let error = JoinTicket::fetch(&world, Role::Worker).await.unwrap_err();
    assert!(error.one_line().contains("join/worker"), "{error}");
    assert!(!error.to_string().contains("secretsecret"));
}
