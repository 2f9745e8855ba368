//! The implementation of each CLI command.

pub mod certificates;
mod cloudformation;
mod configure;
mod credential_provider;
pub mod etcd;
mod install;
mod kubeconfig;
mod mirroring;
mod plan;
mod reset;
pub mod restore;
mod run;
mod simulate;
mod status;
pub mod verify;
mod version;

use std::io::Write;

use crate::{
    adapters::wiring::Wiring,
    agent,
    config::Settings,
    error::{Context, Error, Result},
    identity::Identity,
    ports::MachineFacts,
};

pub use cloudformation::cloudformation;
pub use configure::{check_config, user_data};
pub use credential_provider::credential_provider;
pub use install::install;
pub use kubeconfig::kubeconfig;
pub use mirroring::{artifacts, bundle, images};
pub use plan::plan;
pub use reset::reset;
pub use run::run;
pub use simulate::simulate;
pub use status::status;
pub use version::version;

/// This instance's settings, identity and machine.
async fn who_am_i(wiring: &Wiring) -> Result<(Settings, Identity, MachineFacts)> {
    let connect = |region: &str, settings: &Settings| wiring.ec2(region, settings);
    agent::who_am_i(wiring.imds.as_ref(), wiring.host.as_ref(), connect).await
}

async fn require_root(wiring: &Wiring, what_for: &str) -> Result<()> {
    if wiring.host.machine().await?.root {
        return Ok(());
    }
    Err(Error::refused(format!("root is needed {what_for}")).hint("run it with sudo"))
}

/// Prints to stdout, with a newline at the end. A closed pipe, as with `head`, is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.attempting(|| "cannot write to standard output".to_owned()),
    }
}
