//! User-data for new instances: the script that downloads this agent, and its settings.

use std::fmt::Write;

use crate::{
    config::user_data::MIME_TYPE,
    error::{Error, Result},
    ports::Role,
};

/// The agent's own script; see cloud-init/bootstrap.sh.
const SCRIPT: &str = include_str!("../cloud-init/bootstrap.sh");

/// How the script downloads from a bucket; see cloud-init/s3.sh.
const S3: &str = include_str!("../cloud-init/s3.sh");

/// The script's first command.
const SET: &str = "set -eu\n";

/// The script's downloads, for which everything before them is defined.
const DOWNLOADS: &str = "until why=";

/// The most that EC2 accepts, before base64.
pub const LIMIT: usize = 16 * 1024;

/// Builds the user-data. The agent is downloaded from the first of `urls` that has it.
///
/// `role` and each of `config` (TOML) become a separate MIME part. Without any, a plain script is
/// enough and the role comes from the tag `k8s-bootstrap:role`. `proxy` are the variables with which
/// the agent is downloaded.
pub fn form(
    urls: &[String],
    sha256: &str,
    role: Option<Role>,
    config: &[&str],
    proxy: &[(&str, String)],
) -> Result<String> {
    let functions: Vec<&str> = urls
        .iter()
        .map(|url| function_for(url))
        .collect::<Result<_>>()?;
    let calls = functions.iter().zip(urls);
    let get: Vec<String> = calls.map(|(f, url)| format!("{f} '{url}'")).collect();
    let script = SCRIPT.replace("@SHA256@", sha256);
    let script = script.replace("@GET@", &get.join(" || "));
    let script = script.replacen(SET, &format!("{SET}{}", exports(proxy)), 1);
    let s3 = if functions.contains(&"s3") { S3 } else { "" };
    let script = script.replacen(DOWNLOADS, &format!("{s3}{DOWNLOADS}"), 1);
    let role = role.map(|role| format!("node.role = \"{role}\"\n"));
    let config = config.iter().copied();
    let parts: Vec<&str> = role.as_deref().into_iter().chain(config).collect();
    let text = if parts.is_empty() {
        script
    } else {
        multipart(&script, &parts)
    };
    if text.len() > LIMIT {
        return Err(Error::usage(format!(
            "the user-data has {} bytes, but EC2 accepts at most {LIMIT}",
            text.len()
        ))
        .hint("gzip it (the agent and cloud-init unpack it), or put the settings into the image as /etc/k8s-bootstrap/config.toml"));
    }
    Ok(text)
}

/// A line that exports these variables, in both spellings: curl ignores `HTTP_PROXY`.
fn exports(variables: &[(&str, String)]) -> String {
    if variables.is_empty() {
        return String::new();
    }
    let one = |(name, value): &(&str, String)| {
        format!(" {name}='{value}' {}='{value}'", name.to_lowercase())
    };
    let all: String = variables.iter().map(one).collect();
    format!("export{all}\n")
}

/// The function of the script that downloads from this URL.
fn function_for(url: &str) -> Result<&'static str> {
    let parsed = url::Url::parse(url).ok();
    if let Some(parsed) = parsed.filter(|_| !url.contains(['\'', '\n'])) {
        match parsed.scheme() {
            "https" | "http" => return Ok("get"),
            "s3" if parsed.has_host() && parsed.path().len() > 1 => return Ok("s3"),
            _ => {}
        }
    }
    Err(Error::usage(format!("`{url}` is not a URL to download from")).hint(
        "use https://..., http://... or s3://BUCKET/KEY; the download is verified by its digest",
    ))
}

fn multipart(script: &str, settings: &[&str]) -> String {
    // Fixed, so that the same input gives the same launch template; no line of ours starts with it.
    let boundary = "k8s-bootstrap-user-data";
    let mut text = format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"{boundary}\"\n\n\
         --{boundary}\nContent-Type: text/x-shellscript; charset=\"utf-8\"\n\n{script}\n"
    );
    for part in settings {
        let _ = write!(
            text,
            "--{boundary}
Content-Type: {MIME_TYPE}; charset=\"utf-8\"

{part}
"
        );
    }
    let _ = writeln!(text, "--{boundary}--");
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{load, user_data::fragments};

    fn urls() -> [String; 1] {
        ["https://example.com/a".to_owned()]
    }

    #[test]
    fn a_role_by_tag_needs_nothing_but_the_script() {
        let text = form(&urls(), "00ff", None, &[], &[]).unwrap();
        assert!(text.starts_with("#!/bin/sh\n"));
        assert!(text.contains("get 'https://example.com/a'; }") && text.contains("'00ff  '"));
        assert!(
            text.lines().filter(|l| !l.starts_with('#')).count() <= 10,
            "more than ten lines"
        );
    }

    #[test]
    fn a_url_without_a_place_to_download_from_is_refused() {
        for url in [
            "ftp://example.com/a",
            "agent",
            "https://example.com/it's",
            "s3://bucket",
            "s3:///key",
        ] {
            let error = form(&[url.to_owned()], "00", None, &[], &[]).unwrap_err();
            let error = error.to_string();
            let place = format!("`{url}` is not a URL to download from");
            assert!(
                error.contains(&place) && error.contains("s3://BUCKET/KEY"),
                "{error}"
            );
        }
    }

    #[test]
    fn only_a_url_of_a_bucket_brings_the_signature() {
        let has = |url: &str| {
            let text = form(&[url.to_owned()], "00", None, &[], &[]).unwrap();
            text.contains("\ns3() {")
        };
        assert!(has("s3://bucket/agent") && has("S3://bucket/agent"));
        assert!(!has("https://example.com/agent"));
    }

    #[test]
    fn the_agent_reads_the_same_settings() {
        let text = form(
            &urls(),
            "00",
            Some(Role::Worker),
            &["cluster.name = 'x'\n"],
            &[],
        )
        .unwrap();
        let settings = load(&fragments(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(settings.node.role, Some(Role::Worker));
        assert_eq!(settings.cluster.name, "x");
    }

    #[test]
    fn the_agent_is_downloaded_through_the_proxy() {
        let mut settings = crate::testing::settings();
        settings.proxy.https = "http://proxy:3128".to_owned();
        let variables = settings.proxy.variables(&settings.no_proxy());
        let text = form(&urls(), "00", None, &[], &variables).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| *line == "set -eu").unwrap();
        let export = lines[at + 1];
        assert!(
            export.starts_with(
                "export HTTPS_PROXY='http://proxy:3128' https_proxy='http://proxy:3128' NO_PROXY='"
            ),
            "{export}"
        );
        assert!(export.contains("no_proxy='localhost,"), "{export}");
    }

    #[test]
    fn user_data_beyond_ec2s_limit_is_refused() {
        let config = format!("# {}\n", "x".repeat(LIMIT));
        let error = form(&urls(), "00", None, &[&config], &[]).unwrap_err();
        assert!(
            error.to_string().contains("EC2 accepts at most 16384"),
            "{error}"
        );
    }
}
