#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use super::*;
use crate::{
    adapters::{
        aws::{CredentialSource, endpoint::Endpoints},
        http::Clients,
        imds::RoleCredentials,
        store::S3Store,
    },
    ports::Store,
    testing::{StoppedClock, promises},
};

struct Keys;

#[async_trait]
impl CredentialSource for Keys {
    async fn current(&self) -> Result<Arc<RoleCredentials>> {
        Ok(Arc::new(RoleCredentials {
            role: "node-role".into(),
            access_key_id: "AKIA0".into(),
            secret_access_key: "s3cret".into(),
            session_token: Some("t0ken".into()),
            expires: "2027-01-01T00:00:00Z".parse().unwrap(),
        }))
    }

    async fn forget(&self) {}
}

/// An in-memory bucket with the relevant part of the protocol; two keys per page.
#[derive(Default)]
struct Bucket {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// How many requests are first answered with 503.
    busy: AtomicUsize,
    /// The timestamp that a request must have, and the same time as in the header `Date`.
    time: Mutex<Option<(&'static str, &'static str)>>,
    /// The keys with which objects were encrypted, if the requests named and signed them.
    encrypted: Mutex<BTreeMap<String, String>>,
    /// How documents were written: type and encryption.
    documents: Mutex<BTreeMap<String, [String; 2]>>,
    /// The answer to every request.
    refusal: Mutex<Option<(u16, &'static str)>>,
}

fn error(status: u16, code: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_string(format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>said so</Message><RequestId>1</RequestId></Error>"
    ))
}

impl Bucket {
    fn answer(&self, request: &wiremock::Request) -> ResponseTemplate {
        if let Some((status, code)) = *self.refusal.lock().unwrap() {
            return error(status, code);
        }
        if self.busy.load(Ordering::SeqCst) > 0 {
            self.busy.fetch_sub(1, Ordering::SeqCst);
            return error(503, "SlowDown");
        }
        if let Some((stamp, date)) = *self.time.lock().unwrap()
            && request.headers["x-amz-date"] != stamp
        {
            return error(403, "RequestTimeTooSkewed").insert_header("date", date);
        }
        let header = |name: &str| {
            let value = request.headers.get(name);
            value.map_or("", |value| value.to_str().unwrap())
        };
        let digest = hex::encode(Sha256::digest(&request.body));
        let signed = header("authorization");
        if header("x-amz-content-sha256") != digest
            || !signed.contains("/eu-central-1/s3/aws4_request")
            || !signed.contains("x-amz-content-sha256")
        {
            return error(403, "SignatureDoesNotMatch");
        }
        let Some(key) = request.url.path().strip_prefix("/backups/") else {
            return error(404, "NoSuchBucket");
        };
        let mut objects = self.objects.lock().unwrap();
        match request.method.as_str() {
            "GET" if key.is_empty() => list(&objects, request),
            "GET" => match objects.get(key) {
                Some(content) => ResponseTemplate::new(200).set_body_bytes(content.clone()),
                None => error(404, "NoSuchKey"),
            },
            "PUT" if header("if-none-match") == "*" && objects.contains_key(key) => {
                error(412, "PreconditionFailed")
            }
            "PUT" if header("content-length") != request.body.len().to_string() => {
                error(411, "MissingContentLength")
            }
            "PUT" => {
                let name = "x-amz-server-side-encryption-aws-kms-key-id";
                if header("x-amz-server-side-encryption") == "aws:kms" && signed.contains(name) {
                    let mut encrypted = self.encrypted.lock().unwrap();
                    encrypted.insert(key.to_owned(), header(name).to_owned());
                }
                if header("if-none-match").is_empty() {
                    let how = ["content-type", "x-amz-server-side-encryption"];
                    let how = how.map(|name| header(name).to_owned());
                    let mut documents = self.documents.lock().unwrap();
                    documents.insert(key.to_owned(), how);
                }
                objects.insert(key.to_owned(), request.body.clone());
                ResponseTemplate::new(200)
            }
            "DELETE" => {
                objects.remove(key);
                ResponseTemplate::new(204)
            }
            _ => error(405, "MethodNotAllowed"),
        }
    }
}

