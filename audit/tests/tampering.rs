//! A1: whatever is done to a trail without its key is seen, with the place and the kind of it. Each test is a row of the table in README.md.

mod support;

use esker_audit::{
    Anchored, CHECKPOINT, FindingKind, Key, Keyring, Order, Query, Trail, VerifyOptions, verify,
};
use esker_wal::media::sim::SimMedia;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::forge::{payloads, with_live};
use support::{DIR, answers, closed, copy, keys, login, open, report, stepped, written};

/// Sequences of the closed files of `written(3, 4)`: the trail's own record, then four in each.
fn ranges(media: &SimMedia) -> Vec<(String, u64, u64)> {
    let names = closed(media);
    let firsts: Vec<u64> = names.iter().map(|n| n[..20].parse().unwrap()).collect();
    let lasts = firsts[1..].iter().map(|f| f - 1).chain([13]);
    names
        .into_iter()
        .zip(firsts.clone())
        .zip(lasts)
        .map(|((n, f), l)| (n, f, l))
        .collect()
}

#[test]
fn an_untouched_trail_is_whole() {
    let media = written(3, 4);
    let report = report(&media);
    assert_eq!(report.findings, []);
    assert_eq!((report.first, report.last, report.entries), (1, 18, 18));
    assert_eq!((report.files, report.synced), (3, 18));
    assert_eq!(report.anchored, Anchored::Not);
}

#[test]
fn every_changed_byte_of_a_closed_file_is_found_in_it() {
    let media = written(3, 4);
    for (name, first, last) in ranges(&media) {
        let path = Path::new(DIR).join(&name);
        let bytes = media.read(&path).unwrap();
        // Each byte of one, some of the others.
        let step = if first == 1 { 1 } else { 13 };
        for at in (0..bytes.len()).step_by(step) {
            media.flip(&path, at as u64, 1 << (at % 8)).unwrap();
            let found = report(&media);
            let finding = found.findings.first();
            let finding = finding.unwrap_or_else(|| panic!("{name}: byte {at} was not seen"));
            assert_eq!(finding.path, path, "byte {at}: {finding}");
            let here = finding
                .sequence
                .is_none_or(|s| (first..=last + 1).contains(&s));
            assert!(here, "byte {at}: {finding}");
            media.flip(&path, at as u64, 1 << (at % 8)).unwrap();
        }
    }
    assert_eq!(report(&media).findings, []);
}

#[test]
fn every_changed_byte_of_head_and_identity_is_found() {
    let media = written(1, 4);
    for (name, kind) in [
        ("HEAD", FindingKind::Head),
        ("TRAIL", FindingKind::Identity),
    ] {
        let path = Path::new(DIR).join(name);
        for at in 0..media.read(&path).unwrap().len() as u64 {
            media.flip(&path, at, 1).unwrap();
            let found = report(&media);
            assert!(
                found
                    .findings
                    .iter()
                    .any(|f| f.kind == kind && f.path == path),
                "{name}, byte {at}: {:?}",
                found.findings
            );
            media.flip(&path, at, 1).unwrap();
        }
    }
}

#[test]
fn every_changed_byte_of_a_record_in_the_live_log_is_found() {
    let media = written(1, 4);
    let (path, bytes) = live_segment(&media);
    // Frames begin at 4096; what is behind the last is no part of the trail.
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    let footer = bytes.len() - 512;
    let frames = bytes[..footer]
        .iter()
        .rposition(|b| *b != 0)
        .unwrap()
        .min(end);
    for at in 4096..=frames {
        media.flip(&path, at as u64, 1 << (at % 8)).unwrap();
        let found = report(&media);
        let finding = found.findings.first();
        let finding = finding.unwrap_or_else(|| panic!("byte {at} of {frames} was not seen"));
        let live = finding.path.starts_with("audit/live") || finding.kind == FindingKind::TailCut;
        assert!(live, "byte {at}: {finding}");
        assert!(
            finding.sequence.is_some_and(|s| (6..=11).contains(&s)),
            "byte {at}: {finding}"
        );
        media.flip(&path, at as u64, 1 << (at % 8)).unwrap();
    }
}

/// The segment that holds the live records.
fn live_segment(media: &SimMedia) -> (PathBuf, Vec<u8>) {
    let mut segments = media.image().into_iter().filter(|(path, bytes)| {
        path.extension().is_some_and(|e| e == "seg")
            && bytes.windows(10).any(|w| w == b"user.login")
            && bytes.windows(18).any(|w| w == b"esker.audit.closed")
    });
    segments.next_back().expect("there is one")
}

