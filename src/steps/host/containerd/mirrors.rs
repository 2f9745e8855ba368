//! Registry mirrors as containerd reads them: one `hosts.toml` per upstream host.

use std::path::Path;

use super::CERTS;
use crate::{
    config::{Settings, has_api_version, registry_server},
    error::{Context, Error, Result},
    kubernetes::BUNDLE_SERVER,
    steps::host::files::{File, HEADER},
};

/// The files for all mirrors in the settings. The bundle is the first mirror of every host.
pub(super) fn files(settings: &Settings) -> Result<Vec<File>> {
    let mut mirrors = settings.images.mirrors.clone();
    if settings.bundle.is_used() {
        mirrors.entry("*".to_owned()).or_default();
        for mirrors in mirrors.values_mut() {
            mirrors.insert(0, format!("http://{BUNDLE_SERVER}"));
        }
    }
    let mut files = Vec::with_capacity(mirrors.len());
    for (upstream, mirrors) in &mirrors {
        files.push(file(upstream, mirrors)?);
    }
    Ok(files)
}

fn file(upstream: &str, mirrors: &[String]) -> Result<File> {
    let folder = if upstream == "*" {
        "_default"
    } else {
        valid_host(upstream)?
    };
    let server = match upstream {
        "*" => String::new(),
        host => format!("server = \"https://{}\"\n", registry_server(host)),
    };
    let mut text = format!("{HEADER}{server}");
    for mirror in mirrors {
        text.push_str(&host(upstream, mirror)?);
    }
    Ok((Path::new(CERTS).join(folder).join("hosts.toml"), text))
}

/// A table per mirror. Written by hand, since containerd tries them in the file's order.
fn host(upstream: &str, mirror: &str) -> Result<String> {
    let place = || {
        format!(
            "images.mirrors.\"{upstream}\" has `{mirror}`, which is not the address of a registry"
        )
    };
    let hint = "write it as https://host, https://host:port or with a path";
    let url = url::Url::parse(mirror)
        .requiring(place)
        .map_err(|error| error.hint(hint))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Error::refused(place()).hint(hint));
    }
    let key = toml::Value::from(mirror.trim_end_matches('/'));
    // containerd appends /v2 to a path unless configured that the path already has it.
    let complete = if has_api_version(&url) {
        "override_path = true\n"
    } else {
        ""
    };
    Ok(format!(
        "\n[host.{key}]\ncapabilities = [\"pull\", \"resolve\"]\n{complete}"
    ))
}

fn valid_host(upstream: &str) -> Result<&str> {
    let (name, port) = upstream.split_once(':').unwrap_or((upstream, "443"));
    let valid = !name.is_empty()
        && !name.starts_with(['.', '-'])
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        && port.parse::<u16>().is_ok();
    if valid {
        return Ok(upstream);
    }
    Err(Error::refused(format!(
        "images.mirrors has `{upstream}`, which is not the host of a registry"
    ))
    .hint("use the host of the images, such as docker.io or registry.example.com:5000, or \"*\""))
}
