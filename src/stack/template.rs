//! A CloudFormation template as data.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Context, Result};

/// A template. Its parts are written in the order of the fields.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Template {
    #[serde(rename = "AWSTemplateFormatVersion")]
    format: &'static str,
    description: String,
    parameters: BTreeMap<&'static str, Value>,
    resources: BTreeMap<String, Resource>,
    outputs: BTreeMap<&'static str, Value>,
}

/// A resource of a template.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Resource {
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_replace_policy: Option<&'static str>,
    properties: Value,
}

impl Resource {
    /// A resource of a type such as `AWS::EC2::VPC`.
    pub fn new(kind: &'static str, properties: Value) -> Self {
        Self {
            kind,
            depends_on: Vec::new(),
            deletion_policy: None,
            update_replace_policy: None,
            properties,
        }
    }

    /// Created after these, and deleted before them.
    pub fn after(mut self, others: Vec<String>) -> Self {
        self.depends_on = others;
        self
    }

    /// Stays when the stack is deleted.
    pub fn retained(mut self) -> Self {
        self.deletion_policy = Some("Retain");
        self.update_replace_policy = Some("Retain");
        self
    }
}

impl Template {
    /// An empty template.
    pub fn new(description: String) -> Self {
        Self {
            format: "2010-09-09",
            description,
            parameters: BTreeMap::new(),
            resources: BTreeMap::new(),
            outputs: BTreeMap::new(),
        }
    }

    /// Adds a parameter, which a person may change without rendering the template again.
    pub fn parameter(&mut self, name: &'static str, definition: Value) {
        self.parameters.insert(name, definition);
    }

    /// Adds a resource, and returns the reference to it.
    pub fn resource(&mut self, name: impl Into<String>, resource: Resource) -> Value {
        let name = name.into();
        let reference = reference(&name);
        self.resources.insert(name, resource);
        reference
    }

    /// Adds an output, which CloudFormation shows once the stack is complete.
    pub fn output(&mut self, name: &'static str, description: &str, value: &Value) {
        let output = json!({"Description": description, "Value": value});
        self.outputs.insert(name, output);
    }

    /// The template as YAML. It contains none of CloudFormation's own tags, such as `!Ref`, so any
    /// parser can read it.
    pub fn to_yaml(&self) -> Result<String> {
        let yaml = serde_saphyr::to_string(self)
            .attempting(|| "cannot write the template as YAML".to_owned())?;
        Ok(format!(
            "# Made by `k8s-bootstrap cloudformation`, {}. Make it again rather than edit it.\n{yaml}",
            env!("CARGO_PKG_VERSION")
        ))
    }
}

/// `Ref`: the value of a parameter, or the id of a resource.
pub fn reference(name: &str) -> Value {
    json!({"Ref": name})
}

/// `Fn::GetAtt`: an attribute of a resource, such as its ARN.
pub fn attribute(resource: &str, name: &str) -> Value {
    json!({"Fn::GetAtt": [resource, name]})
}

/// `Fn::Sub`: `${AWS::Region}` and the like are filled in.
pub fn substitute(text: &str) -> Value {
    json!({"Fn::Sub": text})
}

/// The tag `Name`, which AWS's console shows as the resource's name.
pub fn named(name: &str) -> Value {
    json!([{"Key": "Name", "Value": name}])
}
