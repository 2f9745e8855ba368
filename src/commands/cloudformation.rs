//! `cloudformation`: the stack of a whole cluster, for an account that has nothing yet.

use super::{
    configure::{Configuration, check, digest, urls},
    print,
};
use crate::{
    cli::CloudformationArguments,
    config::Fragment,
    error::{Error, Result},
    stack::{self, Dns, Network, Request, Size},
};

/// Prints the template.
pub fn cloudformation(arguments: &CloudformationArguments) -> Result<()> {
    print(&stack::render(&request(arguments)?)?)
}

fn request(arguments: &CloudformationArguments) -> Result<Request> {
    let urls = urls(&arguments.agent.url)?;
    let dns = dns(arguments)?;
    let mut configuration = Configuration::read(arguments.agent.config.as_deref())?;
    if let (Size::Seed, Some(dns)) = (arguments.size, &dns) {
        // The agents maintain the name themselves.
        let text = format!(
            "[dns]\nenabled = true\nzone = \"{}\"\nname = \"{}\"\naddresses = \"public\"\n",
            dns.zone, dns.name
        );
        configuration.add(Fragment::parse("--domain", &text)?, text);
    }
    let settings = configuration.settings()?;
    check(settings.clone())?;
    Ok(Request {
        cluster: arguments.cluster.clone(),
        size: arguments.size,
        workers: arguments.workers.unwrap_or(match arguments.size {
            Size::Seed => 2,
            Size::Ha => 3,
        }),
        instance_type: arguments.instance_type.clone(),
        disk: arguments.disk,
        network: network(arguments),
        dns,
        pod_roles: arguments.pod_roles,
        urls,
        sha256: digest()?,
        settings,
        config: configuration.texts(),
    })
}

fn network(arguments: &CloudformationArguments) -> Network {
    match &arguments.vpc {
        Some(vpc) => Network::Existing {
            vpc: vpc.clone(),
            subnets: arguments.subnets.clone(),
            public_subnets: arguments.public_subnets.clone(),
        },
        None => Network::New {
            cidr: arguments.vpc_cidr.clone(),
            zones: arguments.zones.clone(),
            outbound: arguments.outbound,
        },
    }
}

fn dns(arguments: &CloudformationArguments) -> Result<Option<Dns>> {
    let (Some(zone), Some(name)) = (&arguments.hosted_zone, &arguments.domain) else {
        return Ok(None);
    };
    if let Some(text) = [zone, name]
        .into_iter()
        .find(|text| text.contains(['"', '\\', '\n']))
    {
        return Err(
            Error::usage(format!("`{text}` is neither a zone's id nor a name"))
                .hint("example: --hosted-zone Z0123456789ABCDEFGHIJ --domain www.example.com"),
        );
    }
    Ok(Some(Dns {
        zone: zone.clone(),
        name: name.clone(),
    }))
}
