//! CloudFormation stacks, and what Auto Scaling launches from their templates.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use base64::Engine;
use roxmltree::{Document, Node};
use serde_json::json;

use super::IMAGE;
use super::client::{Aws, owned};

/// The public parameter that names the machines' image.
pub const IMAGE_PARAMETER: &str = "/lab/image";

/// What instances of a launch template get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchTemplate {
    /// The name of the instance profile.
    pub profile: String,
    /// Ids of the security groups.
    pub security_groups: Vec<String>,
    /// Tags of the instance.
    pub tags: BTreeMap<String, String>,
    /// User-data, plain.
    pub user_data: String,
}

impl Aws {
    /// Creates a stack of this template, JSON; returns the ids of its resources by their names in
    /// the template.
    pub async fn create_stack(
        &self,
        name: &str,
        template: &str,
    ) -> Result<BTreeMap<String, String>> {
        let image =
            json!({"Name": IMAGE_PARAMETER, "Value": IMAGE, "Type": "String", "Overwrite": true});
        self.ssm("PutParameter", &image).await?;
        let parameters = owned(&[
            ("StackName", name),
            ("TemplateBody", template),
            ("Capabilities.member.1", "CAPABILITY_NAMED_IAM"),
        ]);
        self.call("cloudformation", "CreateStack", &parameters)
            .await?;
        let resources = self.stack_resources(name).await?;
        Ok(resources
            .into_iter()
            .map(|resource| (resource.name, resource.id))
            .collect())
    }

    async fn stack_resources(&self, name: &str) -> Result<Vec<Resource>> {
        let parameters = owned(&[("StackName", name)]);
        let xml = self
            .call("cloudformation", "DescribeStackResources", &parameters)
            .await?;
        resources(&xml)
    }

    /// Deletes a stack. moto cannot delete route tables, and therefore no VPC with them: it deletes
    /// the rest first, and the VPC once the lab has deleted the tables.
    pub async fn delete_stack(&self, name: &str) -> Result<()> {
        let resources = self.stack_resources(name).await?;
        let parameters = owned(&[("StackName", name)]);
        let delete = || self.call("cloudformation", "DeleteStack", &parameters);
        if delete().await.is_ok() {
            return Ok(());
        }
        for table in resources
            .iter()
            .filter(|resource| resource.kind == "AWS::EC2::RouteTable")
        {
            let parameters = owned(&[("RouteTableId", &table.id)]);
            self.call("ec2", "DeleteRouteTable", &parameters).await?;
        }
        delete().await.map(drop)
    }

    /// The newest version of a launch template.
    pub async fn launch_template(&self, id: &str) -> Result<LaunchTemplate> {
        let parameters = owned(&[
            ("LaunchTemplateId", id),
            ("LaunchTemplateVersion.1", "$Latest"),
        ]);
        let xml = self
            .call("ec2", "DescribeLaunchTemplateVersions", &parameters)
            .await?;
        launch_template(&xml)
    }
}

/// A resource of a stack.
#[derive(Debug, PartialEq, Eq)]
struct Resource {
    /// Its name in the template.
    name: String,
    /// `AWS::EC2::VPC` and the like.
    kind: String,
    id: String,
}

fn resources(xml: &str) -> Result<Vec<Resource>> {
    let document = Document::parse(xml).context("the stack's resources are no XML")?;
    let members = document
        .descendants()
        .filter(|node| node.tag_name().name() == "member");
    // moto gives no id to what has none of its own, such as rules of security groups.
    Ok(members
        .filter_map(|member| {
            let text = |name| text(member, name);
            Some(Resource {
                name: text("LogicalResourceId")?,
                kind: text("ResourceType")?,
                id: text("PhysicalResourceId")?,
            })
        })
        .collect())
}

fn launch_template(xml: &str) -> Result<LaunchTemplate> {
    let document = Document::parse(xml).context("the launch template is no XML")?;
    let data = child(document.root(), "launchTemplateData").context("no launch template")?;
    let profile = child(data, "iamInstanceProfile").and_then(|profile| text(profile, "arn"));
    let profile = profile.context("the launch template has no instance profile")?;
    let user_data = text(data, "userData").context("the launch template has no user-data")?;
    let user_data = base64::engine::general_purpose::STANDARD
        .decode(user_data)
        .context("the user-data is not base64")?;
    let groups = child(data, "securityGroupIdSet");
    let groups = groups.into_iter().flat_map(|groups| groups.children());
    let specifications = child(data, "tagSpecificationSet");
    let instance = specifications
        .into_iter()
        .flat_map(|all| all.children())
        .find(|one| text(*one, "resourceType").as_deref() == Some("instance"));
    let tags = instance.and_then(|one| child(one, "tagSet"));
    Ok(LaunchTemplate {
        profile: profile.rsplit('/').next().unwrap_or_default().to_owned(),
        security_groups: groups
            .filter_map(|group| group.text().map(str::to_owned))
            .collect(),
        tags: tags
            .into_iter()
            .flat_map(|tags| tags.children())
            .filter_map(|tag| Some((text(tag, "key")?, text(tag, "value")?)))
            .collect(),
        user_data: String::from_utf8(user_data).context("the user-data is no text")?,
    })
}

/// The first element with this name below a node, whatever its namespace.
fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.descendants()
        .find(|below| below.tag_name().name() == name)
}

fn text(node: Node<'_, '_>, name: &str) -> Option<String> {
    let found = node
        .descendants()
        .find(|below| below.tag_name().name() == name);
    found?.text().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_launch_template_is_read_from_the_answer() {
        let xml = "<R xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15\"><item><launchTemplateData>\
            <iamInstanceProfile><arn>arn:aws:iam::1:instance-profile/demo-worker</arn></iamInstanceProfile>\
            <userData>IyEvYmluL3NoCg==</userData><tagSpecificationSet>\
            <item><resourceType>volume</resourceType><tagSet><item><key>no</key><value>no</value></item></tagSet></item>\
            <item><resourceType>instance</resourceType><tagSet><item><key>a</key><value>b</value></item></tagSet></item>\
            </tagSpecificationSet><securityGroupIdSet><item>sg-1</item></securityGroupIdSet>\
            </launchTemplateData></item></R>";
        let template = launch_template(xml).unwrap();
        assert_eq!(
            template,
            LaunchTemplate {
                profile: "demo-worker".to_owned(),
                security_groups: vec!["sg-1".to_owned()],
                tags: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
                user_data: "#!/bin/sh\n".to_owned(),
            }
        );
    }

    #[test]
    fn resources_without_an_id_are_left_out() {
        let xml = "<R xmlns=\"x\"><member><LogicalResourceId>A</LogicalResourceId></member>\
            <member><LogicalResourceId>B</LogicalResourceId><PhysicalResourceId>b-1</PhysicalResourceId><ResourceType>AWS::EC2::VPC</ResourceType></member></R>";
        let found = resources(xml).unwrap();
        let expected = Resource {
            name: "B".to_owned(),
            kind: "AWS::EC2::VPC".to_owned(),
            id: "b-1".to_owned(),
        };
        assert_eq!(found, [expected]);
    }
}