/// What somebody can do who has this crate's log, but not the key: rewrite the live log so that its own checks hold.
fn forged(media: &SimMedia, change: impl Fn(&mut Vec<Vec<u8>>)) -> SimMedia {
    let mut payloads = payloads(media);
    let sequence = |p: &Vec<u8>| u64::from_le_bytes(*p[8..].first_chunk().unwrap());
    // What is in closed files by now.
    payloads.retain(|p| sequence(p) > 13);
    change(&mut payloads);
    with_live(media, &payloads)
}

fn first(media: &SimMedia) -> (FindingKind, Option<u64>) {
    let found = report(media);
    let finding = found.findings.first().expect("nothing was seen");
    (finding.kind, finding.sequence)
}

/// The live log of `written(3, 4)` holds the records 14 to 18.
#[test]
fn records_removed_repeated_swapped_or_edited_in_the_live_log_are_named() {
    let media = written(3, 4);
    assert_eq!(report(&forged(&media, |_| {})).findings, []);
    for at in 0..4 {
        let sequence = 14 + at as u64;
        let removed = forged(&media, |p| drop(p.remove(at)));
        assert_eq!(first(&removed), (FindingKind::Missing, Some(sequence)));
        let repeated = forged(&media, |p| p.insert(at + 1, p[at].clone()));
        assert_eq!(first(&repeated), (FindingKind::Reordered, Some(sequence)));
        let swapped = forged(&media, |p| p.swap(at, at + 1));
        assert_eq!(first(&swapped), (FindingKind::Missing, Some(sequence)));
        // Each byte of its body, its severity, its time.
        let len = forged_len(&media, at);
        for byte in (2..len).filter(|b| !(4..16).contains(b)).step_by(7) {
            let edited = forged(&media, |p| p[at][byte] ^= 1);
            let found = first(&edited);
            let named = matches!(
                found,
                (FindingKind::Changed | FindingKind::Damaged, Some(s)) if s == sequence
            );
            assert!(named, "byte {byte} of {at}: {found:?}");
        }
    }
}

/// Verifying is one thing; but a query, too, gives no forged record for an answer (RD4).
#[test]
fn rd4_a_forged_record_is_no_answer() {
    let media = written(3, 4);
    let read = |media: &SimMedia, order| {
        let query = Query {
            order,
            ..Query::default()
        };
        answers(media, query)
    };
    for order in [Order::Oldest, Order::Newest] {
        let (answers, error) = read(&forged(&media, |_| {}), order);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(answers.len(), 18);
        for at in 0..5 {
            let len = forged_len(&media, at);
            let sequence = 14 + at as u64;
            for (what, made) in [
                // Its last letter, and its severity.
                ("edited", forged(&media, |p| p[at][len - 40] ^= 1)),
                ("graver", forged(&media, |p| p[at][2] = 4 - p[at][2])),
                ("removed", forged(&media, |p| drop(p.remove(at)))),
            ] {
                let (answers, error) = read(&made, order);
                if (what, at) == ("removed", 4) {
                    // The last one's absence is for HEAD to tell, and so for `verify`.
                    continue;
                }
                let tampered = matches!(error, Some(esker_audit::Error::Tampered { .. }));
                assert!(tampered, "{what} {at} {order:?}: {error:?}");
                assert!(!answers.contains(&sequence), "{what} {at} {order:?}");
            }
        }
    }
}

fn forged_len(media: &SimMedia, at: usize) -> usize {
    let len = std::cell::Cell::new(0);
    forged(media, |p| len.set(p[at].len()));
    len.get()
}

#[test]
fn a_cut_tail_is_seen_by_the_head() {
    let media = written(3, 4);
    for kept in 0..5 {
        let cut = forged(&media, |p| p.truncate(kept));
        let expected = 14 + kept as u64;
        assert_eq!(first(&cut), (FindingKind::TailCut, Some(expected)));
    }
    let without_live = copy(&media, |name, bytes| {
        (!name.starts_with("live/")).then(|| (name.to_owned(), bytes))
    });
    assert_eq!(first(&without_live), (FindingKind::TailCut, Some(14)));
    let without_head = copy(&media, |name, bytes| {
        (name != "HEAD").then(|| (name.to_owned(), bytes))
    });
    assert_eq!(first(&without_head), (FindingKind::Head, None));
}

