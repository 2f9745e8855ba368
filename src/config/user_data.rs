//! The agent's part of the user-data.

use std::io::Read;

use mail_parser::{MessageParser, MimeHeaders};

use super::Fragment;
use crate::error::{Context, Error, Result};

/// The MIME type of a part that holds settings for the agent.
pub const MIME_TYPE: &str = "application/vnd.k8s-bootstrap.config+toml";

/// EC2 allows 16 KB before base64; decompressed it may be larger, up to this many bytes.
const LARGEST: u64 = 1 << 20;

/// The settings in the user-data: every part of our type, in order.
///
/// User-data in any other form (a script, cloud-config, nothing) has none.
pub fn fragments(user_data: &[u8]) -> Result<Vec<Fragment>> {
    let plain = unpacked(user_data)?;
    // cloud-init decides the same way: only a message with MIME headers has parts.
    let head = &plain[..plain.len().min(4096)];
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if !head.contains("content-type:") || !head.contains("mime-version:") {
        return Ok(Vec::new());
    }
    let mail = MessageParser::new()
        .with_mime_headers()
        .parse(&plain)
        .ok_or_else(|| {
            Error::refused("user-data: it has MIME headers but is not a MIME message")
        })?;
    let mut found = Vec::new();
    for part in &mail.parts {
        let is_ours = part.content_type().is_some_and(|kind| {
            let subtype = kind.subtype().unwrap_or_default();
            format!("{}/{subtype}", kind.ctype()).eq_ignore_ascii_case(MIME_TYPE)
        });
        if !is_ours {
            continue;
        }
        let number = found.len() + 1;
        let text = std::str::from_utf8(part.contents()).requiring(|| {
            format!("user-data: part {number} of type {MIME_TYPE} cannot be decoded")
        })?;
        // Senders end lines with CR LF; TOML reads both, but quoted lines should not show the CR.
        let text = text.replace("\r\n", "\n");
        found.push(Fragment::parse(format!("user-data part {number}"), &text)?);
    }
    Ok(found)
}

fn unpacked(user_data: &[u8]) -> Result<Vec<u8>> {
    if !user_data.starts_with(&[0x1f, 0x8b]) {
        return Ok(user_data.to_vec());
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(user_data)
        .take(LARGEST)
        .read_to_end(&mut plain)
        .requiring(|| "user-data: it starts as gzip but cannot be unpacked".to_owned())?;
    Ok(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    const MULTIPART: &str = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"B\"\r\n\r\n\
        --B\r\nContent-Type: text/cloud-config\r\n\r\n#cloud-config\r\nruncmd: []\r\n\
        --B\r\nContent-Type: application/vnd.k8s-bootstrap.config+toml\r\n\r\n[cluster]\r\nname = \"one\"\r\n\
        --B\r\nContent-Type: application/vnd.k8s-bootstrap.config+toml\r\nContent-Transfer-Encoding: base64\r\n\r\nW2NsdXN0ZXJdCm5hbWUgPSAidHdvIgo=\r\n--B--\r\n";

    #[test]
    fn all_parts_of_our_type_count_in_their_order() {
        let found = fragments(MULTIPART.as_bytes()).unwrap();
        let settings = crate::config::load(&found).unwrap();
        assert_eq!((found.len(), settings.cluster.name.as_str()), (2, "two"));
    }

    #[test]
    fn gzip_is_unpacked_first() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(MULTIPART.as_bytes()).unwrap();
        assert_eq!(fragments(&gzip.finish().unwrap()).unwrap().len(), 2);
    }

    #[test]
    fn other_formats_contain_no_settings() {
        for text in [
            "",
            "#!/bin/sh\necho content-type: x\n",
            "#cloud-config\nruncmd: []\n",
            "\u{1f}",
        ] {
            assert!(fragments(text.as_bytes()).unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn a_mistake_names_the_part_and_the_line() {
        let text = MULTIPART.replace("name = \"one\"", "name =");
        let error = fragments(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("user-data part 1:2:7"), "{error}");
    }

    #[test]
    fn truncated_gzip_is_refused() {
        let error = fragments(&[0x1f, 0x8b, 8, 0, 1]).unwrap_err();
        assert!(error.to_string().contains("cannot be unpacked"), "{error}");
    }
}
