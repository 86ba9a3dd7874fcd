//! E2: whatever the files hold, nothing panics, and nothing allocates by what they say; and what can't be read is never an answer.

#![allow(clippy::print_stdout, reason = "it says which seed it is at")]

mod support;

use esker_audit::{OnTamper, Options, Query, Reader, Trail, VerifyOptions, verify};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::path::Path;
use std::sync::Arc;
use support::{DIR, copy, keys, login, stepped, written};

/// Runs of bytes overwritten, cut off, doubled, in any of the files.
#[test]
fn e2_garbage_in_any_file_is_found_and_never_a_panic() {
    let whole = written(3, 6);
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let seeds = match number("ESKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESKER_SEEDS").unwrap_or(150),
    };
    let mut continued = 0;
    for seed in seeds {
        let rng = std::cell::RefCell::new(StdRng::seed_from_u64(seed));
        let media = copy(&whole, |name, mut bytes| {
            let rng = &mut *rng.borrow_mut();
            if name == "LOCK" || bytes.is_empty() || rng.random_bool(0.7) {
                return Some((name.to_owned(), bytes));
            }
            let at = rng.random_range(0..bytes.len());
            let len = rng.random_range(1..64).min(bytes.len() - at);
            match rng.random_range(0..4) {
                0 => bytes[at..at + len].fill(if rng.random_bool(0.5) { 0 } else { 0xff }),
                1 => bytes[at..at + len]
                    .iter_mut()
                    .for_each(|b| *b = rng.random()),
                2 => bytes.truncate(at),
                _ => {
                    let doubled = bytes[at..].to_vec();
                    bytes.extend_from_slice(&doubled);
                }
            }
            Some((name.to_owned(), bytes))
        });
        println!("seed {seed}");
        let options = VerifyOptions {
            look_again_after: std::time::Duration::ZERO,
            media: Arc::new(media.clone()),
            ..VerifyOptions::default()
        };
        // Any answer will do; those to single changes are in tampering.rs.
        let _ = verify(Path::new(DIR), &keys(), &options);
        if let Ok(reader) = Reader::open_on(Path::new(DIR), keys(), options.media.clone())
            && let Ok(mut records) = reader.query(Query::default())
        {
            while let Ok(Some(_)) = records.next() {}
        }
        let _ = Trail::open(Path::new(DIR), keys(), stepped(&media));
        let options = Options {
            on_tamper: OnTamper::Continue,
            ..stepped(&media)
        };
        if let Ok((trail, _)) = Trail::open(Path::new(DIR), keys(), options) {
            trail.record(login(1)).unwrap();
            trail.close().unwrap();
            continued += 1;
        }
    }
    assert!(continued > 0);
}
