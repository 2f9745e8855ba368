//! This instance's settings and identity, from the metadata service, EC2, the user-data and a file.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, Fragment, Settings, Sources, user_data},
    error::{Context, Error, Result},
    identity::Identity,
    ports::{Ec2, Host, Instance, InstanceFacts, MachineFacts, Metadata},
};

/// Keeps the node's name once it is known.
const FILE: &str = "/var/lib/k8s-bootstrap/node-name.json";

/// A node name and the instance it belongs to, since disks are copied into images.
#[derive(Serialize, Deserialize)]
struct Named {
    instance: String,
    name: String,
}

/// Reads this instance's settings and identity. EC2 supplies what the metadata lack: tags appear
/// there late, or never if the instance does not expose them, and the host name is not the private
/// DNS name if the VPC's DHCP options set a custom domain.
///
/// `ec2` connects to the API of a region, through the proxy of the settings that are known so far.
pub async fn who_am_i(
    metadata: &dyn Metadata,
    host: &dyn Host,
    ec2: impl Fn(&str, &Settings) -> Result<Arc<dyn Ec2>> + Send,
) -> Result<(Settings, Identity, MachineFacts)> {
    let facts = metadata.facts().await?;
    let mut sources = Sources {
        tags: None,
        user_data: match metadata.user_data().await? {
            Some(bytes) => user_data::fragments(&bytes)?,
            None => Vec::new(),
        },
        file: match host.read(Path::new(config::FILE)).await? {
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Some(Fragment::parse(config::FILE, &text)?)
            }
            None => None,
        },
    };
    let offered = metadata.tags().await?;
    let known = known_name(host, &facts.instance_id).await?;
    let mut tags = offered.clone().unwrap_or_default();
    sources.tags = Some(fragment(&tags)?);
    let name = match known {
        Some(name) if offered.is_some() && is_complete(&sources)? => name,
        known => {
            let api = ec2(&facts.region, &sources.clone().settings()?)?;
            let instance = itself(api.as_ref(), &facts).await?;
            let name = match known {
                Some(name) => name,
                None => private_dns_name(&instance)?,
            };
            tags.extend(instance.tags);
            sources.tags = Some(fragment(&tags)?);
            name
        }
    };
    let settings = sources.settings()?;
    let machine = host.machine().await?;
    let facts = InstanceFacts {
        local_hostname: name,
        ..facts
    };
    let me = Identity::resolve(&settings, &facts, &machine)?;
    Ok((settings, me, machine))
}

fn fragment(tags: &BTreeMap<String, String>) -> Result<Fragment> {
    Ok(Fragment::made("EC2 tags", config::tags::fragment(tags)?))
}

/// Whether the sources name this instance's cluster and role.
fn is_complete(sources: &Sources) -> Result<bool> {
    let settings = sources.clone().settings()?;
    Ok(!settings.cluster.name.is_empty() && settings.node.role.is_some())
}

async fn itself(ec2: &dyn Ec2, facts: &InstanceFacts) -> Result<Instance> {
    let id = &facts.instance_id;
    let listed = ec2.by_ids(&[id.as_str()]).await;
    let listed = listed.map_err(|error| {
        error.during("cannot read this instance's tags and private DNS name from EC2")
    })?;
    let mut listed = listed.into_iter();
    listed
        .find(|instance| instance.id == *id)
        .ok_or_else(|| Error::failed(format!("EC2 does not list {id} yet")))
}

fn private_dns_name(instance: &Instance) -> Result<String> {
    instance.private_dns_name.clone().ok_or_else(|| {
        Error::failed(format!(
            "EC2 lists no private DNS name of {} yet; its node is named after it",
            instance.id
        ))
    })
}

/// Keeps the node's name, so that a restart does not need EC2.
pub async fn remember_name(host: &dyn Host, me: &Identity) -> Result<()> {
    if known_name(host, &me.instance_id).await?.as_ref() == Some(&me.node_name) {
        return Ok(());
    }
    let named = Named {
        instance: me.instance_id.clone(),
        name: me.node_name.clone(),
    };
    let text =
        serde_json::to_vec(&named).attempting(|| "cannot serialize the node's name".to_owned())?;
    host.write(Path::new(FILE), &text, 0o600).await
}

