//! The lab's bundle, for machines that reach no registry.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::layout::{Layout, namespace};
use crate::network::ARTIFACTS;
use crate::userdata::Agent;

/// Its name on the artifact server.
const NAME: &str = "bundle.tar";

/// The settings that name the bundle. It is made once, of what these settings need.
pub fn settings(layout: &Layout, agent: &Agent, needed: &str) -> Result<String> {
    let kept = layout.run().join("bundle.toml");
    if let Ok(settings) = std::fs::read_to_string(&kept) {
        return Ok(settings);
    }
    let config = layout.run().join("bundle-config.toml");
    std::fs::write(&config, needed).context("cannot write the bundle's settings")?;
    // In the VPC, where the mirrors are.
    let output = Command::new("ip")
        .args(["netns", "exec", &namespace("vpc")])
        .arg(&agent.binary)
        .arg("bundle")
        .arg("--config")
        .arg(&config)
        .arg("--output")
        .arg(layout.run().join("www").join(NAME))
        .output()
        .context("cannot run the agent")?;
    if !output.status.success() {
        bail!(
            "the agent makes no bundle:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let printed = String::from_utf8(output.stdout).context("the bundle's settings are not text")?;
    let place = format!(r#"url = "http://{ARTIFACTS}/{NAME}""#);
    let settings = printed.replace(r#"url = """#, &place);
    std::fs::write(&kept, &settings).context("cannot keep the bundle's settings")?;
    Ok(settings)
}
