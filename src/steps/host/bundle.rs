//! The bundle: one file with everything that the node otherwise downloads.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    config::Settings,
    error::{Error, Result},
    ports::{Download, Place, Target, World},
    steps::{State, Step},
    wait::Notes,
};

/// Where downloaded bundles are kept, by their digests.
const FOLDER: &str = "/var/lib/k8s-bootstrap/bundles";

/// A verified bundle on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bundle {
    /// Where it comes from: an HTTP URL, `s3://BUCKET/KEY` or `file:///PATH`.
    pub url: String,
    /// Its sha256.
    pub sha256: String,
}

impl Bundle {
    /// The bundle of the settings for this architecture; `None` if they name none.
    pub fn wanted(settings: &Settings, arch: &str) -> Result<Option<Self>> {
        let bundle = &settings.bundle;
        if !bundle.is_used() {
            return Ok(None);
        }
        let Some(sha256) = bundle.sha256.get(arch) else {
            return Err(
                Error::refused(format!("bundle.sha256: nothing is given for {arch}")).hint(
                    format!(
                        "`k8s-bootstrap bundle --arch {arch}` makes a bundle and prints its sha256"
                    ),
                ),
            );
        };
        Ok(Some(Self {
            url: bundle.url.replace("{arch}", arch),
            sha256: sha256.to_ascii_lowercase(),
        }))
    }

    /// Where it is on this machine.
    pub fn file(&self) -> PathBuf {
        match self.url.strip_prefix("file://") {
            Some(path) => path.into(),
            None => Path::new(FOLDER).join(format!("{}.tar", self.sha256)),
        }
    }

    async fn fetch(&self, world: &World) -> Result<()> {
        let Some((bucket, key)) = self
            .url
            .strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
        else {
            let download = Download {
                url: self.url.clone(),
                sha256: self.sha256.clone(),
                target: Target::File(self.file()),
            };
            return world.downloads.fetch(&download).await;
        };
        let place = Place::Bucket {
            bucket: bucket.to_owned(),
            prefix: String::new(),
        };
        world.archive.get(&place, key, &self.file()).await?;
        let found = world.host.sha256(&self.file()).await?.unwrap_or_default();
        if found == self.sha256 {
            return Ok(());
        }
        world.host.remove(&self.file()).await?;
        Err(Error::doubtful(format!(
            "{} has the wrong sha256: expected {}, got {found}",
            self.url, self.sha256
        ))
        .hint("upload the bundle that bundle.sha256 names, or correct the setting"))
    }
}

#[async_trait]
impl Step for Bundle {
    async fn check(&self, world: &World) -> Result<State> {
        let file = self.file();
        Ok(match world.host.sha256(&file).await? {
            Some(found) if found == self.sha256 => State::AsWanted,
            Some(_) => State::Differs(format!("{} has another sha256", file.display())),
            None => State::Differs(format!("{} is missing", file.display())),
        })
    }

    async fn apply(&self, world: &World, notes: &Notes) -> Result<()> {
        if self.url.starts_with("file://") {
            let State::Differs(why) = self.check(world).await? else {
                return Ok(());
            };
            return Err(Error::failed(format!("the bundle: {why}")).hint(format!(
                "put the bundle with sha256 {} there, or correct [bundle]",
                self.sha256
            )));
        }
        notes.waiting_for(format!("the download of {}", self.url));
        let fetched = self.fetch(world).await;
        fetched.map_err(|error| error.during("cannot fetch the bundle"))?;
        // Each is as large as everything that the node downloads.
        let kept = world.host.list(Path::new(FOLDER)).await?;
        for other in kept.unwrap_or_default() {
            if other != self.file() {
                world.host.remove(&other).await?;
            }
        }
        Ok(())
    }
}
