//! `check-config` and `user-data`: before there is an instance.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::print;
use crate::{
    config::{self, Fragment},
    error::{Context, Error, Result},
    ports::Role,
};

/// `check-config`: the file as the agent would read it.
pub fn check_config(file: Option<&Path>, defaults: bool) -> Result<()> {
    let Some(file) = file.filter(|_| !defaults) else {
        return print(config::DEFAULTS);
    };
    let text = read_text(file)?;
    config::load(&[Fragment::parse(file.display().to_string(), &text)?])?;
    print(&format!("{}: valid", file.display()))
}

/// `user-data`: for launch templates.
pub fn user_data(url: &str, role: Option<Role>, config: Option<&Path>) -> Result<()> {
    let settings = config.map(read_text).transpose()?;
    if let (Some(path), Some(text)) = (config, &settings) {
        config::load(&[Fragment::parse(path.display().to_string(), text)?])?;
    }
    let myself = PathBuf::from("/proc/self/exe");
    let binary = std::fs::read(&myself).attempting(|| "cannot read this very binary".to_owned())?;
    let sha256 = hex::encode(Sha256::digest(binary));
    print(&crate::user_data::form(
        url,
        &sha256,
        role,
        settings.as_deref(),
    )?)
}

fn read_text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .attempting(|| "cannot read standard input".to_owned())?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
        .map_err(|cause| Error::usage(format!("cannot read {}", path.display())).because(&cause))
}
