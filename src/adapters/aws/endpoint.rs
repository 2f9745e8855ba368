//! Where the services of a region are.

use url::Url;

use crate::error::{Context, Error, Result};

/// The services in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Elastic Compute Cloud.
    Ec2,
    /// Systems Manager.
    Ssm,
}

impl Service {
    /// The name in host names, signatures and IAM actions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Ssm => "ssm",
        }
    }
}

/// The variable that sends all services to one address, as the AWS CLI and SDKs read it.
pub const OVERRIDE: &str = "AWS_ENDPOINT_URL";

/// The DNS suffixes of partitions other than `aws`, by the start of their regions' names.
/// Regions `us-gov-*` share the suffix of `aws`.
/// <https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html>
const SUFFIXES: [(&str, &str); 6] = [
    ("cn-", "amazonaws.com.cn"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
];

/// The endpoints of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// `eu-central-1`.
    pub region: String,
    /// One address for all services, in place of the region's own.
    pub instead: Option<Url>,
}

impl Endpoints {
    /// The region's own endpoints, or the one that [`OVERRIDE`] names.
    pub fn of(region: &str) -> Result<Self> {
        let instead = std::env::var(OVERRIDE).ok();
        Self::with_override(region, instead.as_deref())
    }

    /// The region's own endpoints, or the given one for all services; "" is as none.
    pub fn with_override(region: &str, instead: Option<&str>) -> Result<Self> {
        let instead = match instead {
            None | Some("") => None,
            Some(text) => {
                let url: Url = text
                    .parse()
                    .requiring(|| format!("the variable {OVERRIDE}=`{text}` is no URL"))?;
                if !matches!(url.scheme(), "http" | "https") {
                    return Err(Error::refused(format!(
                        "the variable {OVERRIDE}=`{text}` is no http or https URL"
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

    /// The URL that a service's calls are posted to.
    pub fn url(&self, service: Service) -> Result<Url> {
        if let Some(url) = &self.instead {
            return Ok(url.clone());
        }
        let region = &self.region;
        let suffix = SUFFIXES
            .iter()
            .find(|(start, _)| region.starts_with(start))
            .map_or("amazonaws.com", |(_, suffix)| suffix);
        let url = format!("https://{}.{region}.{suffix}/", service.name());
        url.parse()
            .requiring(|| format!("region `{region}` makes no valid host name"))
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
    fn an_override_serves_all_and_a_wrong_one_names_its_variable() {
        let local = Endpoints::with_override("eu-central-1", Some("http://127.0.0.1:5000"));
        let local = local.unwrap();
        for service in [Service::Ec2, Service::Ssm] {
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
