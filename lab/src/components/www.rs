//! Where a release site's file lies among the served files: one folder per host with the site's own
//! paths.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The path of `url`'s file in the folder `www`.
pub fn place_of(www: &Path, url: &str) -> PathBuf {
    www.join(url.split_once("://").map_or(url, |(_, rest)| rest))
}

/// Same, and creates its parent folders.
///
/// # Errors If they cannot be created.
pub fn prepared(www: &Path, url: &str) -> Result<PathBuf> {
    let place = place_of(www, url);
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::pins::Defaults;
    use super::super::platform;
    use super::*;

    #[test]
    fn files_lie_as_on_the_release_sites() {
        let pin = &Defaults::read().unwrap().pins["cni-plugins"];
        let place = place_of(Path::new("/www"), &pin.url("1.9.1"));
        let expected = format!(
            "/www/github.com/containernetworking/plugins/releases/download/v1.9.1/\
             cni-plugins-linux-{}-v1.9.1.tgz",
            platform::ARCH
        );
        assert_eq!(place, Path::new(&expected));
    }
}
