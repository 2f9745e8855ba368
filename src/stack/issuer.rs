//! The keys that check tokens of the cluster's pods, in a bucket that everybody may read, and the
//! identity provider with which IAM trusts them.

use serde_json::{Value, json};

use super::{
    request::Request,
    template::{Resource, Template, attribute, reference, substitute},
};
use crate::config::service_accounts::{DISCOVERY, KEYS};

/// The bucket's resource.
pub const BUCKET: &str = "Issuer";

/// The audience of tokens that are exchanged for keys of a role.
const AUDIENCE: &str = "sts.amazonaws.com";

/// The host of the bucket's address.
pub fn host() -> Value {
    attribute(BUCKET, "RegionalDomainName")
}

/// Adds bucket and provider, if they are wanted; returns the reference to the bucket.
pub fn add(template: &mut Template, request: &Request) -> Option<Value> {
    if !request.pod_roles {
        return None;
    }
    let properties = json!({
        "BucketEncryption": {"ServerSideEncryptionConfiguration": [
            {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}},
        ]},
        // Public by the policy below, and in no other way.
        "PublicAccessBlockConfiguration": {
            "BlockPublicAcls": true,
            "BlockPublicPolicy": false,
            "IgnorePublicAcls": true,
            "RestrictPublicBuckets": false,
        },
        "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
    });
    // CloudFormation cannot delete a bucket with objects in it.
    let bucket = template.resource(
        BUCKET,
        Resource::new("AWS::S3::Bucket", properties).retained(),
    );
    let object = |name: &str| substitute(&format!("${{{BUCKET}.Arn}}/{name}"));
    let properties = json!({
        "Bucket": bucket,
        "PolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "EverybodyReadsTheKeys",
                    "Effect": "Allow",
                    "Principal": "*",
                    "Action": "s3:GetObject",
                    "Resource": [object(DISCOVERY), object(KEYS)],
                },
                {
                    "Sid": "TlsOnly",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [attribute(BUCKET, "Arn"), object("*")],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                },
            ],
        },
    });
    template.resource(
        "IssuerPolicy",
        Resource::new("AWS::S3::BucketPolicy", properties),
    );
    let properties = json!({
        "Url": substitute(&format!("https://${{{BUCKET}.RegionalDomainName}}")),
        "ClientIdList": [AUDIENCE],
    });
    template.resource(
        "IdentityProvider",
        Resource::new("AWS::IAM::OIDCProvider", properties),
    );
    template.output(
        "IdentityProvider",
        "The ARN of the identity provider, for the trust policies of pods' roles.",
        &reference("IdentityProvider"),
    );
    template.output(
        "Issuer",
        "The issuer of pods' tokens, without https://.",
        &host(),
    );
    Some(bucket)
}
