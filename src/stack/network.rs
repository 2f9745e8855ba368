//! The VPC, its subnets and their routes.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{
    request::{Network, Outbound, Request, Size},
    template::{Resource, Template, attribute, named, reference, substitute},
};
use crate::error::{Error, Result};

/// The part of the network that other resources refer to.
#[derive(Debug)]
pub struct Placement {
    /// The id of the VPC, or a reference to the one that the stack creates.
    pub vpc: Value,
    /// Subnets of the nodes.
    pub nodes: Vec<Value>,
    /// Subnets that the internet reaches.
    pub public: Vec<Value>,
    /// Routes that must exist before nodes start.
    pub routes: Vec<String>,
    /// Routes that must exist before a load balancer.
    pub public_routes: Vec<String>,
    /// Whether nodes reach AWS through endpoints, which need a security group.
    pub endpoints: bool,
}

/// Services that nodes use, by the last part of the endpoint's name.
const SERVICES: [&str; 7] = [
    "ec2",
    "ssm",
    "ssmmessages",
    "sts",
    "autoscaling",
    "ecr.api",
    "ecr.dkr",
];

/// The security group of the endpoints, see `security`.
pub const ENDPOINTS_GROUP: &str = "EndpointSecurityGroup";

/// Adds the network. For an existing VPC, nothing is added.
pub fn add(template: &mut Template, request: &Request) -> Result<Placement> {
    match &request.network {
        Network::Existing {
            vpc,
            subnets,
            public_subnets,
        } => Ok(Placement {
            vpc: json!(vpc),
            nodes: subnets.iter().map(|id| json!(id)).collect(),
            public: public_subnets.iter().map(|id| json!(id)).collect(),
            routes: Vec::new(),
            public_routes: Vec::new(),
            endpoints: false,
        }),
        Network::New {
            cidr,
            zones,
            outbound,
        } => create(template, request, cidr, zones, *outbound),
    }
}

fn create(
    template: &mut Template,
    request: &Request,
    cidr: &str,
    zones: &[String],
    outbound: Outbound,
) -> Result<Placement> {
    let cluster = &request.cluster;
    let properties = json!({
        "CidrBlock": cidr,
        "EnableDnsSupport": true,
        "EnableDnsHostnames": true,
        "Tags": named(cluster),
    });
    let vpc = template.resource("Vpc", Resource::new("AWS::EC2::VPC", properties));
    let public_routes = internet(template, cluster, &vpc);
    let mut parts = parts(cidr)?;
    let zone = |index: usize| {
        zones.get(index).map_or_else(
            || json!({"Fn::Select": [index, {"Fn::GetAZs": ""}]}),
            |zone| json!(zone),
        )
    };
    let mut subnet = |kind: &str, index: usize| Subnet {
        name: format!("{kind}Subnet{}", index + 1),
        tag: format!("{cluster}-{}-{}", kind.to_lowercase(), index + 1),
        range: parts.next().unwrap_or_default(),
        zone: zone(index),
        public: kind == "Public",
    };
    let mut placement = Placement {
        vpc: vpc.clone(),
        nodes: Vec::new(),
        public: Vec::new(),
        routes: vec![PUBLIC_ROUTE.to_owned()],
        public_routes: vec![PUBLIC_ROUTE.to_owned()],
        endpoints: request.size == Size::Ha && outbound == Outbound::Endpoints,
    };
    for index in 0..request.zone_count() {
        let subnet = subnet("Public", index);
        placement
            .public
            .push(subnet.add(template, &vpc, &public_routes));
    }
    if request.size == Size::Seed {
        placement.nodes.clone_from(&placement.public);
        return Ok(placement);
    }
    let mut tables = Vec::new();
    for index in 0..request.zone_count() {
        let number = index + 1;
        let tag = format!("{cluster}-private-{number}");
        let routes = route_table(template, &format!("PrivateRoutes{number}"), &vpc, &tag);
        if outbound == Outbound::Nat {
            let route = nat(template, cluster, number, &routes);
            placement.routes.push(route);
        }
        let subnet = subnet("Private", index);
        placement.nodes.push(subnet.add(template, &vpc, &routes));
        tables.push(routes);
    }
    endpoints(template, &mut placement, &tables);
    Ok(placement)
}

/// The route that makes a subnet public.
const PUBLIC_ROUTE: &str = "PublicRoute";

/// Adds the way to the internet; returns the route table of public subnets.
fn internet(template: &mut Template, cluster: &str, vpc: &Value) -> Value {
    let tags = json!({"Tags": named(cluster)});
    let gateway = template.resource(
        "InternetGateway",
        Resource::new("AWS::EC2::InternetGateway", tags),
    );
    let attachment = json!({"VpcId": vpc, "InternetGatewayId": gateway});
    template.resource(
        "InternetGatewayAttachment",
        Resource::new("AWS::EC2::VPCGatewayAttachment", attachment),
    );
    let routes = route_table(template, "PublicRoutes", vpc, &format!("{cluster}-public"));
    let to_internet = json!({
        "RouteTableId": routes,
        "DestinationCidrBlock": "0.0.0.0/0",
        "GatewayId": gateway,
    });
    template.resource(
        PUBLIC_ROUTE,
        Resource::new("AWS::EC2::Route", to_internet)
            .after(vec!["InternetGatewayAttachment".to_owned()]),
    );
    routes
}

