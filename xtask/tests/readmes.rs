//! The READMEs say which test holds which promise, and which model which property. Every test that they name exists, and every model is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The functions in the Rust files below `dir`: `file::function`, where `main`, `mod` and `tests` go by their directory, and whether `#[test]` stands above it.
fn functions(dir: &Path) -> BTreeSet<(String, bool)> {
    let mut found = BTreeSet::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(functions(&path));
            continue;
        }
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let stem = path.file_stem().expect("a name").to_string_lossy();
        let stem = match &*stem {
            "main" | "mod" | "tests" => path.parent().and_then(Path::file_name),
            _ => path.file_stem(),
        };
        let stem = stem.expect("a name").to_string_lossy().into_owned();
        let source = fs::read_to_string(&path).expect("a source");
        let mut is_test = false;
        for line in source.lines().map(str::trim) {
            let begin = line.strip_prefix("fn ").and_then(|l| l.split_once('('));
            if let Some((name, _)) = begin {
                found.insert((format!("{stem}::{name}"), is_test));
            }
            is_test = line == "#[test]" || is_test && line.starts_with("#[");
        }
    }
    found
}

/// What stands between backticks in the README of `crate_dir`.
fn code(crate_dir: &str) -> Vec<String> {
    let readme = fs::read_to_string(root().join(crate_dir).join("README.md")).expect("README.md");
    (readme.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

fn is_name(code: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    code.chars().all(fits)
}

#[test]
fn every_test_that_a_readme_names_exists() {
    let mut there = BTreeSet::new();
    for crate_dir in fs::read_dir(root()).expect("the workspace") {
        for part in ["src", "tests"] {
            let dir = crate_dir.as_ref().expect("an entry").path().join(part);
            there.extend(functions(&dir).into_iter().map(|(name, _)| name));
        }
    }
    for crate_dir in ["audit", "wal"] {
        let mut named = code(crate_dir);
        named.retain(|code| code.contains("::") && is_name(code));
        let count = named.len();
        assert!(count > 30, "{crate_dir}: only {count} tests are named");
        named.retain(|name| !there.contains(name));
        assert!(
            named.is_empty(),
            "{crate_dir}/README.md names tests that do not exist: {named:#?}"
        );
    }
}

#[test]
fn every_model_is_in_the_table_of_models_and_every_one_in_it_exists() {
    let mut models = BTreeSet::new();
    for (name, is_test) in functions(&root().join("loom-tests/tests")) {
        let (_, name) = name.split_once("::").expect("file and function");
        if is_test && !name.starts_with("twin_") && !name.starts_with("broken_") {
            models.insert(name.to_owned());
        }
    }
    let mut named = BTreeSet::from_iter(code("loom-tests"));
    named.retain(|code| code.matches('_').count() > 2 && is_name(code));
    assert!(models.len() > 20, "only {} models", models.len());
    // `bell` alone has a name of fewer words.
    models.retain(|name| name.matches('_').count() > 2);
    assert_eq!(named, models);
}
