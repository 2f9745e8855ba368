//! Checks CONTRIBUTING's rules for the rooms: which room may import which.
//!
//! A room is a file or folder directly below `src/`, `lab/src/` or `app/src/`. Imports by tests do not count.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, UseTree,
    visit::{self, Visit},
};

/// The rooms that may name an adapter: commands wire them, and tests use the real ones if they can.
const WIRING: [&str; 3] = ["commands", "main", "testing"];

/// The rooms that each room imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Collects the `X` of every `crate::X` outside tests.
#[derive(Default)]
struct Imported(BTreeSet<String>);

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

impl Imported {
    fn heads(&mut self, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => drop(self.0.insert(path.ident.to_string())),
            UseTree::Name(name) => drop(self.0.insert(name.ident.to_string())),
            UseTree::Rename(name) => drop(self.0.insert(name.ident.to_string())),
            UseTree::Glob(_) => panic!("`use crate::*` hides what is imported"),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.heads(tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Imported {
    fn visit_item(&mut self, item: &'ast Item) {
        let for_tests = match item {
            Item::Mod(ItemMod { attrs, .. })
            | Item::Use(ItemUse { attrs, .. })
            | Item::Fn(syn::ItemFn { attrs, .. })
            | Item::Impl(syn::ItemImpl { attrs, .. }) => is_for_tests(attrs),
            _ => false,
        };
        if !for_tests {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if let UseTree::Path(path) = &item.tree
            && path.ident == "crate"
        {
            self.heads(&path.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter();
        if segments.next().is_some_and(|first| first.ident == "crate")
            && let Some(room) = segments.next()
        {
            self.0.insert(room.ident.to_string());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        // A macro's arguments are only tokens: `crate :: room`.
        let tokens = call.tokens.to_string().replace(' ', "");
        for after in tokens.split("crate::").skip(1) {
            let end = after.find(|c: char| !c.is_alphanumeric() && c != '_');
            self.0
                .insert(after[..end.unwrap_or(after.len())].to_owned());
        }
        visit::visit_macro(self, call);
    }
}

fn imported(source: &str) -> BTreeSet<String> {
    let mut imported = Imported::default();
    imported.visit_file(&syn::parse_file(source).unwrap());
    imported.0
}

/// Reads every file below `folder` that does not belong to a test.
fn read(folder: &Path, room: Option<&str>, imports: &mut Imports) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "tests" || (room.is_none() && name == "lib") {
            continue;
        }
        let room = room.unwrap_or(name);
        if path.is_dir() {
            read(&path, Some(room), imports);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let found = imported(&fs::read_to_string(&path).unwrap());
            imports.entry(room.to_owned()).or_default().extend(found);
        }
    }
}

/// The rooms below this folder of the project.
fn rooms_in(folder: &str) -> Imports {
    let mut imports = Imports::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    read(&folder, None, &mut imports);
    for (room, imported) in &mut imports {
        imported.remove(room);
    }
    imports
}

/// A path of imports from a room back to itself, if there is one.
fn cycle(imports: &Imports) -> Option<Vec<&str>> {
    fn from<'a>(room: &'a str, path: &mut Vec<&'a str>, imports: &'a Imports) -> bool {
        let seen = path.iter().position(|before| *before == room);
        path.push(room);
        if let Some(first) = seen {
            path.drain(..first);
            return true;
        }
        for next in imports.get(room).into_iter().flatten() {
            if from(next, path, imports) {
                return true;
            }
        }
        path.pop();
        false
    }
    imports.keys().find_map(|room| {
        let mut path = Vec::new();
        from(room, &mut path, imports).then_some(path)
    })
}

/// The rooms that name an adapter although they may not.
fn outside_of_the_wiring(imports: &Imports) -> Vec<&str> {
    let rooms = imports.iter();
    rooms
        .filter(|(room, imported)| {
            imported.contains("adapters") && !WIRING.contains(&room.as_str())
        })
        .map(|(room, _)| room.as_str())
        .collect()
}

#[test]
fn no_rooms_import_each_other_in_a_cycle() {
    for (folder, rooms) in [("src", 20), ("lab/src", 20), ("app/src", 5)] {
        let mut imports = rooms_in(folder);
        // Only tests use it, so its imports do not count.
        imports.remove("testing");
        assert_eq!(cycle(&imports), None, "{folder}");
        assert!(imports.len() >= rooms, "{folder}: {imports:?}");
    }
}

#[test]
fn only_the_wiring_names_adapters() {
    let none: [&str; 0] = [];
    assert_eq!(outside_of_the_wiring(&rooms_in("src")), none);
}

#[test]
fn planted_violations_are_found() {
    let rooms = |sources: &[(&str, &str)]| -> Imports {
        let sources = sources.iter();
        sources
            .map(|(room, source)| ((*room).to_owned(), imported(source)))
            .collect()
    };
    let planted = rooms(&[
        ("steps", "use crate::{error::Result, plan::Phase};"),
        ("plan", "fn f() { let _ = crate::runner::run(); }"),
        (
            "runner",
            "fn f() { select! { _ = crate::steps::go() => {} } }",
        ),
        ("error", ""),
    ]);
    assert_eq!(
        cycle(&planted),
        Some(vec!["plan", "runner", "steps", "plan"])
    );
    let planted = rooms(&[
        ("commands", "use crate::adapters::wiring::Wiring;"),
        ("agent", "use crate::{adapters::host::LocalHost, error};"),
    ]);
    assert_eq!(outside_of_the_wiring(&planted), ["agent"]);
    let by_tests = rooms(&[(
        "agent",
        "#[cfg(test)] mod tests { use crate::adapters::host; } #[cfg(test)] use crate::adapters;",
    )]);
    assert_eq!(outside_of_the_wiring(&by_tests), [""; 0]);
}