/// Adds the endpoints for private subnets with these route tables.
fn endpoints(template: &mut Template, placement: &mut Placement, tables: &[Value]) {
    // It costs nothing, and traffic to S3 then does not pass through the NAT gateways.
    let bucket = json!({
        "VpcId": placement.vpc,
        "ServiceName": service("s3"),
        "VpcEndpointType": "Gateway",
        "RouteTableIds": tables,
    });
    template.resource("S3Endpoint", Resource::new("AWS::EC2::VPCEndpoint", bucket));
    if placement.endpoints {
        for name in SERVICES {
            placement.routes.push(endpoint(template, placement, name));
        }
    }
}

struct Subnet {
    name: String,
    tag: String,
    range: String,
    zone: Value,
    public: bool,
}

impl Subnet {
    /// Adds it with these routes, and returns the reference to it.
    fn add(self, template: &mut Template, vpc: &Value, routes: &Value) -> Value {
        let properties = json!({
            "VpcId": vpc,
            "CidrBlock": self.range,
            "AvailabilityZone": self.zone,
            "MapPublicIpOnLaunch": self.public,
            "Tags": named(&self.tag),
        });
        let association = json!({"SubnetId": reference(&self.name), "RouteTableId": routes});
        template.resource(
            format!("{}Routes", self.name),
            Resource::new("AWS::EC2::SubnetRouteTableAssociation", association),
        );
        template.resource(self.name, Resource::new("AWS::EC2::Subnet", properties))
    }
}

fn route_table(template: &mut Template, name: &str, vpc: &Value, tag: &str) -> Value {
    let properties = json!({"VpcId": vpc, "Tags": named(tag)});
    template.resource(name, Resource::new("AWS::EC2::RouteTable", properties))
}

/// Adds a NAT gateway for a zone; returns the name of the route through it.
fn nat(template: &mut Template, cluster: &str, number: usize, routes: &Value) -> String {
    let tags = named(&format!("{cluster}-nat-{number}"));
    let address = format!("NatAddress{number}");
    template.resource(
        &*address,
        Resource::new("AWS::EC2::EIP", json!({"Domain": "vpc", "Tags": tags}))
            .after(vec!["InternetGatewayAttachment".to_owned()]),
    );
    let properties = json!({
        "AllocationId": attribute(&address, "AllocationId"),
        "SubnetId": reference(&format!("PublicSubnet{number}")),
        "Tags": tags,
    });
    // It reaches the internet through the public subnet's route.
    let gateway = template.resource(
        format!("Nat{number}"),
        Resource::new("AWS::EC2::NatGateway", properties).after(vec!["PublicRoute".to_owned()]),
    );
    let route = format!("PrivateRoute{number}");
    let properties = json!({
        "RouteTableId": routes,
        "DestinationCidrBlock": "0.0.0.0/0",
        "NatGatewayId": gateway,
    });
    template.resource(&*route, Resource::new("AWS::EC2::Route", properties));
    route
}

/// Adds an interface endpoint for a service; returns its name.
fn endpoint(template: &mut Template, placement: &Placement, name: &str) -> String {
    let resource = format!("{}Endpoint", pascal(name));
    let properties = json!({
        "VpcId": placement.vpc,
        "ServiceName": service(name),
        "VpcEndpointType": "Interface",
        "PrivateDnsEnabled": true,
        "SubnetIds": placement.nodes,
        "SecurityGroupIds": [reference(ENDPOINTS_GROUP)],
    });
    template.resource(
        &*resource,
        Resource::new("AWS::EC2::VPCEndpoint", properties),
    );
    resource
}

/// The name of the endpoint service. Not for China, where most names begin with `cn.` and no rule
/// says which.
fn service(name: &str) -> Value {
    substitute(&format!("com.amazonaws.${{AWS::Region}}.{name}"))
}

/// `ecr.api` as `EcrApi`.
fn pascal(name: &str) -> String {
    let parts = name.split('.').map(|part| {
        let (first, rest) = part.split_at(1);
        first.to_uppercase() + rest
    });
    parts.collect()
}

/// The range, cut into sixteen parts.
fn parts(cidr: &str) -> Result<impl Iterator<Item = String>> {
    let wrong = || Error::usage(format!("--vpc-cidr: `{cidr}` is not an IPv4 network"));
    let (address, bits) = cidr.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let bits: u32 = bits.parse().map_err(|_| wrong())?;
    let hosts = u32::MAX.checked_shr(bits).unwrap_or(0);
    let (first, bits) = (address.to_bits() & !hosts, bits + 4);
    Ok((0..16).map(move |part: u32| {
        let start = Ipv4Addr::from_bits(first + (part << (32 - bits)));
        format!("{start}/{bits}")
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_into_sixteen_parts() {
        let all: Vec<String> = parts("10.42.7.1/16").unwrap().collect();
        assert_eq!(all.len(), 16);
        assert_eq!(all[..2], ["10.42.0.0/20", "10.42.16.0/20"]);
        assert_eq!(all[15], "10.42.240.0/20");
        let small: Vec<String> = parts("10.0.4.0/22").unwrap().collect();
        assert_eq!(small[15], "10.0.7.192/26");
    }
}
