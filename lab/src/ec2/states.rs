//! The states that moto skips: `shutting-down` and `stopping`, while the system still shuts down.
//! The lab calls moto when the machine is off; until then it edits moto's answers to match EC2.

use crate::state::{Phase, State};

/// The answer to `DescribeInstances`, with the states of machines that are shutting down.
pub fn going_down(xml: &str, state: &State) -> String {
    let mut xml = xml.to_owned();
    for machine in &state.machines {
        let code = match machine.phase {
            Phase::ShuttingDown => 32,
            Phase::Stopping => 64,
            _ => continue,
        };
        if machine.id.is_empty() {
            continue;
        }
        // An instance's id comes before its state, with no other instance in between.
        let Some(start) = xml.find(&format!("<instanceId>{}</instanceId>", machine.id)) else {
            continue;
        };
        let Some(open) = xml[start..].find("<instanceState>") else {
            continue;
        };
        let Some(close) = xml[start + open..].find("</instanceState>") else {
            continue;
        };
        let place = start + open..start + open + close;
        let name = machine.phase.name();
        xml.replace_range(
            place,
            &format!("<instanceState><code>{code}</code><name>{name}</name>"),
        );
    }
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::machine;

    fn listing(states: [(&str, &str); 3]) -> String {
        let mut xml = String::new();
        for (id, state) in states {
            xml += &format!(
                "<item><instanceId>{id}</instanceId><imageId>ami-1</imageId>\n<instanceState>\n<code>1</code><name>{state}</name></instanceState></item>"
            );
        }
        xml
    }

    #[test]
    fn a_machine_that_goes_down_is_shutting_down_or_stopping_and_others_are_as_moto_says() {
        let (w1, mut w2, mut w3) = (machine("w1", 10), machine("w2", 11), machine("w3", 12));
        w2.phase = Phase::ShuttingDown;
        w3.phase = Phase::Stopping;
        let ids = [w1.id.clone(), w2.id.clone(), w3.id.clone()];
        let [a, b, c] = ids.each_ref().map(String::as_str);
        let state = State {
            machines: vec![w1, w2, w3],
            ..State::default()
        };
        let said = going_down(
            &listing([(a, "running"), (b, "running"), (c, "running")]),
            &state,
        );
        let names: Vec<_> = said
            .split("<name>")
            .skip(1)
            .filter_map(|rest| rest.split('<').next())
            .collect();
        assert_eq!(names, ["running", "shutting-down", "stopping"]);
        assert!(said.contains("<code>32</code><name>shutting-down</name></instanceState></item>"));
    }
}
