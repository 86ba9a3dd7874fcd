//! The corpus as ordinary tests read and write it.

use std::path::{Path, PathBuf};

fn dir(target: &str) -> PathBuf {
    // Each package that replays a corpus lies beside `fuzz`.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

/// Runs every file of `target`'s corpus through `check`; a failure names the file.
pub(crate) fn replay(target: &str, check: fn(&[u8])) {
    let dir = dir(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    for path in paths {
        let bytes = std::fs::read(&path).expect("a file of the corpus");
        if let Err(panic) = std::panic::catch_unwind(|| check(&bytes)) {
            #[allow(clippy::print_stderr, reason = "which file it was")]
            {
                eprintln!("{}", path.display());
            }
            std::panic::resume_unwind(panic);
        }
    }
}

/// Writes the start of `target`'s corpus.
pub(crate) fn write(target: &str, files: Vec<(String, Vec<u8>)>) {
    let dir = dir(target);
    std::fs::create_dir_all(&dir).expect("a directory");
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("a file of the corpus");
    }
}