#[test]
fn closed_files_removed_renamed_replaced_or_cut_are_named() {
    let media = written(3, 4);
    let ranges = ranges(&media);
    let same = |name: &str, bytes: Vec<u8>| Some((name.to_owned(), bytes));
    for (at, (file, begin, _)) in ranges.iter().enumerate() {
        let removed = copy(&media, |name, bytes| {
            if name == file {
                None
            } else {
                same(name, bytes)
            }
        });
        let found = report(&removed);
        match found.findings.first() {
            Some(f) => assert_eq!(
                (f.kind, f.sequence),
                (FindingKind::Missing, Some(*begin)),
                "{file}"
            ),
            // The live log has not let go of its records yet: none is missing.
            None => assert_eq!((at, found.entries), (2, 18)),
        }
        let renamed = copy(&media, |name, bytes| match name == file {
            true => Some((format!("{:020}.trail", begin + 1), bytes)),
            false => same(name, bytes),
        });
        assert_eq!(
            first(&renamed),
            (FindingKind::Foreign, Some(*begin)),
            "{file}"
        );
        let other = media
            .read(&Path::new(DIR).join(&ranges[(at + 1) % 3].0))
            .unwrap();
        let replaced = copy(&media, |name, bytes| match name == file {
            true => same(name, other.clone()),
            false => same(name, bytes),
        });
        let found = report(&replaced);
        let named = found.findings.iter().any(|f| f.path.ends_with(file));
        assert!(
            named && found.findings[0].sequence.unwrap() <= *begin + 5,
            "{file}: {:?}",
            found.findings
        );
        let len = media.read(&Path::new(DIR).join(file)).unwrap().len();
        for kept in (0..len).step_by(41).chain([len - 1]) {
            let cut = copy(&media, |name, mut bytes| {
                if name == file {
                    bytes.truncate(kept);
                }
                same(name, bytes)
            });
            let found = report(&cut);
            let finding = &found.findings[0];
            let kind = matches!(finding.kind, FindingKind::Cut | FindingKind::Damaged);
            assert!(
                kind && finding.path.ends_with(file),
                "{file} cut to {kept}: {finding}"
            );
        }
    }
}

/// A file of another trail under the same key, and one that somebody made with a key of his own.
#[test]
fn a_file_of_another_trail_or_of_another_key_is_named() {
    let media = written(3, 4);
    let (file, begin, _) = ranges(&media)[1].clone();
    let path = Path::new(DIR).join(&file);
    let elsewhere = |keys: Keyring| {
        let media = SimMedia::new(9);
        let (trail, _) = Trail::open(Path::new(DIR), keys, stepped(&media)).unwrap();
        for file in 0..4 {
            for n in 0..4 {
                trail.record(login(file * 4 + n)).unwrap();
            }
            trail.rotate().unwrap();
        }
        media.read(&path).unwrap()
    };
    let with = |bytes: &Vec<u8>| {
        copy(&media, |name, old| match name == file {
            true => Some((name.to_owned(), bytes.clone())),
            false => Some((name.to_owned(), old)),
        })
    };
    let same_key = with(&elsewhere(keys()));
    assert_eq!(first(&same_key), (FindingKind::Foreign, Some(begin)));
    let mut bytes = elsewhere(Keyring::of(Key::from_secret([66; 32])));
    let other_key = with(&bytes);
    assert_eq!(first(&other_key), (FindingKind::Key, Some(begin)));
    // Under the right key's name.
    bytes[32..40].copy_from_slice(&keys().newest().id().0.to_le_bytes());
    assert_eq!(first(&with(&bytes)), (FindingKind::Damaged, Some(begin)));
}

/// The whole end of the trail, rebuilt by somebody who has all but the key.
#[test]
fn a_suffix_rebuilt_without_the_key_is_named() {
    let media = written(3, 4);
    let rebuilt = forged(&media, |payloads| {
        let attacker = SimMedia::new(3);
        let ring = Keyring::of(Key::from_secret([66; 32]));
        let (trail, _) = Trail::open(Path::new(DIR), ring, stepped(&attacker)).unwrap();
        for n in 0..16 {
            trail.record(login(1000 + n)).unwrap();
        }
        drop(trail);
        let key = keys().newest().id().0.to_le_bytes();
        *payloads = support::forge::payloads(&attacker);
        payloads.retain(|payload| (14..=18).contains(&payload[8]));
        for payload in payloads.iter_mut() {
            payload[32..40].copy_from_slice(&key);
        }
        assert_eq!(payloads.len(), 5);
    });
    assert_eq!(first(&rebuilt), (FindingKind::Changed, Some(14)));
}

