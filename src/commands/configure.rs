//! `check-config` and `user-data`: for use before an instance exists.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::print;
use crate::{
    adapters::arguments::{own_binary, read_text},
    cli::AgentArguments,
    config::{self, Fragment, Settings},
    error::{Error, Result},
    identity::{self, Identity},
    observe::{Membership, Memory, Origin},
    plan,
    ports::{InstanceFacts, MachineFacts, Role},
    release,
};

/// `check-config`: the file as the agent would read it.
pub fn check_config(file: Option<&Path>, defaults: bool) -> Result<()> {
    let Some(file) = file.filter(|_| !defaults) else {
        return print(config::DEFAULTS);
    };
    check(load(file, &read_text(file)?)?)?;
    print(&format!("{}: valid", file.display()))
}

fn load(file: &Path, text: &str) -> Result<Settings> {
    config::load(&[Fragment::parse(file.display().to_string(), text)?])
}

/// Rejects what every node would reject in these settings, whatever its instance.
pub(super) fn check(mut settings: Settings) -> Result<()> {
    let roles = match settings.node.role {
        Some(role) => vec![role],
        None => vec![Role::ControlPlane, Role::Worker],
    };
    for role in roles {
        settings.node.role = Some(role);
        plan_somewhere(&settings, role)?;
    }
    Ok(())
}

/// An instance of this role, large enough for any reservation. By default it has an architecture that
/// is pinned, or one that has a bundle.
pub(super) fn somewhere(
    settings: &Settings,
    role: Role,
    arch: Option<&str>,
) -> Result<(Identity, MachineFacts)> {
    let mut settings = settings.clone();
    settings.node.role = Some(role);
    if settings.cluster.name.is_empty() {
        // The tag may provide it.
        "example".clone_into(&mut settings.cluster.name);
    }
    let pin = settings.pins.get("kubelet");
    let archs = if settings.bundle.is_used() {
        Some(&settings.bundle.sha256)
    } else {
        pin.map(|pin| &pin.sha256)
    };
    let pinned = archs.and_then(|archs| archs.keys().next());
    let arch = arch.or(pinned.map(String::as_str)).unwrap_or("amd64");
    let machine = MachineFacts {
        cpus: 64,
        memory_bytes: 256 << 30,
        arch: arch.to_owned(),
        cgroup_version: 2,
        disk_free_bytes: 1 << 40,
        root: true,
        kernel: String::new(),
    };
    // A label may repeat what EC2 says.
    let said = |key: &str| settings.node.labels.get(key).cloned().unwrap_or_default();
    let facts = InstanceFacts {
        instance_id: "i-0123456789abcdef0".to_owned(),
        instance_type: said(identity::INSTANCE_TYPE),
        region: said(identity::REGION),
        zone: said(identity::ZONE),
        account: "123456789012".to_owned(),
        private_ip: [10, 0, 0, 1].into(),
        local_hostname: "ip-10-0-0-1.ec2.internal".to_owned(),
    };
    let me = Identity::resolve(&settings, &facts, &machine)?;
    Ok((me, machine))
}

/// Makes all plans for an instance of this role.
fn plan_somewhere(settings: &Settings, role: Role) -> Result<()> {
    let (me, machine) = somewhere(settings, role, None)?;
    plan::host(settings, &me)?;
    let origins = match role {
        Role::ControlPlane => vec![Origin::Founded, Origin::Joined],
        Role::Worker => vec![Origin::Joined],
    };
    for origin in origins {
        let memory = Memory {
            membership: Some(Membership {
                cluster_uid: "example".to_owned(),
                origin,
            }),
            settled: None,
        };
        plan::cluster(settings, &me, &machine, &memory)?;
    }
    Ok(())
}

/// The settings for new instances: the TOML files, and the settings in them.
#[derive(Default)]
pub(super) struct Configuration {
    fragments: Vec<Fragment>,
    texts: Vec<String>,
}

impl Configuration {
    /// Reads the file of `--config`.
    pub(super) fn read(file: Option<&Path>) -> Result<Self> {
        let mut configuration = Self::default();
        if let Some(file) = file {
            let text = read_text(file)?;
            configuration.add(Fragment::parse(file.display().to_string(), &text)?, text);
        }
        Ok(configuration)
    }

    /// Adds settings that override the ones before.
    pub(super) fn add(&mut self, fragment: Fragment, text: String) {
        self.fragments.push(fragment);
        self.texts.push(text);
    }

    /// All of them over the defaults.
    pub(super) fn settings(&self) -> Result<Settings> {
        config::load(&self.fragments)
    }

    /// The files' texts.
    pub(super) fn texts(self) -> Vec<String> {
        self.texts
    }
}

/// Where instances download this binary: as given, or where it is published.
pub(super) fn urls(given: &[String]) -> Result<Vec<String>> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let published = release::URL.map(|url| vec![url.to_owned()]);
    published.ok_or_else(|| {
        Error::usage("this build is not a release: no URL is known that serves it").hint(
            "host this file where instances can download it, and name the place: \
             `aws s3 cp k8s-bootstrap s3://BUCKET/KEY`, then --url s3://BUCKET/KEY (the bucket may be \
             private), or --url https://...",
        )
    })
}

/// The digest of the running binary.
pub(super) fn digest() -> Result<String> {
    Ok(hex::encode(Sha256::digest(own_binary()?)))
}

/// `user-data`: for launch templates.
pub fn user_data(agent: &AgentArguments, role: Option<Role>) -> Result<()> {
    let configuration = Configuration::read(agent.config.as_deref())?;
    let mut proxy = Vec::new();
    if agent.config.is_some() {
        let settings = configuration.settings()?;
        proxy = settings.proxy.variables(&settings.no_proxy());
        check(settings)?;
    }
    let texts = configuration.texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let urls = urls(&agent.url)?;
    print(&crate::user_data::form(
        &urls,
        &digest()?,
        role,
        &texts,
        &proxy,
    )?)
}
