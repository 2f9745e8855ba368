//! The user-data's script, run in a shell. A temporary folder replaces its /usr/local/bin, and it
//! downloads a script that records how it was called; the rest is as shipped.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use k8s_bootstrap::user_data::form;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{header, method, path},
};

const AGENT: &str = "#!/bin/sh\necho \"$0 $*\" > \"$(dirname \"$0\")/called\"\n";

/// The outcome of one run: the script's output and the folder for programs.
struct Boot {
    folder: TempDir,
    succeeded: bool,
    said: String,
}

impl Boot {
    async fn with(server: &MockServer, sha256: &str) -> Self {
        Self::from(server, &["/agent"], sha256).await
    }

    /// Runs the script with these download paths; the first one that has the agent is used.
    async fn from(server: &MockServer, paths: &[&str], sha256: &str) -> Self {
        let urls: Vec<String> = paths.iter().map(|at| server.uri() + at).collect();
        Self::of(form(&urls, sha256, None, &[], &[]).unwrap()).await
    }

    /// Runs this script.
    async fn of(script: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        assert!(script.contains("/usr/local/bin/"), "{script}");
        let output = tokio::process::Command::new("sh")
            .args(["-c", &script.replace("/usr/local/bin", here)])
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        Self {
            succeeded: output.status.success(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            folder,
        }
    }

    /// The files in the folder, hidden ones included.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}

fn digest() -> String {
    hex::encode(Sha256::digest(AGENT))
}

#[tokio::test]
async fn the_agent_is_downloaded_verified_and_installed() {
    let server = MockServer::start().await;
    Mock::given(path("/agent"))
        .respond_with(ResponseTemplate::new(200).set_body_string(AGENT))
        .expect(1)
        .mount(&server)
        .await;
    let boot = Boot::with(&server, &digest()).await;
    assert!(boot.succeeded, "{}", boot.said);
    assert_eq!(boot.files(), ["called", "k8s-bootstrap"]);
    let agent = boot.path("k8s-bootstrap");
    let mode = std::fs::metadata(&agent).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(
        std::fs::read_to_string(boot.path("called")).unwrap(),
        format!("{} install\n", agent.display())
    );
}

#[tokio::test]
async fn a_file_with_the_wrong_digest_is_never_run_and_the_right_one_is() {
    let server = MockServer::start().await;
    let another = AGENT.replace("called", "unverified");
    Mock::given(path("/agent"))
        .respond_with(ResponseTemplate::new(200).set_body_string(another))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(path("/agent"))
        .respond_with(ResponseTemplate::new(200).set_body_string(AGENT))
        .mount(&server)
        .await;
    let boot = Boot::with(&server, &digest()).await;
    assert!(boot.succeeded, "{}", boot.said);
    assert!(boot.said.contains("next attempt in 1 s: "), "{}", boot.said);
    assert!(boot.said.contains("did NOT match"), "{}", boot.said);
    assert_eq!(boot.files(), ["called", "k8s-bootstrap"]);
}

#[tokio::test]
async fn the_second_url_is_used_if_the_first_has_the_wrong_file_or_none() {
    for first in [404, 200] {
        let server = MockServer::start().await;
        Mock::given(path("/first"))
            .respond_with(ResponseTemplate::new(first).set_body_string("a login page"))
            .expect(1)
            .mount(&server)
            .await;
        Mock::given(path("/second"))
            .respond_with(ResponseTemplate::new(200).set_body_string(AGENT))
            .mount(&server)
            .await;
        let boot = Boot::from(&server, &["/first", "/second"], &digest()).await;
        assert!(boot.succeeded, "{}", boot.said);
        assert_eq!(boot.said, "");
        assert_eq!(boot.files(), ["called", "k8s-bootstrap"]);
    }
}

#[tokio::test]
async fn a_server_that_fails_at_first_is_retried() {
    let server = MockServer::start().await;
    Mock::given(path("/agent"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(path("/agent"))
        .respond_with(ResponseTemplate::new(200).set_body_string(AGENT))
        .mount(&server)
        .await;
    let boot = Boot::with(&server, &digest()).await;
    assert!(boot.succeeded, "{}", boot.said);
    // cloud-init forwards it to the console, which can be read after the instance is gone.
    assert!(boot.said.starts_with("user-data: "), "{}", boot.said);
    assert!(boot.said.contains("503"), "{}", boot.said);
    assert_eq!(boot.files(), ["called", "k8s-bootstrap"]);
}

/// A metadata service that fails once, and a bucket's answer, on one server.
async fn region_with_the_agent_in_a_bucket() -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("PUT"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(method("PUT"))
        .and(path("/latest/api/token"))
        .and(header("X-aws-ec2-metadata-token-ttl-seconds", "60"))
        .respond_with(ResponseTemplate::new(200).set_body_string("TOKEN"))
        .mount(&server)
        .await;
    let role = "iam/security-credentials/";
    let keys = r#"{"Code": "Success", "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "secret/+", "Token": "session/+=="}"#;
    for (at, answer) in [
        ("placement/region", "eu-central-1"),
        ("services/domain", "amazonaws.com"),
        (role, "nodes\n"),
        (&format!("{role}nodes"), keys),
    ] {
        Mock::given(path(format!("/latest/meta-data/{at}")))
            .and(header("X-aws-ec2-metadata-token", "TOKEN"))
            .respond_with(ResponseTemplate::new(200).set_body_string(answer))
            .mount(&server)
            .await;
    }
    Mock::given(path("/releases/v1/my%20agent"))
        .respond_with(ResponseTemplate::new(200).set_body_string(AGENT))
        .expect(1)
        .mount(&server)
        .await;
    server
}

#[tokio::test]
async fn an_object_of_a_bucket_is_downloaded_with_the_instances_role() {
    let server = region_with_the_agent_in_a_bucket().await;
    let url = "s3://releases/v1/my agent".to_owned();
    let script = form(&[url], &digest(), None, &[], &[]).unwrap();
    // The signature is for the bucket's own host; only the connections go elsewhere.
    let script = script.replace("http://169.254.169.254", &server.uri());
    let script = script.replace("\"https://\" + host", &format!("\"{}\"", server.uri()));
    let boot = Boot::of(script).await;
    assert!(boot.succeeded, "{}", boot.said);
    assert_eq!(
        boot.said,
        "user-data: k8s-bootstrap is not there yet, next attempt in 1 s: \
         cannot sign s3://releases/v1/my agent: HTTP Error 503: Service Unavailable\n"
    );
    assert_eq!(boot.files(), ["called", "k8s-bootstrap"]);

    let requests = server.received_requests().await.unwrap();
    let asked = &requests.last().unwrap().url;
    let said = |name: &str| {
        let mut pairs = asked.query_pairs();
        let found = pairs.find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).unwrap()
    };
    let date: jiff::Timestamp = said("X-Amz-Date").parse().unwrap();
    let identity = Credentials::new(
        "ASIAEXAMPLE",
        "secret/+",
        Some("session/+==".to_owned()),
        None,
        "test",
    )
    .into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(std::time::Duration::from_mins(10));
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region("eu-central-1")
        .name("s3")
        .time(date.into())
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let signed = sign(
        SignableRequest::new(
            "GET",
            "https://s3.eu-central-1.amazonaws.com/releases/v1/my%20agent",
            std::iter::empty(),
            SignableBody::UnsignedPayload,
        )
        .unwrap(),
        &parameters,
    )
    .unwrap();
    assert_eq!(said("X-Amz-Signature"), signed.signature());
}
