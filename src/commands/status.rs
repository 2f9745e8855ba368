//! `status`: what the running agent says of itself.

use std::time::Duration;

use tokio::time::interval;

use super::{ADDRESS_FILE, print};
use crate::{
    adapters::http::Clients,
    error::{Context, Result},
    report::Status,
};

/// `status`: asks the running agent.
pub async fn status(as_json: bool, watch: bool) -> Result<()> {
    let client = Clients::new()?.metadata()?;
    let mut shown = None;
    // Without --watch the first answer ends it.
    let mut looks = interval(Duration::from_secs(1));
    loop {
        looks.tick().await;
        let status = ask(&client).await?;
        let text = if as_json {
            serde_json::to_string_pretty(&status)
                .attempting(|| "cannot form the status".to_owned())?
        } else {
            status.text()
        };
        if shown.as_ref() != Some(&text) {
            print(&text)?;
        }
        if !watch {
            return Ok(());
        }
        shown = Some(text);
    }
}

async fn ask(client: &reqwest::Client) -> Result<Status> {
    let not_running =
        "is it running? `systemctl status k8s-bootstrap`, `journalctl -u k8s-bootstrap`";
    let address = std::fs::read_to_string(ADDRESS_FILE)
        .attempting(|| format!("the agent has left no address in {ADDRESS_FILE}"))
        .map_err(|error| error.hint(not_running))?;
    let url = format!("http://{}/status", address.trim());
    let attempt = || format!("cannot ask the agent at {url}");
    let answer = client.get(&url).send().await.attempting(attempt);
    let answer = answer.map_err(|error| error.hint(not_running))?;
    answer.json().await.attempting(attempt)
}
