//! The files of a machine, as a test sees them from outside.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A temporary folder used as the root of a machine, removed after the test.
pub struct Files(tempfile::TempDir);

impl Files {
    /// A machine without files.
    pub fn none() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The folder that stands for `/`.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path.as_ref().strip_prefix("/").unwrap())
    }

    /// Writes a file, and creates its folders.
    pub fn put(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let place = self.place(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, content).unwrap();
    }

    /// A file's text; `None` if it does not exist.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.place(path)).ok()
    }

    /// Whether the file or folder exists.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.place(path).exists()
    }

    /// Removes a file that exists.
    pub fn delete(&self, path: impl AsRef<Path>) {
        fs::remove_file(self.place(path)).unwrap();
    }

    /// A file's permission bits.
    pub fn mode(&self, path: impl AsRef<Path>) -> u32 {
        let metadata = fs::metadata(self.place(path)).unwrap();
        metadata.permissions().mode() & 0o777
    }

    /// Makes it look as if a program listens on this TCP port.
    pub fn listening_on(&self, port: u16) {
        self.put(
            "/proc/net/tcp",
            format!(
                "  sl  local_address rem_address   st\n   0: 00000000:{port:04X} 00000000:0000 0A\n"
            ),
        );
    }
}
