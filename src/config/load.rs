//! Merges fragments into settings and locates every mistake.

use toml::{Table, Value, de::DeTable};

use super::{DEFAULTS, Settings};
use crate::error::{Error, Result};

/// One source of settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Fragment {
    /// Where it came from, as named in errors: a path, `user-data`, `EC2 tags`.
    pub origin: String,
    /// The text that errors quote; empty if the fragment was not made from text.
    text: String,
    table: Table,
}

impl Fragment {
    /// A fragment from TOML text.
    pub fn parse(origin: impl Into<String>, text: &str) -> Result<Self> {
        let origin = origin.into();
        let table = text.parse::<Table>().map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            Error::refused(mistake(&origin, text, at, error.message()))
        })?;
        Ok(Self {
            origin,
            text: text.to_owned(),
            table,
        })
    }

    /// A fragment that the agent made itself, such as the one from tags.
    pub fn made(origin: impl Into<String>, table: Table) -> Self {
        Self {
            origin: origin.into(),
            text: String::new(),
            table,
        }
    }

    /// The byte offset of the key at this path, or of the deepest key on the path that exists.
    fn offset_of(&self, path: &[String]) -> Option<usize> {
        let document = DeTable::parse(&self.text).ok()?;
        let mut table = document.get_ref();
        let mut found = None;
        for name in path {
            let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
            found = Some(key.span().start);
            match value.get_ref().as_table() {
                Some(inner) => table = inner,
                None => return found,
            }
        }
        found
    }

    fn has(&self, path: &[String]) -> bool {
        let mut keys = path.iter();
        let Some(first) = keys.next() else {
            return false;
        };
        let mut value = self.table.get(first);
        for key in keys {
            value = match value {
                // An index into a list: the list's own position is near enough.
                Some(Value::Array(_)) => return true,
                Some(inner) => inner.get(key),
                None => return false,
            };
        }
        value.is_some()
    }
}

/// Merges the fragments over the defaults in order, and validates the result.
pub fn load(fragments: &[Fragment]) -> Result<Settings> {
    let mut merged = Fragment::parse("defaults", DEFAULTS)?.table;
    for fragment in fragments {
        overlay(&mut merged, &fragment.table);
    }
    let settings = serde_path_to_error::deserialize::<_, Settings>(Value::Table(merged))
        .map_err(|error| place(&error, fragments))?;
    super::validate::validate(&settings)?;
    Ok(settings)
}

/// Tables merge key by key; any other value is replaced.
fn overlay(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Points to the mistake in the fragment of highest precedence that contains it.
fn place(error: &serde_path_to_error::Error<toml::de::Error>, fragments: &[Fragment]) -> Error {
    let message = error.inner().message().to_owned();
    let mut path: Vec<String> = error
        .path()
        .iter()
        .map(ToString::to_string)
        .filter(|part| part != "?")
        .collect();
    let unknown = quoted_after(&message, "unknown field `");
    if let Some(name) = &unknown
        && path.last() != Some(name)
    {
        path.push(name.clone());
    }
    let dotted = path.join(".");
    let holder = fragments.iter().rev().find(|fragment| fragment.has(&path));
    let text = match holder {
        Some(fragment) if !fragment.text.is_empty() => {
            let at = fragment.offset_of(&path).unwrap_or(0);
            mistake(&fragment.origin, &fragment.text, at, &message)
        }
        Some(fragment) => format!("{}: {dotted}: {message}", fragment.origin),
        None => format!("{dotted}: {message}"),
    };
    let error = Error::refused(text);
    match unknown.and_then(|name| nearest(&name, &message)) {
        Some(key) => error.hint(format!("did you mean `{key}`?")),
        None => error.hint(
            "`k8s-bootstrap check-config --defaults` prints every setting with its meaning and default",
        ),
    }
}

/// Origin, line, column, the quoted line and a caret, as compilers print them.
fn mistake(origin: &str, text: &str, offset: usize, message: &str) -> String {
    let offset = offset.min(text.len());
    let before = &text[..offset];
    let number = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let column = text[start..offset].chars().count();
    let margin = " ".repeat(number.to_string().len());
    format!(
        "{origin}:{number}:{}: {}\n {margin} |\n {number} | {line}\n {margin} | {}^",
        column + 1,
        message.trim_end(),
        " ".repeat(column),
    )
}

fn quoted_after(message: &str, marker: &str) -> Option<String> {
    let rest = message.split_once(marker)?.1;
    Some(rest.split_once('`')?.0.to_owned())
}

/// Of the keys that the message expects, the one most similar to the unknown key.
fn nearest(name: &str, message: &str) -> Option<String> {
    let expected = message.split_once("expected")?.1;
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|key| (strsim::damerau_levenshtein(name, key), key))
        .filter(|(distance, key)| *distance <= key.len().div_ceil(3))
        .min()
        .map(|(_, key)| key.to_owned())
}