#[test]
fn an_old_copy_of_the_whole_directory_is_seen_against_a_checkpoint_alone() {
    let media = written(1, 4);
    let old = copy(&media, |name, bytes| Some((name.to_owned(), bytes)));
    let trail = open(&media);
    for n in 0..10 {
        trail.record(login(n)).unwrap();
    }
    let checkpoint = trail.checkpoint().unwrap();
    trail.record(login(11)).unwrap();
    trail.close().unwrap();
    let against = |media: &SimMedia| {
        let options = VerifyOptions {
            against: Some(checkpoint.clone()),
            media: Arc::new(media.clone()),
            ..VerifyOptions::default()
        };
        verify(Path::new(DIR), &keys(), &options).unwrap()
    };
    let now = against(&media);
    assert_eq!((now.anchored, now.findings), (Anchored::Holds, Vec::new()));
    // Nothing in the directory can show it.
    assert_eq!(report(&old).findings, []);
    let found = against(&old);
    assert_eq!(found.findings[0].kind, FindingKind::OldCopy);
    // It went its own way since, with the key.
    let forked = open(&old);
    for n in 0..20 {
        forked.record(login(500 + n)).unwrap();
    }
    forked.close().unwrap();
    assert_eq!(report(&old).findings, []);
    let found = against(&old);
    assert_eq!(
        (found.anchored, found.findings[0].kind),
        (Anchored::Breaks, FindingKind::Forked)
    );
    // Another trail's.
    let other = written(1, 4);
    let found = against(&other);
    assert_eq!(found.findings[0].kind, FindingKind::Foreign);
}

/// `now` with the files of `old` in place of its own, but for `CHECKPOINT`.
fn put_back(now: &SimMedia, old: &SimMedia) -> SimMedia {
    let out = copy(old, |name, bytes| {
        (name != CHECKPOINT).then(|| (name.to_owned(), bytes))
    });
    let path = Path::new(DIR).join(CHECKPOINT);
    out.put(&path, &now.read(&path).unwrap()).unwrap();
    out
}

/// Who can't sign and forgets the checkpoint beside is found by it; who does not forget it is not: it anchors nothing.
#[test]
fn an_old_copy_of_all_but_the_checkpoint_beside_is_seen_by_it() {
    let media = written(1, 4);
    let old = copy(&media, |name, bytes| Some((name.to_owned(), bytes)));
    let trail = open(&media);
    for n in 0..10 {
        trail.record(login(n)).unwrap();
    }
    trail.close().unwrap();
    let now = report(&media);
    assert_eq!(now.findings, []);
    assert_eq!((now.anchored, now.beside), (Anchored::Not, Some(now.last)));
    let found = report(&put_back(&media, &old));
    let finding = found.findings.first().expect("it was not seen");
    assert_eq!(
        (finding.kind, finding.sequence),
        (FindingKind::OldCopy, Some(now.last))
    );
    assert!(finding.path.ends_with(CHECKPOINT), "{finding}");
    assert_eq!(found.anchored, Anchored::Not);
    // It is not opened over it either, and what it saw is not given away again.
    let back = put_back(&media, &old);
    let refused = Trail::open(Path::new(DIR), keys(), stepped(&back)).unwrap_err();
    assert!(refused.to_string().contains("old copy"), "{refused}");
    let options = esker_audit::Options {
        on_tamper: esker_audit::OnTamper::Continue,
        ..stepped(&back)
    };
    let (trail, opened) = Trail::open(Path::new(DIR), keys(), options).unwrap();
    assert_eq!(opened.findings[0].kind, FindingKind::OldCopy);
    let next = trail.record(login(1)).unwrap().sequence.unwrap();
    assert!(next > now.last, "{next}");
    trail.close().unwrap();
    let found = report(&back);
    assert_eq!(found.findings, []);
    assert_eq!(found.dropped, now.last - opened.last);
    let aside = Path::new(DIR).join("CHECKPOINT.aside-1");
    assert!(back.read(&aside).is_ok(), "the evidence is gone");
    // Without it, or with the one of the old copy, nothing is seen.
    assert_eq!(report(&old).findings, []);
    let without = copy(&media, |name, bytes| {
        (name != CHECKPOINT).then(|| (name.to_owned(), bytes))
    });
    let found = report(&without);
    assert_eq!((found.findings, found.beside), (vec![], None));
}

