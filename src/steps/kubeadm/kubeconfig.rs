//! Whether a kubeconfig file is complete and belongs to this cluster.

use std::path::PathBuf;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::pki;
use crate::error::{Context, Error};

/// How a kubeconfig proves its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Certificate and key are in the file.
    Embedded,
    /// The certificate is in a separate file.
    File(PathBuf),
}

/// Reads a kubeconfig; an error says what is wrong with it.
///
/// With `ca` the file must trust that certificate (PEM) and no other.
pub fn examine(text: &[u8], ca: Option<&[u8]>) -> Result<Credentials, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not text".to_owned())?;
    let file: Value =
        serde_saphyr::from_str(text).map_err(|_| "is not complete YAML".to_owned())?;
    let trusted = file["clusters"][0]["cluster"]["certificate-authority-data"]
        .as_str()
        .and_then(|data| BASE64_STANDARD.decode(data).ok())
        .ok_or("contains no cluster CA")?;
    if let Some(ca) = ca
        && der(&trusted).is_none_or(|trusted| Some(trusted) != der(ca))
    {
        return Err("trusts another CA than this cluster's".to_owned());
    }
    let user = &file["users"][0]["user"];
    if let Some(path) = user["client-certificate"].as_str() {
        return Ok(Credentials::File(path.into()));
    }
    for part in ["client-certificate-data", "client-key-data"] {
        user[part]
            .as_str()
            .and_then(|data| BASE64_STANDARD.decode(data).ok())
            .and_then(|pem| der(&pem))
            .ok_or_else(|| format!("has no complete {part}"))?;
    }
    Ok(Credentials::Embedded)
}

/// The administrator's kubeconfig for use elsewhere: `server` (`host:port`) replaces the node's own
/// loopback address. Clients verify the certificate for the name `kubernetes`, which every API
/// server's certificate has, so any address that leads there works.
pub fn for_people(admin: &[u8], server: &str) -> Result<String, Error> {
    let unreadable = || "the administrator's kubeconfig cannot be read".to_owned();
    let text = std::str::from_utf8(admin).requiring(unreadable)?;
    let mut file: Value = serde_saphyr::from_str(text).requiring(unreadable)?;
    if let Some(cluster) = file["clusters"][0]["cluster"].as_object_mut() {
        cluster.insert("server".to_owned(), format!("https://{server}").into());
        cluster.insert("tls-server-name".to_owned(), "kubernetes".into());
    }
    serde_saphyr::to_string(&file).requiring(unreadable)
}

fn der(pem: &[u8]) -> Option<Vec<u8>> {
    pki::pem(pem).map(|pem| pem.contents)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::testing;

    #[test]
    fn a_file_truncated_at_any_byte_is_never_accepted() {
        let pki = testing::Pki::new();
        let ca = pki.files["ca.crt"].clone();
        let whole = testing::kubeconfig(&ca);
        assert_eq!(
            examine(whole.as_bytes(), Some(&ca)),
            Ok(Credentials::Embedded)
        );
        // The last characters are the end of the key and white space.
        for end in 0..whole.trim_end().len() - 4 {
            assert!(
                examine(&whole.as_bytes()[..end], Some(&ca)).is_err(),
                "truncated at {end}"
            );
        }
    }

    #[test]
    fn a_file_of_an_earlier_attempt_is_recognized() {
        let old = testing::kubeconfig(&testing::Pki::new().files["ca.crt"]);
        let ca = testing::Pki::new().files["ca.crt"].clone();
        let error = examine(old.as_bytes(), Some(&ca)).unwrap_err();
        assert!(error.contains("another CA"), "{error}");
        assert_eq!(examine(old.as_bytes(), None), Ok(Credentials::Embedded));
    }

    #[test]
    fn a_rotating_certificate_is_named_by_its_file() {
        let pki = testing::Pki::new();
        let text = testing::rotating_kubeconfig(&pki.files["ca.crt"]);
        assert_eq!(
            examine(text.as_bytes(), None),
            Ok(Credentials::File(
                "/var/lib/kubelet/pki/kubelet-client-current.pem".into()
            ))
        );
    }

    #[test]
    fn people_get_a_reachable_address_and_the_same_credentials() {
        let pki = testing::Pki::new();
        let admin = testing::kubeconfig(&pki.files["ca.crt"]);
        let text = for_people(admin.as_bytes(), "10.42.0.10:6443").unwrap();
        let file: Value = serde_saphyr::from_str(&text).unwrap();
        let cluster = &file["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://10.42.0.10:6443");
        assert_eq!(cluster["tls-server-name"], "kubernetes");
        let ca = Some(pki.files["ca.crt"].as_slice());
        assert_eq!(examine(text.as_bytes(), ca), Ok(Credentials::Embedded));
        let before: Value = serde_saphyr::from_str(&admin).unwrap();
        assert_eq!(file["users"], before["users"]);
        assert!(for_people(b"\xff", "x:1").is_err());
    }
}
