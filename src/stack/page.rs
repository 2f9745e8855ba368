//! How visitors reach the workers.

use serde_json::{Value, json};

use super::{
    network::Placement,
    request::{Request, Size},
    template::{Resource, Template, attribute, substitute},
};

/// Adds a load balancer for workers in private subnets; returns the target groups that workers
/// register with. With public addresses, the agents maintain the DNS name instead.
pub fn add(template: &mut Template, request: &Request, network: &Placement) -> Vec<Value> {
    if request.size == Size::Seed {
        let page = match &request.dns {
            Some(dns) => json!(format!("http://{}/", dns.name)),
            None => json!("http://ADDRESS/, at the public address of any worker"),
        };
        template.output("Page", "The page, once the workers are Ready.", &page);
        return Vec::new();
    }
    let properties = json!({
        "Type": "network",
        "Scheme": "internet-facing",
        "Subnets": network.public,
        "LoadBalancerAttributes": [
            {"Key": "load_balancing.cross_zone.enabled", "Value": "true"},
        ],
    });
    // AWS refuses a load balancer whose subnets have no route to the internet yet.
    let balancer = template.resource(
        "LoadBalancer",
        Resource::new("AWS::ElasticLoadBalancingV2::LoadBalancer", properties)
            .after(network.public_routes.clone()),
    );
    let mut targets = Vec::new();
    for (name, port) in [("Http", 80), ("Https", 443)] {
        let properties = json!({
            "VpcId": network.vpc,
            "Protocol": "TCP",
            "Port": port,
            // The ingress controller listens on both; it answers on 80 with or without certificates.
            "HealthCheckProtocol": "TCP",
            "HealthCheckPort": "80",
            "HealthCheckIntervalSeconds": 10,
            "HealthyThresholdCount": 2,
            "UnhealthyThresholdCount": 2,
            "TargetGroupAttributes": [
                {"Key": "deregistration_delay.timeout_seconds", "Value": "60"},
            ],
        });
        let target = template.resource(
            format!("{name}Targets"),
            Resource::new("AWS::ElasticLoadBalancingV2::TargetGroup", properties),
        );
        let properties = json!({
            "LoadBalancerArn": balancer,
            "Protocol": "TCP",
            "Port": port,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": target}],
        });
        template.resource(
            format!("{name}Listener"),
            Resource::new("AWS::ElasticLoadBalancingV2::Listener", properties),
        );
        targets.push(target);
    }
    let page = if let Some(dns) = &request.dns {
        let properties = json!({
            "HostedZoneId": dns.zone,
            "Name": dns.name,
            "Type": "A",
            "AliasTarget": {
                "DNSName": attribute("LoadBalancer", "DNSName"),
                "HostedZoneId": attribute("LoadBalancer", "CanonicalHostedZoneID"),
            },
        });
        template.resource(
            "PageName",
            Resource::new("AWS::Route53::RecordSet", properties),
        );
        json!(format!("http://{}/", dns.name))
    } else {
        substitute("http://${LoadBalancer.DNSName}/")
    };
    template.output("Page", "The page, once the workers are Ready.", &page);
    targets
}