async fn known_name(host: &dyn Host, instance: &str) -> Result<Option<String>> {
    let text = host.read(Path::new(FILE)).await?.unwrap_or_default();
    // Treat a damaged file as absent: EC2 gives the same name again.
    let named = serde_json::from_slice::<Named>(&text).ok();
    let own = named.filter(|named| named.instance == instance);
    Ok(own.map(|named| named.name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        error::Kind,
        ports::Role,
        testing::{FakeWorld, running, worker},
    };

    const OWN: &str = "i-0123456789abcdef0";
    const NAME: &str = "ip-10-0-0-1.eu-central-1.compute.internal";
    const CLUSTER: (&str, &str) = ("k8s-bootstrap:cluster", "prod");
    const ROLE: (&str, &str) = ("k8s-bootstrap:role", "worker");

    /// An instance that EC2 lists with this name and these tags.
    fn listed(fake: &FakeWorld, name: Option<&str>, tags: &[(&str, &str)]) {
        let mut instance = running(&worker(OWN), 1);
        instance.private_dns_name = name.map(str::to_owned);
        instance.tags = owned(tags);
        fake.ec2.list([instance]);
    }

    fn owned(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
        let tags = tags.iter();
        tags.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    async fn resolved(fake: &FakeWorld) -> Result<Identity> {
        let ec2 = |_: &str, _: &Settings| -> Result<Arc<dyn Ec2>> { Ok(fake.ec2.clone()) };
        let known = who_am_i(fake.metadata.as_ref(), fake.host.as_ref(), ec2).await?;
        Ok(known.1)
    }

    #[tokio::test(start_paused = true)]
    async fn tags_that_the_metadata_lack_are_read_from_ec2() {
        for offered in [None, Some(&[][..]), Some(&[CLUSTER][..])] {
            let fake = FakeWorld::new();
            fake.metadata.tagged(offered.map(owned));
            listed(&fake, Some(NAME), &[CLUSTER, ROLE]);
            let me = resolved(&fake).await.unwrap();
            assert_eq!((me.cluster.as_str(), me.role), ("prod", Role::Worker));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tag_that_ec2_lacks_too_is_refused_until_it_is_added() {
        let fake = FakeWorld::new();
        fake.metadata.tagged(None);
        listed(&fake, Some(NAME), &[CLUSTER]);
        let error = resolved(&fake).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.remedy().unwrap().contains("create-tags"), "{error}");
        listed(&fake, Some(NAME), &[CLUSTER, ROLE]);
        assert_eq!(resolved(&fake).await.unwrap().role, Role::Worker);
    }

    #[tokio::test(start_paused = true)]
    async fn the_node_name_comes_from_ec2_and_not_from_the_dhcp_options() {
        let fake = FakeWorld::new();
        fake.metadata.tagged(Some(owned(&[CLUSTER, ROLE])));
        fake.metadata.named("ip-10-0-0-1.corp.example");
        fake.ec2.list([]);
        let error = resolved(&fake).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Failed, "{error}");
        listed(&fake, None, &[]);
        let error = resolved(&fake).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Failed, "{error}");
        for name in [NAME, "i-0123456789abcdef0.eu-central-1.compute.internal"] {
            listed(&fake, Some(name), &[]);
            assert_eq!(resolved(&fake).await.unwrap().node_name, name);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_with_a_stored_name_restarts_without_ec2() {
        let fake = FakeWorld::new();
        fake.metadata.tagged(Some(owned(&[CLUSTER, ROLE])));
        listed(&fake, Some(NAME), &[]);
        let me = resolved(&fake).await.unwrap();
        remember_name(fake.host.as_ref(), &me).await.unwrap();
        fake.ec2.fail_with(|| Error::failed("no answer"));
        assert_eq!(resolved(&fake).await.unwrap(), me);
        // Another instance, made from a copy of the disk, asks EC2.
        fake.files
            .put(FILE, "{\"instance\": \"i-1\", \"name\": \"other\"}");
        let error = resolved(&fake).await.unwrap_err();
        assert!(error.one_line().ends_with("no answer"), "{error}");
    }
}
