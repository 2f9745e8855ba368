//! The certificates that requests to a member use.

use super::*;

#[tokio::test]
async fn renewed_certificates_are_used_at_once() {
    let stand = Stand::of(1).await;
    stand.on(0, "maintenance/status", 200, status("7", 9, 9));
    stand.etcd.leader().await.unwrap();
    let renewed = Authority::new();
    *stand.servers[0].tls.lock().unwrap() = renewed.server();
    let error = stand.etcd.leader().await.unwrap_err();
    assert!(
        error.one_line().contains("/v3/maintenance/status"),
        "{error}"
    );
    renewed.write(stand.folder.path());
    assert_eq!(stand.etcd.leader().await.unwrap(), Some(7));
}

#[tokio::test]
async fn a_machine_without_etcd_is_an_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let error = EtcdGateway::new(folder.path()).members().await.unwrap_err();
    assert!(
        error.one_line().contains("ca.crt does not exist"),
        "{error}"
    );
    assert!(error.remedy().unwrap().contains("control planes"));
    for name in ["ca.crt", "healthcheck-client.crt", "healthcheck-client.key"] {
        std::fs::write(folder.path().join(name), "nonsense").unwrap();
    }
    let error = EtcdGateway::new(folder.path()).members().await.unwrap_err();
    assert!(error.one_line().contains("cannot use "), "{error}");
}
