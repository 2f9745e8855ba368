//! IPv4 networks.

use std::net::Ipv4Addr;

/// An IPv4 network in CIDR notation, such as `10.96.0.0/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: u32,
    last: u32,
}

impl Network {
    /// Parses `ADDRESS/BITS`; `None` if it is not a network or has no room for hosts.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address = address.parse::<Ipv4Addr>().ok()?.to_bits();
        let bits = bits.parse::<u32>().ok().filter(|bits| *bits <= 30)?;
        let hosts = u32::MAX.checked_shr(bits).unwrap_or(0);
        Some(Self {
            first: address & !hosts,
            last: address | hosts,
        })
    }

    /// Whether the networks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn networks_overlap_if_they_share_an_address() {
        for (one, other, expected) in [
            ("10.96.0.0/12", "10.111.255.0/24", true),
            ("10.96.0.0/12", "10.112.0.0/16", false),
            ("10.0.0.0/16", "10.0.0.0/16", true),
            ("10.0.0.7/16", "10.0.255.0/24", true),
            ("0.0.0.0/0", "192.168.0.0/16", true),
            ("172.31.0.0/16", "192.168.0.0/16", false),
        ] {
            let (one, other) = (Network::parse(one).unwrap(), Network::parse(other).unwrap());
            assert_eq!(one.overlaps(other), expected, "{one:?} {other:?}");
            assert_eq!(other.overlaps(one), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn invalid_networks_give_none() {
        for text in ["", "10.0.0.0", "10.0.0.0/31", "10.0.0/8", "a/8", "fd00::/8"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
