//! The settings from the environment, checked before anything starts.

use std::net::SocketAddr;
use std::time::Duration;

/// The settings of one process. Every field has a default that works on one machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `LISTEN`, where HTTP is answered. Default `0.0.0.0:8080`.
    pub listen: SocketAddr,
    /// `REDIS_URL`, `redis://[user:password@]host[:port][/database]`. Default
    /// `redis://127.0.0.1:6379`.
    pub redis: redis::Client,
    /// `REDIS_TIMEOUT_MS`, how long a round trip to Redis may take. Default
    /// 500 ms.
    pub redis_timeout: Duration,
    /// `POD_NAME`, else `HOSTNAME`: the pod that the page names.
    pub pod: String,
    /// `NODE_NAME`: the node that the pod runs on.
    pub node: String,
    /// `DRAIN_SECONDS`, how long new connections are still answered after SIGTERM, while proxies
    /// learn that this process is leaving. Default 5 s.
    pub drain: Duration,
}

impl Settings {
    /// Reads the settings through `variable`, which returns the value of a name.
    ///
    /// # Errors Every invalid setting, one line each.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let value = |name: &'static str, default: &str| Entry {
            name,
            // An empty variable in a manifest means the default.
            text: variable(name)
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| default.to_owned()),
        };
        let listen = value("LISTEN", "0.0.0.0:8080");
        let redis = value("REDIS_URL", "redis://127.0.0.1:6379");
        let timeout = value("REDIS_TIMEOUT_MS", "500");
        let host = value("HOSTNAME", "this machine").text;
        let pod = value("POD_NAME", &host);
        let node = value("NODE_NAME", "an unnamed node");
        let drain = value("DRAIN_SECONDS", "5");

        let listen = kept(&mut errors, listen.address());
        let redis = kept(&mut errors, redis.redis());
        let timeout = kept(&mut errors, timeout.number(10..=10_000));
        let pod = kept(&mut errors, pod.printable());
        let node = kept(&mut errors, node.printable());
        let drain = kept(&mut errors, drain.number(0..=300));
        match (listen, redis, timeout, pod, node, drain) {
            (Some(listen), Some(redis), Some(timeout), Some(pod), Some(node), Some(drain)) => {
                Ok(Self {
                    listen,
                    redis,
                    redis_timeout: Duration::from_millis(timeout),
                    pod,
                    node,
                    drain: Duration::from_secs(drain),
                })
            }
            _ => Err(errors),
        }
    }
}

fn kept<T>(errors: &mut Vec<String>, result: Result<T, String>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

struct Entry {
    name: &'static str,
    text: String,
}

impl Entry {
    fn address(&self) -> Result<SocketAddr, String> {
        self.text.parse().map_err(|_| {
            self.wrong(
                "is not an address",
                "write ADDRESS:PORT, such as 0.0.0.0:8080",
            )
        })
    }

    /// Errors do not contain the text: it may hold a password.
    fn redis(&self) -> Result<redis::Client, String> {
        redis::Client::open(self.text.as_str()).map_err(|cause| {
            format!(
                "{} is not the address of a Redis server ({cause}): write redis://HOST:PORT; TLS (rediss://) is not built in",
                self.name
            )
        })
    }

    fn number(&self, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
        match self.text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(self.wrong(
                "is not a valid number",
                &format!("write one from {} to {}", range.start(), range.end()),
            )),
        }
    }

    fn printable(&self) -> Result<String, String> {
        if self.text.chars().any(char::is_control) {
            return Err(self.wrong("contains a control character", "write a plain name"));
        }
        Ok(self.text.clone())
    }

    fn wrong(&self, what: &str, hint: &str) -> String {
        format!("{}={:?} {what}: {hint}", self.name, self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        Settings::read(|name| {
            let (_, value) = pairs.iter().find(|(key, _)| *key == name)?;
            Some((*value).to_owned())
        })
    }

    #[test]
    fn unset_variables_have_defaults() {
        let settings = read(&[("LISTEN", "")]).unwrap();
        assert_eq!(settings.listen, "0.0.0.0:8080".parse().unwrap());
        assert_eq!(settings.redis_timeout, Duration::from_millis(500));
        assert_eq!(settings.drain, Duration::from_secs(5));
        assert_eq!(settings.pod, "this machine");
    }

    #[test]
    fn the_pods_name_defaults_to_the_host_name() {
        assert_eq!(read(&[("HOSTNAME", "h")]).unwrap().pod, "h");
        assert_eq!(
            read(&[("HOSTNAME", "h"), ("POD_NAME", "p")]).unwrap().pod,
            "p"
        );
    }

    #[test]
    fn all_errors_are_reported_at_once_and_no_password() {
        let errors = read(&[
            ("LISTEN", "8080"),
            ("REDIS_URL", "http://user:secret@redis"),
            ("REDIS_TIMEOUT_MS", "0"),
            ("DRAIN_SECONDS", "soon"),
            ("NODE_NAME", "a\nb"),
        ])
        .unwrap_err();
        assert_eq!(errors.len(), 5, "{errors:#?}");
        assert_eq!(
            errors[0],
            "LISTEN=\"8080\" is not an address: write ADDRESS:PORT, such as 0.0.0.0:8080"
        );
        assert!(
            errors[1].starts_with("REDIS_URL is not the address"),
            "{errors:#?}"
        );
        assert!(!errors.concat().contains("secret"), "{errors:#?}");
    }
}
