//! `status`: what the running agent reports about itself.

use super::print;
use crate::{
    adapters::{report, wiring::Wiring},
    error::{Context, Result},
    wait::{Every, schedules::STATUS},
};

/// `status`: asks the running agent.
pub async fn status(as_json: bool, watch: bool) -> Result<()> {
    let wiring = Wiring::new()?;
    let mut shown = None;
    // Without --watch the first answer ends the loop.
    let mut looks = Every::new(wiring.clock.as_ref(), STATUS);
    loop {
        looks.tick().await;
        let status = report::ask(wiring.host.as_ref(), &wiring.clients).await?;
        let text = if as_json {
            serde_json::to_string_pretty(&status)
                .attempting(|| "cannot serialize the status".to_owned())?
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
