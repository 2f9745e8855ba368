//! Security groups: one for each role, and which port is open to whom.

use serde_json::{Value, json};

use super::{
    network::{ENDPOINTS_GROUP, Placement},
    request::Request,
    template::{Resource, Template, named, reference},
    title,
};
use crate::ports::Role;

/// Who may open a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peers {
    /// Any address.
    Everyone,
    /// The nodes of both roles.
    Nodes,
    /// The nodes of one role.
    Of(Role),
}

/// An open port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    /// The start of its resources' names.
    name: &'static str,
    protocol: &'static str,
    ports: (u16, u16),
    from: Peers,
    to: Peers,
}

/// The groups of the roles.
#[derive(Debug)]
pub struct Groups {
    /// A reference to the control planes' group.
    pub control_plane: Value,
    /// A reference to the workers' group.
    pub worker: Value,
}

impl Groups {
    /// The group of a role.
    pub fn of(&self, role: Role) -> &Value {
        match role {
            Role::ControlPlane => &self.control_plane,
            Role::Worker => &self.worker,
        }
    }
}

/// All open ports, as docs/operations.md lists them.
fn rules(join_port: u16) -> [Rule; 7] {
    let control_planes = Peers::Of(Role::ControlPlane);
    let rule = |name, protocol, ports, from, to| Rule {
        name,
        protocol,
        ports,
        from,
        to,
    };
    [
        rule("Api", "tcp", (6443, 6443), Peers::Nodes, control_planes),
        rule(
            "Join",
            "tcp",
            (join_port, join_port),
            Peers::Nodes,
            control_planes,
        ),
        rule("Etcd", "tcp", (2379, 2380), control_planes, control_planes),
        rule("Kubelet", "tcp", (10250, 10250), Peers::Nodes, Peers::Nodes),
        rule("Vxlan", "udp", (4789, 4789), Peers::Nodes, Peers::Nodes),
        rule(
            "Http",
            "tcp",
            (80, 80),
            Peers::Everyone,
            Peers::Of(Role::Worker),
        ),
        rule(
            "Https",
            "tcp",
            (443, 443),
            Peers::Everyone,
            Peers::Of(Role::Worker),
        ),
    ]
}

/// The resource of a role's group.
fn resource_of(role: Role) -> String {
    format!("{}SecurityGroup", title(role))
}

/// Adds the groups. Outgoing connections are not restricted.
pub fn add(template: &mut Template, request: &Request, network: &Placement) -> Groups {
    let mut group = |role: Role| {
        let properties = json!({
            "GroupDescription": format!("{role}s of {}", request.cluster),
            "VpcId": network.vpc,
            "Tags": named(&format!("{}-{role}", request.cluster)),
        });
        template.resource(
            resource_of(role),
            Resource::new("AWS::EC2::SecurityGroup", properties),
        )
    };
    let groups = Groups {
        control_plane: group(Role::ControlPlane),
        worker: group(Role::Worker),
    };
    for rule in rules(request.settings.join.port) {
        open(template, rule);
    }
    if network.endpoints {
        let from = |role: Role| {
            json!({
                "IpProtocol": "tcp",
                "FromPort": 443,
                "ToPort": 443,
                "SourceSecurityGroupId": reference(&resource_of(role)),
            })
        };
        let properties = json!({
            "GroupDescription": format!("AWS endpoints for {}", request.cluster),
            "VpcId": network.vpc,
            "SecurityGroupIngress": [from(Role::ControlPlane), from(Role::Worker)],
            "Tags": named(&format!("{}-endpoints", request.cluster)),
        });
        template.resource(
            ENDPOINTS_GROUP,
            Resource::new("AWS::EC2::SecurityGroup", properties),
        );
    }
    groups
}

/// Adds a rule as separate resources. As properties of the groups, the rules would make the groups
/// refer to each other in a cycle.
fn open(template: &mut Template, rule: Rule) {
    for to in roles(rule.to) {
        let mut ingress = |name: String, from: (&str, Value)| {
            let mut properties = json!({
                "GroupId": reference(&resource_of(to)),
                "IpProtocol": rule.protocol,
                "FromPort": rule.ports.0,
                "ToPort": rule.ports.1,
            });
            properties[from.0] = from.1;
            template.resource(
                name,
                Resource::new("AWS::EC2::SecurityGroupIngress", properties),
            );
        };
        let (name, to) = (rule.name, title(to));
        if rule.from == Peers::Everyone {
            ingress(format!("{name}To{to}"), ("CidrIp", json!("0.0.0.0/0")));
        }
        for from in roles(rule.from) {
            let group = reference(&resource_of(from));
            let name = format!("{name}From{}To{to}", title(from));
            ingress(name, ("SourceSecurityGroupId", group));
        }
    }
}

fn roles(peers: Peers) -> Vec<Role> {
    match peers {
        Peers::Everyone => Vec::new(),
        Peers::Nodes => vec![Role::ControlPlane, Role::Worker],
        Peers::Of(role) => vec![role],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_ports_are_those_that_the_documentation_lists() {
        let page = include_str!("../../docs/operations.md");
        let table = page
            .split_once("**Security groups.**")
            .map(|(_, rest)| rest);
        let rows = table.into_iter().flat_map(str::lines);
        let rows: Vec<Vec<&str>> = rows
            .skip_while(|line| !line.starts_with("|---"))
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let mut listed = Vec::new();
        for row in &rows {
            for port in row[1].split(", ") {
                listed.push((port.to_owned(), row[2], row[3].split([':', ',']).next()));
            }
        }
        let words = |peers| match peers {
            Peers::Everyone => "visitors",
            Peers::Nodes => "all nodes",
            Peers::Of(Role::ControlPlane) => "control planes",
            Peers::Of(Role::Worker) => "workers",
        };
        let rules = rules(7444);
        assert_eq!(listed.len(), rules.len(), "{listed:?}");
        for (rule, (port, from, to)) in rules.into_iter().zip(&listed) {
            let (first, last) = rule.ports;
            let range = if first == last {
                format!("{first}/{}", rule.protocol)
            } else {
                format!("{first}-{last}/{}", rule.protocol)
            };
            assert_eq!(*port, range);
            assert!(from.starts_with(words(rule.from)), "{port}: {from}");
            assert_eq!(*to, Some(words(rule.to)), "{port}");
        }
    }
}