fn list(objects: &BTreeMap<String, Vec<u8>>, request: &wiremock::Request) -> ResponseTemplate {
    let query: BTreeMap<_, _> = request.url.query_pairs().into_owned().collect();
    let after = query.get("continuation-token");
    let keys: Vec<&String> = objects
        .keys()
        .filter(|key| key.starts_with(&query["prefix"]))
        .filter(|key| after.is_none_or(|after| format!("=/+{key}") > *after))
        .collect();
    let contents: String = keys
        .iter()
        .take(2)
        .map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>"))
        .collect();
    let next = match keys.get(1) {
        Some(last) if keys.len() > 2 => {
            format!("<NextContinuationToken>=/+{last}</NextContinuationToken>")
        }
        _ => String::new(),
    };
    ResponseTemplate::new(200).set_body_string(format!(
        "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>backups</Name>{contents}{next}</ListBucketResult>"
    ))
}

struct Stand {
    bucket: Arc<Bucket>,
    s3: S3,
    folder: tempfile::TempDir,
    _server: MockServer,
}

impl Stand {
    async fn new() -> Self {
        let server = MockServer::start().await;
        let bucket = Arc::new(Bucket::default());
        let answering = bucket.clone();
        Mock::given(any())
            .respond_with(move |request: &wiremock::Request| answering.answer(request))
            .mount(&server)
            .await;
        let endpoints = Endpoints::with_override("eu-central-1", Some(&server.uri())).unwrap();
        let clock = StoppedClock::showing("2026-01-01T00:00:00Z");
        let aws = Aws::new(&Clients::new().unwrap(), endpoints, Arc::new(Keys), clock).unwrap();
        Self {
            bucket,
            s3: S3::new(Arc::new(aws)),
            folder: tempfile::tempdir().unwrap(),
            _server: server,
        }
    }

    fn file(&self, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        path
    }

    async fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        self.s3.put("backups", key, &self.file(content)).await
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>> {
        let path = self.folder.path().join("fetched");
        self.s3.get("backups", key, &path).await?;
        Ok(std::fs::read(path).unwrap())
    }
}

