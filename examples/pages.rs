//! Writes what a release has beside the binary, from the same source: shell completions, man pages
//! and the page of all settings. `make dist` runs it: `cargo run --example pages -- FOLDER`.

use std::{fs, io, path::Path};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use k8s_bootstrap::{cli::Cli, config};

fn main() -> io::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "usage: pages FOLDER"))?;
    let folder = Path::new(&folder);
    let (completions, man) = (folder.join("completions"), folder.join("man"));
    fs::create_dir_all(&completions)?;
    fs::create_dir_all(&man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "k8s-bootstrap", &completions)?;
    }
    clap_mangen::generate_to(Cli::command(), &man)?;
    fs::write(folder.join("config.toml"), config::DEFAULTS)
}
