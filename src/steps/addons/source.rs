//! Reads an add-on's manifests from their source.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{
    config::{self, Source},
    error::{Context, Error, Result},
    ports::World,
};

/// One manifest's text and its name in errors.
pub struct Text {
    /// Its URL or path.
    pub place: String,
    /// YAML, usually of several objects.
    pub text: String,
}

/// The digest of the source's content; not fetched if the settings already give a digest.
pub async fn digest(source: &Source, world: &World) -> Result<String> {
    if !source.sha256.is_empty() {
        return Ok(source.sha256.to_lowercase());
    }
    let mut digest = Sha256::new();
    for text in texts(source, world).await? {
        digest.update(text.text);
        digest.update([0]);
    }
    Ok(hex::encode(digest.finalize()))
}

/// The manifests of the source, in the order of application.
pub async fn texts(source: &Source, world: &World) -> Result<Vec<Text>> {
    if !source.inline.is_empty() {
        return Ok(vec![Text {
            place: "inline".to_owned(),
            text: source.inline.clone(),
        }]);
    }
    let url = source.url.as_str();
    if let Some(name) = url.strip_prefix("embedded:") {
        let text = config::embedded(name)
            .ok_or_else(|| Error::refused(format!("there is no embedded manifest `{name}`")))?;
        return Ok(vec![Text {
            place: url.to_owned(),
            text: text.to_owned(),
        }]);
    }
    if let Some(path) = url.strip_prefix("file://") {
        return files(Path::new(path), world).await;
    }
    Ok(vec![Text {
        place: url.to_owned(),
        text: world.downloads.text(url, &source.sha256).await?,
    }])
}

/// The file itself, or a folder's `*.yaml` and `*.yml` files in the order of their names.
async fn files(path: &Path, world: &World) -> Result<Vec<Text>> {
    let is_manifest = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("yaml" | "yml"))
    };
    let paths = match world.host.list(path).await? {
        Some(paths) => paths.into_iter().filter(is_manifest).collect(),
        None => vec![path.to_owned()],
    };
    let mut texts = Vec::new();
    for path in paths {
        let place = path.display().to_string();
        let Some(content) = world.host.read(&path).await? else {
            // If a missing file counted as empty, everything from it would be removed.
            return Err(Error::failed(format!("{place} does not exist"))
                .hint("put the manifests there on every control plane, or disable the add-on"));
        };
        let text = String::from_utf8(content).requiring(|| format!("{place} is not UTF-8 text"))?;
        texts.push(Text { place, text });
    }
    Ok(texts)
}
