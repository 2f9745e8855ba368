#![allow(clippy::unwrap_used)]

use secrecy::ExposeSecret;

use super::*;
use crate::testing::{self, FakeWorld};

#[test]
fn the_hash_covers_only_the_public_key() {
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
    assert_eq!(key_hash(b"no certificate"), None);
}

#[tokio::test(start_paused = true)]
async fn the_key_of_uploaded_certificates_is_read_from_kubeadms_output() {
    let key = upload_certificates(&FakeWorld::founded().ports()).await;
    assert_eq!(key.unwrap().expose_secret(), "ab".repeat(32));

    let silent = FakeWorld::new();
    silent.on("kubeadm init phase upload-certs", |_, _| {
        testing::output(0, "[upload-certs] done\n", "")
    });
    let error = upload_certificates(&silent.ports()).await.unwrap_err();
    assert!(
        error.one_line().contains("printed no certificate key"),
        "{error}"
    );
}
