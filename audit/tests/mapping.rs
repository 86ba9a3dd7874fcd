//! README.md says which test holds which promise, which pitfall and which attack. Every test that it names exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of all functions in the Rust files below `dir`, each as `file::function` and `directory/file::function`.
fn functions(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, into);
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
        for line in fs::read_to_string(&path).expect("a source").lines() {
            if let Some((name, _)) = line
                .trim()
                .strip_prefix("fn ")
                .and_then(|l| l.split_once('('))
            {
                into.insert(format!("{stem}::{name}"));
            }
        }
    }
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut there = BTreeSet::new();
    for dir in ["src", "tests", "../server/tests"] {
        functions(&root.join(dir), &mut there);
    }
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md");
    let named: Vec<&str> = (readme.split('`').skip(1).step_by(2))
        .filter(|code| {
            // A type of the crate begins with a capital.
            code.contains("::")
                && code.starts_with(char::is_lowercase)
                && code
                    .chars()
                    .all(|c| c.is_alphanumeric() || "_:".contains(c))
        })
        .collect();
    assert!(named.len() > 30, "only {} tests are named", named.len());
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !there.contains(**name))
        .collect();
    assert!(
        missing.is_empty(),
        "README.md names tests that do not exist: {missing:#?}"
    );
}
