//! EC2 tags as settings.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::{
    error::{Error, Result},
    ports::Role,
};

/// Prefix of all our tags.
const PREFIX: &str = "k8s-bootstrap:";
/// The cluster that an instance belongs to.
pub const CLUSTER: &str = "k8s-bootstrap:cluster";
/// What the node is for: `control-plane` or `worker`.
pub const ROLE: &str = "k8s-bootstrap:role";
/// `k8s-bootstrap:label:KEY` = value of the node's label KEY.
const LABEL: &str = "label:";
/// `k8s-bootstrap:taint:KEY` = `VALUE:EFFECT` of the node's taint KEY.
const TAINT: &str = "taint:";
/// Written by agents; not settings.
const REPORTS: [&str; 2] = ["ca", "phase"];
/// `k8s-bootstrap:record:KEY`, written by agents: the record of a cluster without a store.
pub const RECORD: &str = "k8s-bootstrap:record:";
const EXPECTED: &str = "cluster, role, label:KEY and taint:KEY";

/// The settings that tags give: `cluster.name`, `node.role`, `node.labels`, `node.taints`.
///
/// Other tags are ignored. Unknown tags with our prefix are refused, as unknown settings are.
pub fn fragment(tags: &BTreeMap<String, String>) -> Result<Table> {
    let mut fragment = Table::new();
    for (tag, value) in tags {
        let Some(key) = tag.strip_prefix(PREFIX) else {
            continue;
        };
        if REPORTS.contains(&key) || tag.starts_with(RECORD) {
            continue;
        }
        if tag == CLUSTER {
            set(&mut fragment, &["cluster", "name"], value);
        } else if tag == ROLE {
            let role: Role = value
                .parse()
                .map_err(|problem: String| refused(tag, value, &problem))?;
            set(&mut fragment, &["node", "role"], role.as_str());
        } else if let Some(label) = key.strip_prefix(LABEL).filter(|label| !label.is_empty()) {
            set(&mut fragment, &["node", "labels", label], value);
        } else if let Some(taint) = key.strip_prefix(TAINT).filter(|taint| !taint.is_empty()) {
            set(&mut fragment, &["node", "taints", taint], value);
        } else {
            let problem = format!("unknown tag, expected one of {EXPECTED}");
            return Err(refused(tag, value, &problem));
        }
    }
    Ok(fragment)
}

fn refused(tag: &str, value: &str, problem: &str) -> Error {
    Error::refused(format!("the EC2 tag `{tag}` = `{value}`: {problem}")).hint(format!(
        "correct or remove the tag `{tag}` of this instance"
    ))
}

/// Sets a value at a path, creating tables as needed.
fn set(table: &mut Table, path: &[&str], value: &str) {
    match path {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), Value::String(value.to_owned()));
        }
        [first, rest @ ..] => {
            let inner = table
                .entry(*first)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::Kind;

    fn of(tags: &[(&str, &str)]) -> Result<Table> {
        let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        fragment(&tags.collect())
    }

    #[test]
    fn our_tags_become_settings_and_others_are_ignored() {
        let found = of(&[
            ("Name", "web"),
            ("aws:autoscaling:groupName", "workers"),
            ("k8s-bootstrap:ca", "sha256:00"),
            ("k8s-bootstrap:cluster", "prod"),
            ("k8s-bootstrap:label:disk", "ssd"),
            ("k8s-bootstrap:label:example.com/team", ""),
            ("k8s-bootstrap:phase", "ready"),
            ("k8s-bootstrap:record:founder:1", "{}"),
            ("k8s-bootstrap:role", "worker"),
            ("k8s-bootstrap:taint:gpu", "yes:NoSchedule"),
        ]);
        let expected: Table = r#"
            [cluster]
            name = "prod"
            [node]
            role = "worker"
            [node.labels]
            disk = "ssd"
            "example.com/team" = ""
            [node.taints]
            gpu = "yes:NoSchedule"
        "#
        .parse()
        .unwrap();
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn no_tags_set_nothing() {
        assert!(of(&[("Name", "web")]).unwrap().is_empty());
    }

    #[test]
    fn wrong_tags_are_refused_with_name_value_and_what_is_expected() {
        for (tag, value, expected) in [
            (
                "k8s-bootstrap:role",
                "master",
                "`control-plane` or `worker`",
            ),
            ("k8s-bootstrap:role", "", "`control-plane` or `worker`"),
            ("k8s-bootstrap:cluter", "prod", "cluster, role"),
            ("k8s-bootstrap:label:", "x", "label:KEY"),
            ("k8s-bootstrap:taint", "x:NoSchedule", "taint:KEY"),
            ("k8s-bootstrap:", "x", "cluster, role"),
        ] {
            let error = of(&[(tag, value)]).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            for part in [tag, value, expected] {
                assert!(error.one_line().contains(part), "{error}");
            }
            assert!(error.remedy().unwrap().contains(tag));
        }
    }
}
