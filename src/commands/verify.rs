//! `etcd verify`: a trial restore.

use super::{etcd::on_a_control_plane, print};
use crate::{
    error::{Context, Error, Result},
    journal::Journal,
    snapshots::{
        fetch::{newest_of, source},
        verify::{self, Verified},
    },
};

/// `etcd verify`.
pub async fn verify(from: &str, as_json: bool) -> Result<()> {
    let (world, settings, me) = on_a_control_plane("to verify a backup").await?;
    let (place, name) = source(from, &settings.snapshots.to)?;
    let name = if let Some(name) = name {
        name
    } else {
        let journal = Journal::open(world.host.as_ref(), &me.instance_id).await?;
        let membership = journal.membership.ok_or_else(|| {
            Error::refused("this instance has no cluster yet, so there is no latest backup of it")
                .hint("name the backup: --from URL-OF-ITS.json")
        })?;
        newest_of(&world, &place, &membership.cluster_uid).await?
    };
    let verified = verify::verify(&world, &settings, &me, &place, name).await?;
    if as_json {
        let text = serde_json::to_string_pretty(&verified);
        return print(&text.attempting(|| "cannot serialize the result".to_owned())?);
    }
    print(&text(&verified))
}

fn text(verified: &Verified) -> String {
    let Verified {
        backup,
        taken,
        cluster,
        cluster_uid,
        revision,
        keys,
        bytes,
    } = verified;
    format!(
        "{backup} can be restored\n\
         taken at {taken:.0} of cluster {cluster} (uid {cluster_uid}), revision {revision}\n\
         restored and read: {keys} keys, {} MiB",
        bytes >> 20
    )
}
