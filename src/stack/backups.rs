//! The bucket for snapshots of etcd.

use serde_json::{Value, json};

use super::template::{Resource, Template, attribute, reference, substitute};
use crate::config::Settings;

/// The bucket's resource.
pub const BUCKET: &str = "Backups";

/// Adds a bucket, unless the settings name a place for backups. It outlives the stack: it may be
/// all that is left of the cluster.
pub fn add(template: &mut Template, settings: &Settings) -> Option<Value> {
    if !settings.snapshots.to.is_empty() {
        return None;
    }
    let properties = json!({
        "BucketEncryption": {"ServerSideEncryptionConfiguration": [
            {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}},
        ]},
        "VersioningConfiguration": {"Status": "Enabled"},
        "PublicAccessBlockConfiguration": {
            "BlockPublicAcls": true,
            "BlockPublicPolicy": true,
            "IgnorePublicAcls": true,
            "RestrictPublicBuckets": true,
        },
        "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        // The agent deletes old backups. Deleted ones can be restored for a month.
        "LifecycleConfiguration": {"Rules": [{
            "Id": "removed-backups",
            "Status": "Enabled",
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }]},
    });
    let bucket = template.resource(
        BUCKET,
        Resource::new("AWS::S3::Bucket", properties).retained(),
    );
    let properties = json!({
        "Bucket": bucket,
        "PolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [{
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [
                    attribute(BUCKET, "Arn"),
                    substitute(&format!("${{{BUCKET}.Arn}}/*")),
                ],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }],
        },
    });
    template.resource(
        "BackupsPolicy",
        Resource::new("AWS::S3::BucketPolicy", properties),
    );
    template.output(
        "Backups",
        "The bucket of the cluster's backups. It stays when the stack is deleted.",
        &reference(BUCKET),
    );
    Some(bucket)
}
