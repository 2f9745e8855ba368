//! The endpoints of a region's services.

use url::Url;

use crate::error::{Context, Error, Result};

/// The services in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Auto Scaling.
    AutoScaling,
    /// Elastic Compute Cloud.
    Ec2,
    /// Elastic Container Registry.
    Ecr,
    /// Route 53, one service for all regions of a partition.
    Route53,
    /// Simple Storage Service.
    S3,
    /// Systems Manager.
    Ssm,
    /// The Security Token Service.
    Sts,
}

impl Service {
    /// The name in host names, signatures and IAM actions.
    pub fn name(self) -> &'static str {
        match self {
            Self::AutoScaling => "autoscaling",
            Self::Ec2 => "ec2",
            Self::Ecr => "ecr",
            Self::Route53 => "route53",
            Self::S3 => "s3",
            Self::Ssm => "ssm",
            Self::Sts => "sts",
        }
    }
}

/// The variable that directs all services to one address, as in the AWS CLI and SDKs.
pub const OVERRIDE: &str = "AWS_ENDPOINT_URL";

/// A set of regions with its own accounts and domain names.
struct Partition {
    /// The prefix of its regions' names.
    start: &'static str,
    /// The suffix of its host names.
    suffix: &'static str,
    /// Its Route 53 host, and the region that calls to it are signed for.
    route53: (&'static str, &'static str),
}

const AWS: Partition = partition("", "amazonaws.com", ("route53", "us-east-1"));

/// The partitions other than `aws`.
/// <https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html>
/// <https://docs.aws.amazon.com/general/latest/gr/r53.html>
const OTHERS: [Partition; 7] = [
    partition("cn-", "amazonaws.com.cn", ("route53", "cn-northwest-1")),
    partition(
        "us-gov-",
        "amazonaws.com",
        ("route53.us-gov", "us-gov-west-1"),
    ),
    partition("eusc-", "amazonaws.eu", ("route53", "eusc-de-east-1")),
    partition("us-iso-", "c2s.ic.gov", ("route53", "us-iso-east-1")),
    partition("us-isob-", "sc2s.sgov.gov", ("route53", "us-isob-east-1")),
    partition("us-isof-", "csp.hci.ic.gov", ("route53", "us-isof-south-1")),
    partition("eu-isoe-", "cloud.adc-e.uk", ("route53", "eu-isoe-west-1")),
];

const fn partition(
    start: &'static str,
    suffix: &'static str,
    route53: (&'static str, &'static str),
) -> Partition {
    Partition {
        start,
        suffix,
        route53,
    }
}

/// The endpoints of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// `eu-central-1`.
    pub region: String,
    /// One address for all services, instead of the region's own.
    pub instead: Option<Url>,
}

impl Endpoints {
    /// The region's own endpoints, or the one that [`OVERRIDE`] names.
    pub fn of(region: &str) -> Result<Self> {
        let instead = std::env::var(OVERRIDE).ok();
        Self::with_override(region, instead.as_deref())
    }

    /// The region's own endpoints, or the given one for all services; an empty one counts as none.
    pub fn with_override(region: &str, instead: Option<&str>) -> Result<Self> {
        let instead = match instead {
            None | Some("") => None,
            Some(text) => {
                let url: Url = text
                    .parse()
                    .requiring(|| format!("the variable {OVERRIDE}=`{text}` is not a URL"))?;
                if !matches!(url.scheme(), "http" | "https") {
                    return Err(Error::refused(format!(
                        "the variable {OVERRIDE}=`{text}` is not an http or https URL"
                    )));
                }
                Some(url)
            }
        };
        Ok(Self {
            region: region.to_owned(),
            instead,
        })
    }