/// The copy went its own way since, with the key, up to behind what the checkpoint saw.
#[test]
fn a_checkpoint_beside_that_saw_another_record_is_a_fork() {
    let media = written(1, 4);
    let mut old = copy(&media, |name, bytes| Some((name.to_owned(), bytes)));
    let trail = open(&media);
    trail.record(login(1)).unwrap();
    trail.close().unwrap();
    for rotated in [false, true] {
        let trail = open(&old);
        for n in 0..10 {
            trail.record(login(500 + n)).unwrap();
        }
        if rotated {
            trail.rotate().unwrap();
        }
        trail.close().unwrap();
        let forked = put_back(&media, &old);
        assert_eq!(first(&forked).0, FindingKind::Forked);
        let opened = Trail::open(Path::new(DIR), keys(), stepped(&forked));
        // What is inside of a closed file is for verify to see.
        assert_eq!(opened.is_err(), !rotated);
        old = copy(&old, |name, bytes| Some((name.to_owned(), bytes)));
    }
    let other = written(3, 4);
    assert_eq!(first(&put_back(&other, &media)).0, FindingKind::Foreign);
}

#[test]
fn every_changed_byte_of_the_checkpoint_beside_is_found() {
    let media = written(1, 4);
    let path = Path::new(DIR).join(CHECKPOINT);
    let bytes = media.read(&path).unwrap();
    let seen = |at: usize| {
        let found = report(&media);
        let finding = found.findings.first();
        let finding = finding.unwrap_or_else(|| panic!("byte {at} was not seen"));
        assert_eq!(finding.kind, FindingKind::Signature, "byte {at}");
        assert_eq!(finding.path, path);
    };
    for at in 0..bytes.len() {
        media.flip(&path, at as u64, 1 << (at % 8)).unwrap();
        seen(at);
        media.flip(&path, at as u64, 1 << (at % 8)).unwrap();
    }
    for kept in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        media.put(&path, &bytes[..kept]).unwrap();
        seen(kept);
    }
    media
        .put(&path, &[bytes.clone(), vec![b'x'; 1 << 20]].concat())
        .unwrap();
    seen(1 << 20);
    for more in [[b"x\n", &bytes[..]].concat(), [&bytes[..], b"x\n"].concat()] {
        media.put(&path, &more).unwrap();
        seen(more.len());
    }
    let trail = Trail::open(Path::new(DIR), keys(), stepped(&media));
    assert!(matches!(trail, Err(esker_audit::Error::Tampered { .. })));
}

/// Somebody changes a record inside a closed file and stores the block again: what he can't make are the hashes.
#[test]
fn what_retention_removed_is_signed_for_and_more_is_not() {
    let media = SimMedia::new(1);
    let options = esker_audit::Options {
        keep_bytes: Some(1),
        ..stepped(&media)
    };
    let (trail, _) = Trail::open(Path::new(DIR), keys(), options).unwrap();
    for file in 0..4 {
        for n in 0..4 {
            trail.record(login(file * 4 + n)).unwrap();
        }
        trail.rotate().unwrap();
        if file == 2 {
            assert_eq!(trail.clean().unwrap(), 2);
        }
    }
    trail.close().unwrap();
    let found = report(&media);
    assert_eq!(found.findings, []);
    assert_eq!((found.removed, found.first), (9, 10));
    let names = closed(&media);
    let more = copy(&media, |name, bytes| {
        (name != names[0]).then(|| (name.to_owned(), bytes))
    });
    assert_eq!(first(&more), (FindingKind::Missing, Some(10)));
}

/// Who has no key at all can't verify, and is told which he needs.
#[test]
fn without_the_key_nothing_is_said_of_the_trail() {
    let media = written(1, 4);
    let options = VerifyOptions {
        media: Arc::new(media),
        ..VerifyOptions::default()
    };
    let others = Keyring::of(Key::from_secret([66; 32]));
    let error = verify(Path::new(DIR), &others, &options).unwrap_err();
    assert!(matches!(error, esker_audit::Error::NoKey { .. }), "{error}");
}
