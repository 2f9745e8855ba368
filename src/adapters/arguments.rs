//! Input for commands: a file, standard input, the agent's own binary.

use std::{io::Read, path::Path};

use crate::error::{Context, Error, Result};

/// The text of this file, or of standard input if it is `-`.
pub fn read_text(path: &Path) -> Result<String> {
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

/// The running binary, byte for byte.
pub fn own_binary() -> Result<Vec<u8>> {
    std::fs::read("/proc/self/exe").attempting(|| "cannot read the agent's own binary".to_owned())
}
