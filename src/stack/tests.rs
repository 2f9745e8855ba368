#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::config::{Fragment, load, user_data::fragments};

mod issuer;
mod terraform;

fn request() -> Request {
    Request {
        cluster: "prod".to_owned(),
        size: Size::Seed,
        workers: 2,
        instance_type: "c7i-flex.large".to_owned(),
        disk: 30,
        network: Network::New {
            cidr: "10.0.0.0/16".to_owned(),
            zones: Vec::new(),
            outbound: Outbound::Nat,
        },
        dns: None,
        pod_roles: false,
        urls: vec!["https://example.com/agent".to_owned()],
        sha256: "00ff".to_owned(),
        settings: load(&[]).unwrap(),
        config: Vec::new(),
    }
}

fn with(toml: &str) -> Request {
    Request {
        settings: load(&[Fragment::parse("test", toml).unwrap()]).unwrap(),
        config: vec![toml.to_owned()],
        ..request()
    }
}

/// Every kind of template.
fn all() -> Vec<Request> {
    let dns = Dns {
        zone: "Z0123456789ABCDEFGHIJ".to_owned(),
        name: "www.example.com".to_owned(),
    };
    let existing = Network::Existing {
        vpc: "vpc-01234567".to_owned(),
        subnets: vec!["subnet-01234567".to_owned()],
        public_subnets: vec!["subnet-89abcdef".to_owned()],
    };
    let endpoints = Network::New {
        cidr: "10.0.0.0/22".to_owned(),
        zones: vec!["eu-central-1a".to_owned(), "eu-central-1b".to_owned()],
        outbound: Outbound::Endpoints,
    };
    let ha = Request {
        size: Size::Ha,
        ..request()
    };
    vec![
        request(),
        ha.clone(),
        issuer::request(),
        Request {
            dns: Some(dns),
            ..ha.clone()
        },
        Request {
            network: endpoints,
            ..ha.clone()
        },
        Request {
            network: existing,
            urls: vec!["s3://agents/k8s-bootstrap".to_owned()],
            ..ha
        },
    ]
}

fn parse(request: &Request) -> Value {
    serde_saphyr::from_str(&render(request).unwrap()).unwrap()
}

fn resources(template: &Value, kind: &str) -> Vec<Value> {
    let all = template["Resources"].as_object().unwrap().values();
    all.filter(|resource| resource["Type"] == kind)
        .map(|resource| resource["Properties"].clone())
        .collect()
}

