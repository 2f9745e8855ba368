#![allow(clippy::unwrap_used)]

use wiremock::{
    Mock, ResponseTemplate,
    matchers::{method, path, query_param},
};

use super::*;
use crate::{adapters::aws::tests::Region, error::Kind};

const RRSET: &str = "/2013-04-01/hostedzone/Z1/rrset";

/// An answer to a listing, in Route 53's format.
fn listing(sets: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_string(format!(
        "<?xml version=\"1.0\"?>\n<ListResourceRecordSetsResponse xmlns=\"{NAMESPACE}\"><ResourceRecordSets>{sets}</ResourceRecordSets><IsTruncated>false</IsTruncated><MaxItems>1</MaxItems></ListResourceRecordSetsResponse>"
    ))
}

fn set(name: &str, kind: &str, rest: &str) -> String {
    format!("<ResourceRecordSet><Name>{name}</Name><Type>{kind}</Type>{rest}</ResourceRecordSet>")
}

async fn listed(sets: &str) -> Result<Option<RecordSet>> {
    let region = Region::new().await;
    Mock::given(method("GET"))
        .and(path(RRSET))
        .and(query_param("name", "www.example.com"))
        .and(query_param("type", "A"))
        .respond_with(listing(sets))
        .mount(&region.server)
        .await;
    region.route53.record("Z1", "www.example.com").await
}

#[tokio::test]
async fn only_the_addresses_of_the_exact_name_are_read() {
    let records = "<TTL>30</TTL><ResourceRecords><ResourceRecord><Value>10.0.0.5</Value></ResourceRecord><ResourceRecord><Value>10.0.0.4</Value></ResourceRecord></ResourceRecords>";
    let expected = RecordSet {
        addresses: [[10, 0, 0, 4].into(), [10, 0, 0, 5].into()].into(),
        ttl: 30,
    };
    let found = listed(&set("WWW.example.com.", "A", records)).await;
    assert_eq!(found.unwrap(), Some(expected));
    for other in [
        String::new(),
        set("x.example.com.", "A", records),
        set("www.example.com.", "TXT", records),
    ] {
        assert_eq!(listed(&other).await.unwrap(), None, "{other}");
    }
}

#[tokio::test]
async fn a_record_set_with_an_alias_or_a_policy_is_refused() {
    let alias = "<AliasTarget><HostedZoneId>Z2</HostedZoneId><DNSName>lb.example.com.</DNSName><EvaluateTargetHealth>false</EvaluateTargetHealth></AliasTarget>";
    let weighted = "<SetIdentifier>a</SetIdentifier><Weight>1</Weight><TTL>30</TTL><ResourceRecords><ResourceRecord><Value>10.0.0.4</Value></ResourceRecord></ResourceRecords>";
    for rest in [alias, weighted] {
        let error = listed(&set("www.example.com.", "A", rest))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.one_line().contains("not overwritten"), "{error}");
    }
}

#[tokio::test]
async fn a_record_set_is_written_in_full_and_signed_for_the_global_service() {
    let region = Region::new().await;
    let throttled = ResponseTemplate::new(400).set_body_string(format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>"
    ));
    region
        .answers([throttled, ResponseTemplate::new(200)])
        .await;
    let record = RecordSet {
        addresses: [[10, 0, 0, 4].into(), [10, 0, 0, 5].into()].into(),
        ttl: 30,
    };
    let dns = &region.route53;
    dns.write("Z1", "www.example.com", &record).await.unwrap();
    let requests = region.requests().await;
    assert_eq!(requests.len(), 2, "throttling is retried");
    assert_eq!(requests[1].url.path(), format!("{RRSET}/"));
    let signed = requests[1].headers["authorization"].to_str().unwrap();
    assert!(
        signed.contains("/20260101/us-east-1/route53/aws4_request"),
        "{signed}"
    );
    assert_eq!(
        std::str::from_utf8(&requests[1].body).unwrap(),
        "<ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><ChangeBatch><Changes><Change><Action>UPSERT</Action><ResourceRecordSet><Name>www.example.com</Name><Type>A</Type><TTL>30</TTL><ResourceRecords><ResourceRecord><Value>10.0.0.4</Value></ResourceRecord><ResourceRecord><Value>10.0.0.5</Value></ResourceRecord></ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
    );
}

#[tokio::test]
async fn a_denied_call_and_a_wrong_zone_have_a_hint() {
    for (code, remedy) in [
        (
            "AccessDenied",
            "allow the action route53:ListResourceRecordSets for the IAM role node-role",
        ),
        (
            "NoSuchHostedZone",
            "dns.zone: `Z1` is not a hosted zone of this account",
        ),
    ] {
        let region = Region::new().await;
        let refusal = ResponseTemplate::new(403).set_body_string(format!(
            "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
        ));
        Mock::given(method("GET"))
            .respond_with(refusal)
            .mount(&region.server)
            .await;
        let error = region.route53.record("Z1", "www.example.com").await;
        assert_eq!(error.unwrap_err().remedy(), Some(remedy));
    }
}
