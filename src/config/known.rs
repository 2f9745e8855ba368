//! The fields that the kubelet and containerd know. Both ignore any other field and only log a
//! line, so a mistyped one would have no effect.
//!
//! The tables have one path per line: `*` stands for any key, `**` for anything below it. They come
//! from the Go types of `k8s.io/kubelet/config/v1beta1` and of containerd's
//! `cmd/containerd/server/config` and `internal/cri/config`, and from the plugins that `containerd
//! config default` lists.

use serde_json::Value;

use super::{Overrides, Settings};
use crate::error::{Error, Result};

/// A program and the fields of its configuration.
struct Fields {
    /// The name of its pin, and of the settings section that is merged into its configuration.
    program: &'static str,
    /// The minor version that has these fields. Other versions may differ.
    version: &'static str,
    paths: &'static str,
}

const KUBELET: Fields = Fields {
    program: "kubelet",
    version: "1.36.",
    paths: include_str!("known/kubelet.txt"),
};

const CONTAINERD: Fields = Fields {
    program: "containerd",
    version: "2.3.",
    paths: include_str!("known/containerd.txt"),
};

/// Refuses fields that the pinned kubelet or containerd would ignore.
pub(super) fn validate(settings: &Settings) -> Result<()> {
    KUBELET.require(settings, &settings.kubelet.config)?;
    CONTAINERD.require(settings, &settings.containerd.config)
}

impl Fields {
    fn require(&self, settings: &Settings, overrides: &Overrides) -> Result<()> {
        let program = self.program;
        let pinned = settings.pins.get(program);
        let Some(pin) = pinned.filter(|pin| pin.version.starts_with(self.version)) else {
            return Ok(());
        };
        let paths: Vec<&str> = self.paths.lines().collect();
        let Some(unknown) = in_table(overrides, &paths) else {
            return Ok(());
        };
        let place = unknown.path.join(".");
        let error = Error::refused(format!(
            "{program}.config.{place}: {program} {} has no such field and would ignore it",
            pin.version
        ));
        Err(match unknown.nearest {
            Some(known) => error.hint(format!("did you mean `{known}`?")),
            None => error.hint(format!(
                "look it up in the documentation of {program}'s configuration"
            )),
        })
    }
}

/// A field that is not in the table, and the known one most like it.
#[derive(Debug, PartialEq, Eq)]
struct Unknown {
    path: Vec<String>,
    nearest: Option<String>,
}

fn in_table(table: &Overrides, paths: &[&str]) -> Option<Unknown> {
    table.iter().find_map(|(key, value)| {
        let below: Vec<&str> = paths.iter().filter_map(|path| step(path, key)).collect();
        let unknown = if below.is_empty() {
            let nearest = nearest(key, paths);
            Some(Unknown {
                path: vec![],
                nearest,
            })
        } else {
            in_value(value, &below)
        };
        unknown.map(|mut unknown| {
            unknown.path.insert(0, key.clone());
            unknown
        })
    })
}

fn in_value(value: &Value, paths: &[&str]) -> Option<Unknown> {
    match value {
        Value::Object(table) => in_table(table, paths),
        Value::Array(items) => items.iter().find_map(|item| in_value(item, paths)),
        _ => None,
    }
}

/// The rest of the path after this key; `None` if the path does not begin with the key.
fn step<'a>(path: &'a str, key: &str) -> Option<&'a str> {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match first {
        "**" => Some(path),
        "*" => Some(rest),
        first => (first == key).then_some(rest),
    }
}

fn nearest(key: &str, paths: &[&str]) -> Option<String> {
    let firsts = paths.iter().filter_map(|path| path.split('/').next());
    firsts
        .filter(|first| !first.is_empty())
        .map(|first| (strsim::damerau_levenshtein(key, first), first))
        .filter(|(distance, first)| *distance <= first.len().div_ceil(3))
        .min()
        .map(|(_, first)| first.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Fragment, load};

    #[test]
    fn a_field_that_a_program_would_ignore_is_refused_with_its_path() {
        for (text, place, hint) in [
            (
                "[kubelet.config]\nmaxPod = 20",
                "kubelet.config.maxPod:",
                "`maxPods`",
            ),
            (
                "[kubelet.config.authentication.anonymus]\nenabled = false",
                "kubelet.config.authentication.anonymus:",
                "`anonymous`",
            ),
            (
                "[[kubelet.config.reservedMemory]]\nnuma = 0",
                "kubelet.config.reservedMemory.numa:",
                "documentation",
            ),
            (
                "[kubelet.config.maxPods]\nx = 1",
                "kubelet.config.maxPods.x:",
                "documentation",
            ),
            (
                "[containerd.config.debugs]\nlevel = 'info'",
                "containerd.config.debugs:",
                "`debug`",
            ),
            (
                // The plugin's name in version 2 of the file.
                "[containerd.config.plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'native'",
                "containerd.config.plugins.io.containerd.grpc.v1.cri.containerd:",
                "documentation",
            ),
            (
                "[containerd.config.plugins.'io.containerd.cri.v1.runtime']\nenable_cid = true",
                "containerd.config.plugins.io.containerd.cri.v1.runtime.enable_cid:",
                "`enable_cdi`",
            ),
        ] {
            let error = load(&[Fragment::parse("c", text).unwrap()]).unwrap_err();
            assert_eq!(error.kind().exit_code(), 3, "{text}");
            let (said, remedy) = (error.one_line(), error.remedy().unwrap());
            assert!(said.starts_with(place), "{text}: {said}");
            assert!(remedy.contains(hint), "{text}: {remedy}");
        }
    }

    #[test]
    fn known_fields_are_accepted() {
        let text = r#"
            [kubelet.config]
            failCgroupV1 = false
            featureGates.Anything = true
            evictionHard."imagefs.available" = "1Gi"
            registerWithTaints = [{ key = "a", effect = "NoSchedule" }]
            [kubelet.config.logging.options.json]
            infoBufferSize = "0"
            [containerd.config]
            oom_score = -999
            [containerd.config.plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata]
            runtime_type = "io.containerd.kata.v2"
            options.ConfigPath = "/opt/kata.toml"
            [containerd.config.plugins."io.containerd.gc.v1.scheduler"]
            pause_threshold = 0.02
        "#;
        load(&[Fragment::parse("c", text).unwrap()]).unwrap();
    }

    #[test]
    fn another_version_may_have_other_fields() {
        let other = "pins.containerd.version = '2.4.0'\ncontainerd.config.brand_new = 1";
        load(&[Fragment::parse("c", other).unwrap()]).unwrap();
        let settings = load(&[]).unwrap();
        for fields in [KUBELET, CONTAINERD] {
            let pinned = &settings.pins[fields.program].version;
            assert!(
                pinned.starts_with(fields.version),
                "update the list of fields to {pinned}"
            );
        }
    }
}
