//! The agent's own manifests, compiled in.

/// The files of `manifests/`, by the name used after `embedded:`.
pub const EMBEDDED: &[(&str, &str)] = &[
    (
        "autoscaling",
        include_str!("../../manifests/autoscaling.yaml"),
    ),
    ("backend", include_str!("../../manifests/backend.yaml")),
    (
        "foundation",
        include_str!("../../manifests/foundation.yaml"),
    ),
    ("ingress", include_str!("../../manifests/ingress.yaml")),
    (
        "ingress-traefik",
        include_str!("../../manifests/ingress-traefik.yaml"),
    ),
    ("redis", include_str!("../../manifests/redis.yaml")),
];

/// The text of one manifest.
pub fn embedded(name: &str) -> Option<&'static str> {
    EMBEDDED
        .iter()
        .find(|(there, _)| *there == name)
        .map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_compiled_in_under_its_name() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut names: Vec<String> = EMBEDDED
            .iter()
            .map(|(name, _)| format!("{name}.yaml"))
            .collect();
        names.sort();
        assert_eq!(files, names);
        for file in files {
            let text = std::fs::read_to_string(format!("{folder}/{file}")).unwrap();
            assert_eq!(
                embedded(file.trim_end_matches(".yaml")),
                Some(text.as_str())
            );
        }
    }
}