    fn partition(&self) -> &'static Partition {
        let of = |partition: &&Partition| self.region.starts_with(partition.start);
        OTHERS.iter().find(of).unwrap_or(&AWS)
    }

    /// The region that calls to a service are signed for.
    pub fn signing_region(&self, service: Service) -> &str {
        match service {
            Service::Route53 => self.partition().route53.1,
            Service::AutoScaling
            | Service::Ec2
            | Service::Ecr
            | Service::S3
            | Service::Ssm
            | Service::Sts => &self.region,
        }
    }

    /// The URL that a service's calls go to.
    pub fn url(&self, service: Service) -> Result<Url> {
        if let Some(url) = &self.instead {
            return Ok(url.clone());
        }
        let region = &self.region;
        let Partition {
            suffix,
            route53: (global, _),
            ..
        } = self.partition();
        let url = match service {
            Service::Route53 => format!("https://{global}.{suffix}/"),
            Service::Ecr => format!("https://api.ecr.{region}.{suffix}/"),
            regional => format!("https://{}.{region}.{suffix}/", regional.name()),
        };
        url.parse()
            .requiring(|| format!("region `{region}` does not form a valid host name"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_partition_has_its_suffix() {
        let cases = [
            (
                "eu-central-1",
                Service::Ec2,
                "https://ec2.eu-central-1.amazonaws.com/",
            ),
            (
                "cn-north-1",
                Service::Ecr,
                "https://api.ecr.cn-north-1.amazonaws.com.cn/",
            ),
            (
                "us-gov-west-1",
                Service::Ssm,
                "https://ssm.us-gov-west-1.amazonaws.com/",
            ),
            (
                "cn-north-1",
                Service::Ec2,
                "https://ec2.cn-north-1.amazonaws.com.cn/",
            ),
            (
                "us-iso-east-1",
                Service::Ec2,
                "https://ec2.us-iso-east-1.c2s.ic.gov/",
            ),
            (
                "us-isob-east-1",
                Service::Ssm,
                "https://ssm.us-isob-east-1.sc2s.sgov.gov/",
            ),
            (
                "eusc-de-east-1",
                Service::Ssm,
                "https://ssm.eusc-de-east-1.amazonaws.eu/",
            ),
        ];
        for (region, service, url) in cases {
            let endpoints = Endpoints::with_override(region, None).unwrap();
            assert_eq!(endpoints.url(service).unwrap().as_str(), url);
        }
    }

    #[test]
    fn a_global_service_has_one_host_and_one_signing_region_per_partition() {
        let cases = [
            (
                "eu-central-1",
                "https://route53.amazonaws.com/",
                "us-east-1",
            ),
            (
                "us-gov-east-1",
                "https://route53.us-gov.amazonaws.com/",
                "us-gov-west-1",
            ),
            (
                "cn-north-1",
                "https://route53.amazonaws.com.cn/",
                "cn-northwest-1",
            ),
            (
                "us-isob-east-1",
                "https://route53.sc2s.sgov.gov/",
                "us-isob-east-1",
            ),
        ];
        for (region, url, signed_for) in cases {
            let endpoints = Endpoints::with_override(region, None).unwrap();
            let found = endpoints.url(Service::Route53).unwrap();
            assert_eq!(found.as_str(), url);
            assert_eq!(endpoints.signing_region(Service::Route53), signed_for);
            assert_eq!(endpoints.signing_region(Service::Ec2), region);
        }
    }

    #[test]
    fn an_override_applies_to_all_services_and_a_wrong_one_names_its_variable() {
        let local = Endpoints::with_override("eu-central-1", Some("http://127.0.0.1:5000"));
        let local = local.unwrap();
        for service in [Service::Ec2, Service::Route53, Service::Ssm] {
            assert_eq!(
                local.url(service).unwrap().as_str(),
                "http://127.0.0.1:5000/"
            );
        }
        assert_eq!(
            Endpoints::with_override("x", Some("")).unwrap().instead,
            None
        );
        for wrong in ["127.0.0.1:5000", "file:///etc", "nonsense"] {
            let error = Endpoints::with_override("eu-central-1", Some(wrong)).unwrap_err();
            assert!(error.one_line().contains("AWS_ENDPOINT_URL"), "{error}");
        }
    }
}
