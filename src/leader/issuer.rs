//! Publishes the keys that check this cluster's tokens, so that AWS can give roles to its pods.
//!
//! The API server serves them to whoever may ask it; AWS and others read them at the issuer's
//! address. The leader copies them to the place behind that address, and looks again every minute:
//! keys change, and objects are deleted.

use std::collections::BTreeMap;

use serde_json::Value;
use tracing::info;

use crate::{
    config::{
        ServiceAccounts,
        service_accounts::{DISCOVERY, KEYS},
    },
    error::{Context, Error, Result},
    leader::{self, Leader},
    ports::{Place, World},
    report::IssuerReport,
};

/// What this leader has published, by name; empty after another one led.
pub type Published = BTreeMap<&'static str, String>;

/// One cycle, if this instance leads; `None` otherwise.
pub async fn cycle(
    world: &World,
    me: &str,
    wish: &ServiceAccounts,
    place: &Place,
    published: &mut Published,
) -> Option<IssuerReport> {
    let mut report = IssuerReport {
        issuer: wish.issuer.clone(),
        published: false,
        trouble: None,
    };
    match keep(world, me, wish, place, published, &mut report).await {
        Ok(Leader::Me) => {}
        Ok(Leader::Other(_)) => {
            published.clear();
            return None;
        }
        Err(error) => report.trouble = Some(error.line_with_remedy()),
    }
    Some(report)
}

async fn keep(
    world: &World,
    me: &str,
    wish: &ServiceAccounts,
    place: &Place,
    published: &mut Published,
    report: &mut IssuerReport,
) -> Result<Leader> {
    if let other @ Leader::Other(_) = leader::lead(world, me).await? {
        return Ok(other);
    }
    let discovery = world.cluster.document(&format!("/{DISCOVERY}")).await?;
    is_of(&discovery, wish)?;
    let keys = world.cluster.document(&format!("/{KEYS}")).await?;
    // The keys first: who finds the discovery document reads them next.
    for (name, document) in [(KEYS, keys), (DISCOVERY, discovery)] {
        let there = world.archive.read(place, name).await?;
        if there.as_ref() != Some(&document) {
            if published
                .get(name)
                .is_some_and(|left| Some(left) != there.as_ref())
            {
                report.trouble = Some(format!(
                    "another client writes or deletes {name} in {place} too \
                     (give each cluster an issuer of its own: [service_accounts])"
                ));
            }
            if let other @ Leader::Other(_) = leader::lead(world, me).await? {
                return Ok(other);
            }
            world.archive.publish(place, name, &document).await?;
            info!("published {name} of the issuer {} in {place}", wish.issuer);
        }
        published.insert(name, document);
    }
    report.published = true;
    Ok(Leader::Me)
}

/// Refuses to publish the documents of another issuer.
fn is_of(discovery: &str, wish: &ServiceAccounts) -> Result<()> {
    let document: Value = serde_json::from_str(discovery)
        .attempting(|| format!("the API server's /{DISCOVERY} is not JSON"))?;
    for (field, wanted) in [
        ("issuer", wish.issuer.clone()),
        ("jwks_uri", wish.keys_url()),
    ] {
        let found = document[field].as_str().unwrap_or_default();
        if found != wanted {
            return Err(Error::refused(format!(
                "the API server's {field} is `{found}` and not {wanted}"
            ))
            .hint("its control planes were made with other settings: docs/operations.md, \"Roles for pods\", says how to change them"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
