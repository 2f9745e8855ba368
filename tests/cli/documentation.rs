//! Everything that the documentation names exists: settings, commands, tags, files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser as _;
use k8s_bootstrap::{
    cli::Cli,
    config::{DEFAULTS, Fragment, load},
    user_data,
};
use serde_json::json;
use toml::{Table, Value};

/// A fenced block and its location.
struct Block {
    place: String,
    language: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md, that of the Terraform module, and everything under docs/.
fn pages() -> Vec<(PathBuf, String)> {
    let mut found = vec![
        root().join("README.md"),
        root().join("infra/terraform/README.md"),
    ];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

fn blocks(language: &str) -> Vec<Block> {
    let mut found = Vec::new();
    for (path, text) in pages() {
        let mut open: Option<Block> = None;
        for (index, line) in text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(language)) => {
                    open = Some(Block {
                        place: format!("{}:{}", path.display(), index + 1),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                (Some(_), Some(_)) => found.extend(open.take()),
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block never ends", path.display());
    }
    found.retain(|block| block.language == language);
    assert!(!found.is_empty(), "no block of {language}");
    found
}

#[test]
fn every_example_of_settings_is_accepted() {
    for Block { place, text, .. } in blocks("toml") {
        let loaded = Fragment::parse(&*place, &text).and_then(|fragment| load(&[fragment]));
        if let Err(error) = loaded {
            panic!("{error}");
        }
    }
}

#[test]
fn every_command_line_in_an_example_is_accepted() {
    let mut seen = 0;
    for Block { place, text, .. } in blocks("sh") {
        for line in text.replace("\\\n", " ").lines() {
            let words = line.split(['|', '<', '>', '#']).next().unwrap();
            let mut words = words
                .split_whitespace()
                .skip_while(|w| *w == "sudo")
                .map(|word| word.trim_matches('"'))
                .peekable();
            // Also as a release's file.
            let is_ours = |word: &&str| {
                word.split('/')
                    .next_back()
                    .unwrap()
                    .starts_with("k8s-bootstrap")
            };
            if !words.peek().is_some_and(is_ours) {
                continue;
            }
            seen += 1;
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{place}: `{line}`: {error}");
            }
        }
    }
    assert!(seen > 5, "only {seen} command lines were found");
}

/// `` `cluster.endpoint` `` and `` `[deadlines]` `` in running text.
#[test]
fn every_setting_that_is_named_exists() {
    let defaults: Table = DEFAULTS.parse().unwrap();
    let mut seen = 0;
    for (path, text) in pages() {
        for name in text.split('`').skip(1).step_by(2) {
            // Units and names of Kubernetes are not settings.
            if name.contains(".service") || name.contains('/') {
                continue;
            }
            let name = name.split(" =").next().unwrap();
            let name = name.trim_start_matches('[').trim_end_matches(']');
            let mut keys = name.split('.');
            let Some(Value::Table(mut table)) =
                keys.next().and_then(|key| defaults.get(key)).cloned()
            else {
                continue;
            };
            // Users may add add-ons and pins of their own: NAME stands for any of them.
            for key in keys {
                let key = match key {
                    "NAME" if name.starts_with("addons") => "calico",
                    "NAME" => "kubeadm",
                    other => other,
                };
                let place = path.display();
                match table.get(key).cloned() {
                    Some(Value::Table(inner)) => table = inner,
                    Some(_) => break,
                    None => panic!("{place}: `{name}`: there is no `{key}`"),
                }
            }
            seen += 1;
        }
    }
    assert!(seen > 5, "only {seen} names were found");
}

#[test]
fn every_relative_link_has_a_target() {
    for (path, text) in pages() {
        for target in text.split("](").skip(1) {
            let target = target.split([')', '#']).next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let there = path.parent().unwrap().join(target);
            assert!(there.exists(), "{}: {target}", path.display());
        }
    }
}

#[test]
fn the_policies_have_the_form_that_iam_accepts() {
    for name in ["control-plane", "worker"] {
        let text = fs::read(root().join(format!("docs/iam/{name}.json"))).unwrap();
        let policy: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(policy["Version"], "2012-10-17");
        for statement in policy["Statement"].as_array().unwrap() {
            assert_eq!(statement["Effect"], "Allow", "{name}: {statement}");
            for action in statement["Action"].as_array().unwrap() {
                let action = action.as_str().unwrap();
                assert!(!action.contains('*'), "{name} allows {action}");
            }
            let resources = statement["Resource"].as_array();
            let one = std::slice::from_ref(&statement["Resource"]);
            for resource in resources.map_or(one, Vec::as_slice) {
                // China and GovCloud are separate partitions.
                let resource = resource.as_str().unwrap();
                let of_any_partition = resource == "*" || resource.starts_with("arn:PARTITION:");
                assert!(of_any_partition, "{name}: {resource}");
            }
            // Describing instances and groups has no resource-level permissions, and neither have
            // ECR's login and the channels of Session Manager; all else must be restricted.
            let any = statement["Resource"] == "*";
            let describes = statement["Action"]
                .as_array()
                .unwrap()
                .iter()
                .all(|action| {
                    let (_, action) = action.as_str().unwrap().split_once(':').unwrap();
                    action.starts_with("Describe")
                });
            let sid = statement["Sid"].as_str();
            let unrestricted = matches!(sid, Some("OpenAShell" | "LogInToRegistries"));
            assert_eq!(any, describes || unrestricted, "{name}: {statement}");
        }
    }
}

#[test]
fn no_policy_allows_to_overwrite_the_record_of_a_cluster() {
    let text = fs::read(root().join("docs/iam/control-plane.json")).unwrap();
    let policy: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut seen = 0;
    for statement in policy["Statement"].as_array().unwrap() {
        let condition = &statement["Condition"];
        let creates_only = if statement["Action"] == json!(["ssm:PutParameter"]) {
            condition["StringNotEquals"]["ssm:Overwrite"] == "true"
        } else if statement["Sid"] == "FoundInBucket" {
            condition["Null"]["s3:if-none-match"] == "false"
        } else {
            continue;
        };
        assert!(creates_only, "{statement}");
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn the_user_data_in_the_readme_is_what_the_command_prints() {
    let example = blocks("sh")
        .into_iter()
        .find(|block| block.place.contains("README.md") && block.text.starts_with("#!/bin/sh"))
        .expect("README.md shows the user-data");
    let between = |before: &str, after: &str| {
        let rest = example.text.split_once(before).unwrap().1;
        rest.split_once(after).unwrap().0.to_owned()
    };
    let url = between("{ get '", "'");
    let sha256 = between("echo '", "  '");
    assert_eq!(sha256.len(), 64, "{sha256}");
    assert_eq!(
        user_data::form(&[url], &sha256, None, &[], &[]).unwrap(),
        example.text
    );
}