#[tokio::test]
async fn an_object_is_read_back_and_never_overwritten() {
    let stand = Stand::new().await;
    let content = vec![7; 300_000];
    stand.put("prod/uid/one.db", &content).await.unwrap();
    stand.put("prod/uid/one.db", b"other").await.unwrap();
    assert_eq!(stand.get("prod/uid/one.db").await.unwrap(), content);
    stand.put("empty", b"").await.unwrap();
    assert_eq!(stand.get("empty").await.unwrap(), b"");
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_from_the_answer() {
    let stand = Stand::new().await;
    let theirs = ("20260101T010000Z", "Thu, 01 Jan 2026 01:00:00 GMT");
    *stand.bucket.time.lock().unwrap() = Some(theirs);
    stand.put("one", b"content").await.unwrap();
    assert_eq!(stand.get("one").await.unwrap(), b"content");
    // A clock that nothing can correct is an error, not a loop.
    *stand.bucket.time.lock().unwrap() = Some(("20260101T020000Z", theirs.1));
    let error = stand.get("one").await.unwrap_err();
    assert!(error.one_line().contains("RequestTimeTooSkewed"), "{error}");
}

#[tokio::test]
async fn objects_are_encrypted_with_the_configured_key() {
    let mut stand = Stand::new().await;
    stand.put("plain", b"1").await.unwrap();
    let key = "arn:aws:kms:eu-central-1:123456789012:key/abc";
    stand.s3 = stand
        .s3
        .clone()
        .encrypting(Encryption::WithKey(key.to_owned()));
    stand.put("secret", b"2").await.unwrap();
    assert_eq!(stand.get("secret").await.unwrap(), b"2");
    let encrypted = stand.bucket.encrypted.lock().unwrap().clone();
    assert_eq!(encrypted, [("secret".to_owned(), key.to_owned())].into());
}

#[tokio::test]
async fn a_document_is_replaced_and_never_encrypted_with_a_key_of_kms() {
    let mut stand = Stand::new().await;
    stand.s3 = stand
        .s3
        .clone()
        .encrypting(Encryption::WithKey("alias/backups".to_owned()));
    for document in ["{\"keys\": []}", "{\"keys\": [1]}"] {
        stand
            .s3
            .publish("backups", "openid/v1/jwks", document)
            .await
            .unwrap();
        let read = stand.s3.read("backups", "openid/v1/jwks").await.unwrap();
        assert_eq!(read.as_deref(), Some(document.as_bytes()));
    }
    assert!(stand.bucket.encrypted.lock().unwrap().is_empty());
    let documents = stand.bucket.documents.lock().unwrap().clone();
    assert_eq!(
        documents["openid/v1/jwks"],
        ["application/json", "AES256"].map(str::to_owned)
    );
}

#[tokio::test]
async fn a_listing_has_all_pages_and_removal_can_be_repeated() {
    let stand = Stand::new().await;
    for key in ["p/5", "p/1", "p/3", "p/2", "p/4", "q/1"] {
        stand.put(key, key.as_bytes()).await.unwrap();
    }
    let listed = async || stand.s3.list("backups", "p/").await.unwrap();
    assert_eq!(listed().await, ["p/1", "p/2", "p/3", "p/4", "p/5"]);
    for _ in 0..2 {
        stand.s3.delete("backups", "p/3").await.unwrap();
    }
    assert_eq!(listed().await, ["p/1", "p/2", "p/4", "p/5"]);
    assert!(
        stand
            .s3
            .list("backups", "nothing/")
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_request_to_a_busy_bucket_is_retried_with_the_whole_file() {
    let stand = Stand::new().await;
    stand.bucket.busy.store(2, Ordering::SeqCst);
    stand.put("one", b"whole").await.unwrap();
    assert_eq!(stand.get("one").await.unwrap(), b"whole");
}

#[tokio::test]
async fn a_refusal_names_bucket_action_and_remedy() {
    let stand = Stand::new().await;
    for (status, code, remedy) in [
        (
            404,
            "NoSuchBucket",
            "create the bucket backups in eu-central-1",
        ),
        (
            403,
            "AccessDenied",
            "s3:PutObject on the bucket backups for the IAM role node-role",
        ),
        (301, "PermanentRedirect", "is not in eu-central-1"),
    ] {
        *stand.bucket.refusal.lock().unwrap() = Some((status, code));
        let error = stand.put("one", b"x").await.unwrap_err();
        let line = error.one_line();
        assert!(line.contains("s3:PutObject on s3://backups/one"), "{line}");
        assert!(line.contains(code), "{line}");
        assert!(error.remedy().unwrap().contains(remedy), "{error}");
    }
}

#[tokio::test]
async fn a_missing_object_leaves_no_file() {
    let stand = Stand::new().await;
    let error = stand.get("nothing").await.unwrap_err();
    assert!(error.one_line().contains("NoSuchKey"), "{error}");
    assert!(!stand.folder.path().join("fetched").exists());
}

#[tokio::test]
async fn a_bucket_fulfils_the_contract_of_a_store() {
    let stand = Stand::new().await;
    let store = S3Store::new(stand.s3.clone(), "backups", "/k8s-bootstrap", "prod");
    promises(&store).await;
    stand.bucket.busy.store(1, Ordering::SeqCst);
    store.create("founder/7", "one").await.unwrap();
    assert!(
        stand
            .bucket
            .objects
            .lock()
            .unwrap()
            .contains_key("k8s-bootstrap/prod/founder/7")
    );
}
