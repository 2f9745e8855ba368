//! Roles for pods.

use serde_json::Value;

use super::{parse, resources, statement, user_data_of, with};
use crate::{
    config::{load, user_data::fragments},
    stack::{Request, render},
};

/// A stack whose pods can have roles.
pub fn request() -> Request {
    Request {
        pod_roles: true,
        ..super::request()
    }
}

#[test]
fn the_provider_is_the_bucket_that_everybody_may_read_and_control_planes_write() {
    let template = parse(&request());
    let provider = &resources(&template, "AWS::IAM::OIDCProvider")[0];
    let address = "https://${Issuer.RegionalDomainName}";
    assert_eq!(provider["Url"]["Fn::Sub"], address);
    assert_eq!(provider["ClientIdList"][0], "sts.amazonaws.com");
    let policies = resources(&template, "AWS::S3::BucketPolicy");
    let public = policies
        .iter()
        .find(|policy| policy["Bucket"]["Ref"] == "Issuer")
        .unwrap();
    let [read, tls] = public["PolicyDocument"]["Statement"]
        .as_array()
        .unwrap()
        .as_slice()
    else {
        panic!("{public}");
    };
    assert_eq!(
        (&read["Action"], &read["Principal"]),
        (&"s3:GetObject".into(), &"*".into())
    );
    let documents = read["Resource"].as_array().unwrap();
    let documents: Vec<&Value> = documents.iter().map(|one| &one["Fn::Sub"]).collect();
    assert_eq!(
        documents,
        [
            "${Issuer.Arn}/.well-known/openid-configuration",
            "${Issuer.Arn}/openid/v1/jwks"
        ]
    );
    assert_eq!(tls["Effect"], "Deny");
    let publish = statement(&template, 0, "PublishKeys").unwrap();
    let objects = publish["Resource"].as_array().unwrap();
    assert_eq!(
        objects[0]["Fn::Sub"],
        "arn:${AWS::Partition}:s3:::${Issuer}"
    );
    assert_eq!(
        objects[2]["Fn::Sub"],
        "arn:${AWS::Partition}:s3:::${Issuer}/openid/v1/jwks"
    );
    assert!(statement(&template, 1, "PublishKeys").is_none());
}

#[test]
fn instances_get_the_issuer_and_its_bucket() {
    let template = parse(&request());
    for launch in resources(&template, "AWS::EC2::LaunchTemplate") {
        let text = user_data_of(&launch["LaunchTemplateData"], "my.keys");
        let settings = load(&fragments(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(settings.service_accounts.issuer, "https://my.keys");
        assert_eq!(settings.service_accounts.publish_to, "s3://my.keys");
        assert_eq!(settings.snapshots.to, "s3://my.keys/prod");
    }
}

#[test]
fn an_issuer_of_the_settings_takes_the_place_of_the_stacks() {
    let request = with(
        "[service_accounts]\nissuer = 'https://id.example.com/prod'\npublish_to = 's3://mine/prod'\n",
    );
    let template = parse(&request);
    assert!(resources(&template, "AWS::IAM::OIDCProvider").is_empty());
    let publish = statement(&template, 0, "PublishKeys").unwrap();
    let objects = publish["Resource"].as_array().unwrap();
    assert_eq!(
        objects[1]["Fn::Sub"],
        "arn:${AWS::Partition}:s3:::mine/prod/.well-known/openid-configuration"
    );
    assert!(statement(&parse(&super::request()), 0, "PublishKeys").is_none());
    let both = Request {
        pod_roles: true,
        ..request
    };
    let error = render(&both).unwrap_err();
    assert!(
        error.one_line().contains("is already https://id"),
        "{error}"
    );
    assert!(error.remedy().is_some());
}
