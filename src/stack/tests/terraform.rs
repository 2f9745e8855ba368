//! infra/terraform creates the stack of a rendered template: both must name the same things.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{LIMIT, all, parse, with};

const MAIN: &str = include_str!("../../../infra/terraform/main.tf");
const OUTPUTS: &str = include_str!("../../../infra/terraform/outputs.tf");
const README: &str = include_str!("../../../infra/terraform/README.md");

/// What is between `before` and the next quotation mark, everywhere in `text`.
fn quoted<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    let rest = text.split(before).skip(1);
    rest.map(|rest| rest.split('"').next().unwrap()).collect()
}

/// Every kind of template, also with a place for backups that is not the stack's.
fn templates() -> Vec<Value> {
    let elsewhere = with("[snapshots]\nto = \"s3://mine/a\"\n");
    let requests = all().into_iter().chain([elsewhere]);
    requests.map(|request| parse(&request)).collect()
}

fn keys<'a>(template: &'a Value, part: &str) -> BTreeSet<&'a str> {
    let part = template[part].as_object().unwrap();
    part.keys().map(String::as_str).collect()
}

#[test]
fn the_module_passes_on_every_output_and_needs_none_that_a_template_may_lack() {
    let always = quoted(OUTPUTS, "aws_cloudformation_stack.cluster.outputs[\"");
    let perhaps = quoted(
        OUTPUTS,
        "lookup(aws_cloudformation_stack.cluster.outputs, \"",
    );
    let mut lacked = BTreeSet::new();
    let templates = templates();
    for template in &templates {
        let outputs = keys(template, "Outputs");
        assert!(outputs.is_superset(&always), "{outputs:?}");
        let rest: BTreeSet<_> = outputs.difference(&always).copied().collect();
        assert!(rest.is_subset(&perhaps), "{rest:?}");
        lacked.extend(perhaps.difference(&rest));
    }
    assert_eq!(lacked, perhaps, "these are in every template");
}

#[test]
fn the_module_declares_the_capability_that_the_template_needs() {
    let declared = quoted(MAIN, "capabilities = [\"");
    for template in templates() {
        let resources = template["Resources"].as_object().unwrap();
        let named = resources.values().any(|resource| {
            let properties = &resource["Properties"];
            ["RoleName", "InstanceProfileName"]
                .iter()
                .any(|name| properties.get(name).is_some())
        });
        assert!(named && template.get("Transform").is_none());
        assert_eq!(declared, BTreeSet::from(["CAPABILITY_NAMED_IAM"]));
    }
}

#[test]
fn the_module_has_the_same_limit() {
    assert!(MAIN.contains(&format!("= {LIMIT}\n")));
}

#[test]
fn parameters_in_the_modules_examples_exist() {
    let mut seen = 0;
    for example in README.split("parameters = {").skip(1) {
        let (inner, _) = example.split_once('}').unwrap();
        for assignment in inner.split([',', '\n']) {
            let Some((name, _)) = assignment.split_once('=') else {
                continue;
            };
            for template in templates() {
                let names = keys(&template, "Parameters");
                assert!(names.contains(name.trim()), "{name}: {names:?}");
            }
            seen += 1;
        }
    }
    assert!(seen > 0);
}