/// Every name that `value` refers to.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match (key.as_str(), field) {
                    ("Ref", Value::String(name)) => drop(found.insert(name.clone())),
                    ("Fn::GetAtt", Value::Array(parts)) => {
                        found.insert(parts[0].as_str().unwrap().to_owned());
                    }
                    ("Fn::Sub", Value::String(text)) => {
                        for part in text.split("${").skip(1) {
                            let name = part.split(['}', '.']).next().unwrap();
                            found.insert(name.to_owned());
                        }
                    }
                    ("DependsOn", Value::Array(names)) => {
                        found.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
                    }
                    _ => references(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_names_something_of_the_template_and_no_name_is_used_twice() {
    for request in all() {
        let template = parse(&request);
        let names = |part: &str| -> BTreeSet<String> {
            template[part]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect()
        };
        let (parameters, resources) = (names("Parameters"), names("Resources"));
        assert!(parameters.is_disjoint(&resources), "{parameters:?}");
        let mut found = BTreeSet::new();
        references(&template, &mut found);
        found.retain(|name| !name.starts_with("AWS::"));
        assert!(found.len() > 10);
        for name in &found {
            assert!(
                parameters.contains(name) || resources.contains(name),
                "{name} of {request:?}"
            );
        }
    }
}

#[test]
fn an_instance_learns_its_cluster_and_role_from_tags_and_downloads_this_agent() {
    for request in all() {
        let template = parse(&request);
        let launches = resources(&template, "AWS::EC2::LaunchTemplate");
        let mut roles = Vec::new();
        for launch in &launches {
            let data = &launch["LaunchTemplateData"];
            let tags = data["TagSpecifications"][0]["Tags"].as_array().unwrap();
            let tag = |key: &str| {
                let tag = tags.iter().find(|tag| tag["Key"] == key).unwrap();
                tag["Value"].as_str().unwrap().to_owned()
            };
            assert_eq!(tag("k8s-bootstrap:cluster"), "prod");
            roles.push(tag("k8s-bootstrap:role"));
            let options = &data["MetadataOptions"];
            assert_eq!(options["HttpTokens"], "required");
            assert_eq!(options["HttpPutResponseHopLimit"], 1);
            assert_eq!(options["InstanceMetadataTags"], "enabled");
            let text = user_data_of(data, "my.backups");
            assert!(text.contains("00ff  ") && text.contains(&request.urls[0]));
            let settings = load(&fragments(text.as_bytes()).unwrap()).unwrap();
            assert_eq!(settings.snapshots.to, "s3://my.backups/prod");
        }
        assert_eq!(roles, ["control-plane", "worker"]);
    }
}

/// The user-data as CloudFormation would put it together.
fn user_data_of(data: &Value, bucket: &str) -> String {
    let parts = &data["UserData"]["Fn::Base64"]["Fn::Join"][1];
    let parts = parts.as_array().unwrap().iter();
    parts
        .map(|part| part.as_str().unwrap_or(bucket))
        .collect::<Vec<_>>()
        .concat()
}

#[test]
fn settings_of_the_user_come_along_and_their_place_for_backups_replaces_the_bucket() {
    let request = with("[snapshots]\nto = \"s3://mine/a/b\"\n");
    let template = parse(&request);
    assert!(resources(&template, "AWS::S3::Bucket").is_empty());
    let launch = &resources(&template, "AWS::EC2::LaunchTemplate")[0]["LaunchTemplateData"];
    let text = launch["UserData"]["Fn::Base64"].as_str().unwrap();
    let settings = load(&fragments(text.as_bytes()).unwrap()).unwrap();
    assert_eq!(settings.snapshots.to, "s3://mine/a/b");
    let backups = statement(&template, 0, "TakeAndRestoreBackups").unwrap();
    let object = "arn:${AWS::Partition}:s3:::mine/a/b/*";
    assert_eq!(backups["Resource"]["Fn::Sub"], object);
    let list = statement(&template, 0, "ListBackups").unwrap();
    assert_eq!(list["Condition"]["StringLike"]["s3:prefix"], "a/b/*");
}

/// A statement of the first (control planes) or second (workers) role.
fn statement(template: &Value, role: usize, sid: &str) -> Option<Value> {
    let role = resources(template, "AWS::IAM::Role")[role].clone();
    let document = &role["Policies"][0]["PolicyDocument"];
    let statements = document["Statement"].as_array().unwrap().iter();
    statements
        .clone()
        .find(|statement| statement["Sid"] == sid)
        .cloned()
}

#[test]
fn a_role_may_do_what_the_settings_need_and_no_more() {
    let agent = |url: &str| Request {
        urls: vec![url.to_owned()],
        ..request()
    };
    let dns =
        "[dns]\nenabled = true\nzone = \"Z0123456789ABCDEFGHIJ\"\nname = \"www.example.com\"\n";
    let differs = |sid: &str, needed: Request, not_needed: Request| {
        assert!(statement(&parse(&needed), 0, sid).is_some(), "{sid}");
        assert!(statement(&parse(&not_needed), 0, sid).is_none(), "{sid}");
    };
    differs(
        "ReadRecord",
        request(),
        with("[store]\nkind = \"s3\"\nbucket = \"abc\"\n"),
    );
    differs(
        "Found",
        request(),
        with("[store]\nkind = \"none\"\ncontrol_planes = 1\n"),
    );
    differs(
        "FoundInBucket",
        with("[store]\nkind = \"s3\"\nbucket = \"abc\"\n"),
        request(),
    );
    differs(
        "RecordInTags",
        with("[store]\nkind = \"none\"\ncontrol_planes = 1\n"),
        request(),
    );
    differs("KeepTheWorkersName", with(dns), request());
    differs(
        "TakeAndRestoreBackups",
        request(),
        with("[snapshots]\nto = \"file:///backups\"\n"),
    );
    differs(
        "DownloadTheAgent",
        agent("s3://agents/key"),
        agent("https://example.com/key"),
    );
    let template = parse(&agent("s3://agents/key"));
    let download = statement(&template, 1, "DownloadTheAgent").unwrap();
    assert_eq!(
        download["Resource"][0]["Fn::Sub"],
        "arn:${AWS::Partition}:s3:::agents/key"
    );
    // Nothing of the placeholders is left, and a worker cannot read backups.
    let roles = resources(&template, "AWS::IAM::Role");
    let text = serde_json::to_string(&roles).unwrap();
    for placeholder in [
        "PARTITION",
        "REGION\"",
        "ACCOUNT",
        "CLUSTER",
        "BUCKET",
        "PUBLIC",
        "ISSUER",
        "PREFIX",
        "STORE",
        "ZONE",
        "AGENT",
    ] {
        assert!(!text.contains(placeholder), "{placeholder} in {text}");
    }
    assert!(statement(&template, 1, "TakeAndRestoreBackups").is_none());
}

#[test]
fn control_planes_may_use_the_key_that_encrypts_backups() {
    let of = |key: &str| {
        let toml = format!("[snapshots]\nto = \"s3://mine/a\"\nkms_key = \"{key}\"\n");
        let template = parse(&with(&toml));
        assert!(statement(&template, 1, "UseTheKeyOfBackups").is_none());
        statement(&template, 0, "UseTheKeyOfBackups").unwrap()
    };
    let arn = "arn:aws:kms:eu-central-1:123456789012:key/1";
    assert_eq!(of(arn)["Resource"], arn);
    let by_alias = of("alias/mine");
    assert_eq!(by_alias["Resource"], "*");
    let condition = &by_alias["Condition"]["ForAnyValue:StringEquals"];
    assert_eq!(condition["kms:ResourceAliases"], "alias/mine");
    let by_id = of("1234")["Resource"]["Fn::Sub"].clone();
    assert!(by_id.as_str().unwrap().ends_with(":key/1234"), "{by_id}");
    assert!(statement(&parse(&request()), 0, "UseTheKeyOfBackups").is_none());
}

#[test]
fn nodes_may_read_the_logins_and_the_bundle_that_the_settings_name() {
    let template = parse(&with(&format!(
        "[images.logins]\n'a.example.com' = 'ssm:/registries/a'\n'b.example.com' = 'file:///b'\n\
         [bundle]\nurl = 's3://mine/bundle-{{arch}}.tar'\nsha256 = {{ amd64 = '{}' }}\n",
        "0".repeat(64)
    )));
    for role in 0..2 {
        let logins = statement(&template, role, "ReadLoginsOfRegistries").unwrap();
        let resources = logins["Resource"].as_array().unwrap();
        assert_eq!(resources.len(), 1, "{logins}");
        let resource = resources[0]["Fn::Sub"].as_str().unwrap();
        assert!(resource.ends_with(":parameter/registries/a"), "{resource}");
        let download = statement(&template, role, "DownloadTheAgent").unwrap();
        let bundle = download["Resource"].as_array().unwrap().last().unwrap();
        assert_eq!(
            bundle["Fn::Sub"],
            "arn:${AWS::Partition}:s3:::mine/bundle-*.tar"
        );
    }
    assert!(statement(&parse(&request()), 1, "ReadLoginsOfRegistries").is_none());
}

#[test]
fn a_worker_is_known_by_its_role_since_the_profile_has_its_name() {
    let template = parse(&request());
    let roles = resources(&template, "AWS::IAM::Role");
    let profiles = resources(&template, "AWS::IAM::InstanceProfile");
    for (role, profile) in roles.iter().zip(&profiles) {
        assert_eq!(role["RoleName"], profile["InstanceProfileName"]);
    }
    assert_eq!(roles.len(), 2);
    assert_eq!(profiles.len(), 2);
}

#[test]
fn nodes_of_size_ha_are_in_private_subnets_of_three_zones_behind_a_load_balancer() {
    let template = parse(&all()[1]);
    let subnets = resources(&template, "AWS::EC2::Subnet");
    let public = |subnet: &&Value| subnet["MapPublicIpOnLaunch"] == true;
    assert_eq!(subnets.iter().filter(public).count(), 3);
    assert_eq!(subnets.len(), 6);
    let ranges: BTreeSet<_> = subnets.iter().map(|s| s["CidrBlock"].to_string()).collect();
    assert_eq!(ranges.len(), 6);
    assert_eq!(resources(&template, "AWS::EC2::NatGateway").len(), 3);
    let groups = resources(&template, "AWS::AutoScaling::AutoScalingGroup");
    assert_eq!(groups[0]["DesiredCapacity"], 3);
    assert!(groups[0].get("TargetGroupARNs").is_none());
    assert_eq!(groups[1]["TargetGroupARNs"].as_array().unwrap().len(), 2);
    for group in &groups {
        assert_eq!(group["VPCZoneIdentifier"][0]["Ref"], "PrivateSubnet1");
        let hook = &group["LifecycleHookSpecificationList"][0];
        assert_eq!(
            hook["LifecycleTransition"],
            "autoscaling:EC2_INSTANCE_TERMINATING"
        );
    }
    let without_internet = parse(&all()[4]);
    assert!(resources(&without_internet, "AWS::EC2::NatGateway").is_empty());
    let endpoints = resources(&without_internet, "AWS::EC2::VPCEndpoint");
    assert_eq!(endpoints.len(), 8);
}

#[test]
fn mistakes_are_refused_with_place_and_remedy() {
    let new = |cidr: &str, zones: &[&str]| Request {
        network: Network::New {
            cidr: cidr.to_owned(),
            zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
            outbound: Outbound::Nat,
        },
        ..request()
    };
    let named = |cluster: &str| Request {
        cluster: cluster.to_owned(),
        ..request()
    };
    let existing = |vpc: &str, subnets: &[&str], size| Request {
        network: Network::Existing {
            vpc: vpc.to_owned(),
            subnets: subnets.iter().map(|id| (*id).to_owned()).collect(),
            public_subnets: Vec::new(),
        },
        size,
        ..request()
    };
    // Within EC2's limit, but indented on every line, and twice.
    let long = "# a line of 20 bytes\n".repeat(650);
    let cidr = "10.0.0.0/16";
    for (request, problem, remedy) in vec![
        (
            named("a/b"),
            "--cluster: `a/b`",
            "letters, digits and hyphens",
        ),
        (named(&"a".repeat(33)), "--cluster: `aaa", "at most 32"),
        (
            with("cluster.name = \"other\"\n"),
            "cluster.name in the settings is `other`",
            "leave",
        ),
        (
            new("10.0.0.0/8", &[]),
            "--vpc-cidr: `10.0.0.0/8`",
            "example: 10.0.0.0/16",
        ),
        (
            new("10.0.0.0/23", &[]),
            "--vpc-cidr: `10.0.0.0/23`",
            "example",
        ),
        (
            new("192.168.0.0/16", &[]),
            "overlaps cluster.pod_cidr",
            "choose another",
        ),
        (
            new("10.96.0.0/16", &[]),
            "overlaps cluster.service_cidr",
            "choose another",
        ),
        (
            new(cidr, &["eu-central-1"]),
            "`eu-central-1` is not an availability",
            "--zones eu",
        ),
        (
            new(cidr, &["eu-central-1a"]),
            "not two or three",
            "leave --zones out",
        ),
        (
            new(cidr, &["eu-west-1a", "eu-west-1a"]),
            "not two or three",
            "leave --zones out",
        ),
        (
            new(cidr, &["eu-west-1a", "eu-west-2a"]),
            "different regions",
            "one region",
        ),
        (
            existing("vpc-1", &["subnet-01234567"], Size::Seed),
            "--vpc: `vpc-1`",
            "vpc-0123",
        ),
        (
            existing("vpc-01234567", &["x"], Size::Seed),
            "--subnets: `x`",
            "subnet-0123",
        ),
        (
            existing("vpc-01234567", &[], Size::Seed),
            "needs --subnets",
            "one in each zone",
        ),
        (
            existing("vpc-01234567", &["subnet-01234567"], Size::Ha),
            "needs --public-subnets",
            "public subnets",
        ),
        (
            Request {
                instance_type: "large".to_owned(),
                ..request()
            },
            "--instance-type: `large`",
            "c7i-flex.large",
        ),
        (
            Request {
                disk: 5,
                ..request()
            },
            "--disk: 5 GiB",
            "10 or more",
        ),
        (
            Request {
                workers: 101,
                ..request()
            },
            "--workers: 101 are more than 100",
            "set-desired-capacity",
        ),
        (
            with(&long),
            "CloudFormation accepts at most 51200",
            "config.toml",
        ),
    ] {
        let error = render(&request).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        let error = error.to_string();
        assert!(error.contains(problem), "{problem}: {error}");
        assert!(error.contains(remedy), "{remedy}: {error}");
    }
}