/// The fragments of one instance, in the order of their precedence, lowest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// From the instance's tags; `None` before they are read.
    pub tags: Option<Fragment>,
    /// From the user-data, in the order of its parts.
    pub user_data: Vec<Fragment>,
    /// From the file [`super::FILE`]; `None` if there is none.
    pub file: Option<Fragment>,
}

impl Sources {
    /// Merges the fragments over the defaults, and validates the result.
    pub fn settings(self) -> Result<Settings> {
        let fragments: Vec<Fragment> = self
            .tags
            .into_iter()
            .chain(self.user_data)
            .chain(self.file)
            .collect();
        load(&fragments)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Settings> {
        load(&[Fragment::parse("config.toml", text)?])
    }

    #[test]
    fn the_defaults_are_complete_and_valid() {
        let settings = load(&[]).unwrap();
        assert_eq!(settings.kubernetes.version, "1.36.3");
        assert_eq!(settings.node.role, None);
    }

    #[test]
    fn the_images_that_are_preloaded_are_of_the_manifests_release() {
        let calico = &load(&[]).unwrap().addons["calico"];
        let tag = calico.images[0].rsplit(':').next().unwrap();
        let release = format!("/{tag}/manifests/");
        assert!(calico.sources[0].url.contains(&release), "{tag}");
        assert!(calico.images.iter().all(|image| image.ends_with(tag)));
    }

    #[test]
    fn an_unknown_key_is_shown_with_line_caret_and_the_nearest_key() {
        let error = file("[node]\nlabels = {}\nrol = \"worker\"\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("config.toml:3:1: unknown field `rol`"),
            "{text}"
        );
        assert!(text.contains("\n 3 | rol = \"worker\"\n   | ^"), "{text}");
        assert!(text.ends_with("hint: did you mean `role`?"), "{text}");
    }

    #[test]
    fn a_mistyped_value_is_shown_at_its_key() {
        let error = file("[cluster]\nname = \"a\"\n[deadlines]\napi = \"soon\"\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("config.toml:4:1: invalid type: string \"soon\", expected u64"),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_role_names_the_two_that_exist() {
        let error = file("[node]\nrole = \"master\"\n").unwrap_err().to_string();
        assert!(
            error.contains(
                "config.toml:2:1: unknown role `master`, expected `control-plane` or `worker`"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_syntax_error_is_shown_at_its_place() {
        let error = file("[node\n").unwrap_err().to_string();
        assert!(error.contains("config.toml:1:6"), "{error}");
    }

    #[test]
    fn a_mistake_in_a_list_of_tables_is_shown_at_the_list() {
        let error = file(
            "[addons.calico]\nenabled = true\nsources=[]\n[[addons.calico.patches]]\nknd = \"x\"\n",
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("config.toml:4:"), "{error}");
        assert!(error.contains("unknown field `knd`"), "{error}");
    }

    #[test]
    fn the_file_overrides_user_data_which_overrides_tags() {
        let mut cluster = Table::new();
        cluster.insert("name".into(), "from-tags".into());
        let mut tags = Table::new();
        tags.insert("cluster".into(), Value::Table(cluster));
        tags.insert(
            "node".into(),
            "labels.a = '1'\nlabels.b = '1'\nrole='worker'"
                .parse::<Table>()
                .unwrap()
                .into(),
        );
        let settings = Sources {
            tags: Some(Fragment::made("EC2 tags", tags)),
            user_data: vec![
                Fragment::parse(
                    "user-data",
                    "node.labels.b = '2'\nnode.labels.c='2'\ncluster.name='from-user-data'",
                )
                .unwrap(),
            ],
            file: Some(Fragment::parse("file", "node.labels.c = '3'").unwrap()),
        }
        .settings()
        .unwrap();
        assert_eq!(settings.cluster.name, "from-user-data");
        let labels: Vec<_> = settings
            .node
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(labels, ["a=1", "b=2", "c=3"]);
    }
}
