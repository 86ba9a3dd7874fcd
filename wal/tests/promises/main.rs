//! The log's promises W1-W10, E2 and E3 of the design, one by one, each on files of the operating system and on the simulated
//! medium. (E1 is `leaves_nothing.rs`, which must be alone in its process.)
#![allow(clippy::print_stdout, reason = "a test says on which medium it fails")]

mod beside;
mod ground;
mod leisure;
#[expect(unsafe_code, reason = "a medium implements the mapping")]
mod watched;

use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, EIO, ENOSPC};
use esker_wal::*;
use ground::{PATIENCE, both, payloads, settle};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The largest allocation so far.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Noting;

// SAFETY: passes everything on to the system's allocator.
#[expect(unsafe_code, reason = "an allocator that notes sizes")]
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's obligations are the system's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static NOTING: Noting = Noting;

#[test]
fn w1_a_synced_append_survives_the_power_and_a_published_one_the_process() {
    both(|ground| {
        let log = ground.open();
        for n in 0..100_u8 {
            let appended = log.append(&[&[n; 700]]).unwrap();
            assert!(log.published() >= appended.end);
            let killed = ground.killed().open();
            assert_eq!(payloads(&killed, appended.lsn).unwrap(), [[n; 700]]);
            if n % 10 == 0 {
                ground.watched.calls();
                log.sync_up_to(appended.end).unwrap();
                let calls = ground.watched.calls();
                assert!(
                    calls.iter().any(|(kind, _)| *kind == CallKind::SyncMap),
                    "acknowledged without a sync: {calls:?}"
                );
                if let Some(after) = ground.powerless() {
                    let log = after.open();
                    assert_eq!(payloads(&log, Lsn::ZERO).unwrap().len(), usize::from(n) + 1);
                }
            }
        }
    });
}

#[test]
fn w2_a_batch_is_there_whole_or_not_at_all() {
    both(|ground| {
        let log = ground.open();
        let kept = log.append(&[b"kept"]).unwrap();
        log.sync_up_to(kept.end).unwrap();
        let torn = log
            .append(&[b"one frame", &[1; 600], b"one batch"])
            .unwrap();
        let killed = ground.killed();
        let (name, at) = killed.find(b"one frame");
        // Any byte of it, header and payload, did not make it to the disk.
        let frame = at - frame::HEADER_LEN..at + 618;
        for byte in frame.step_by(13) {
            let torn_ground = killed.killed();
            let mut bytes = torn_ground.files().remove(&name).unwrap();
            bytes[byte..at + 624].fill(0);
            torn_ground.put(&name, &bytes);
            let (log, recovered) = torn_ground.try_open().unwrap();
            assert_eq!(payloads(&log, Lsn::ZERO).unwrap(), [b"kept"], "at {byte}");
            assert_eq!(recovered.end, torn.lsn);
        }
    });
}

#[test]
fn w3_a_torn_tail_is_cut_and_what_follows_it_stays() {
    both(|ground| {
        let log = ground.open();
        let kept = log.append(&[b"kept"]).unwrap();
        log.sync_up_to(kept.end).unwrap();
        log.append(&[b"torn"]).unwrap();
        let killed = ground.killed();
        let (name, at) = killed.find(b"torn");
        killed.flip(&name, at, 1);
        let (log, recovered) = killed.try_open().unwrap();
        assert!(recovered.cut_bytes > 0);
        log.append(&[b"after"]).unwrap();
        log.close().unwrap();
        for _ in 0..2 {
            let (log, recovered) = killed.try_open().unwrap();
            assert!(recovered.clean);
            let expected: [&[u8]; 2] = [b"kept", b"after"];
            assert_eq!(payloads(&log, Lsn::ZERO).unwrap(), expected);
            log.close().unwrap();
        }
    });
}

/// Header bit, lost page, position: what rivals opened with, and cut.
#[test]
fn w3_damage_below_the_mark_is_reported_and_changes_nothing() {
    both(|ground| {
        let log = ground.open();
        let hurt = log.append(&[b"in the middle"]).unwrap();
        for _ in 0..300 {
            log.append(&[&[9; 100]]).unwrap();
        }
        log.close().unwrap();
        let (name, at) = ground.find(b"in the middle");
        let frame = at - frame::HEADER_LEN;
        type Damage = fn(&mut [u8], usize);
        let damages: [(&str, Damage); 4] = [
            ("a bit of the length", |b, at| b[at] ^= 1),
            ("a bit of the position", |b, at| b[at + 8] ^= 8),
            ("a bit of the payload", |b, at| b[at + 40] ^= 128),
            ("a zeroed page", |b, at| {
                let page = at / 4096 * 4096;
                b[page..page + 4096].fill(0);
            }),
        ];
        for (what, damage) in damages {
            let hurt_ground = ground.killed();
            let mut bytes = hurt_ground.files().remove(&name).unwrap();
            damage(&mut bytes, frame);
            hurt_ground.put(&name, &bytes);
            let before = hurt_ground.files();
            let said = match hurt_ground.try_open() {
                Err(OpenError::Corrupt { path, at, .. }) => {
                    assert!(path.ends_with(&name) && at <= hurt.lsn, "{what}");
                    assert!(hurt_ground.files() == before, "{what}: something changed");
                    continue;
                }
                Err(error) => panic!("{what}: {error}"),
                // Its footer vouches for a closed segment until it is read.
                Ok((log, _)) => payloads(&log, Lsn::ZERO).map(|_| ()),
            };
            assert!(
                matches!(&said, Err(LogError::Corrupt { at, .. }) if *at <= hurt.lsn),
                "{what}: {said:?}"
            );
        }
    });
}

#[test]
fn w4_stale_bytes_and_another_logs_bytes_are_no_frames() {
    both(|ground| {
        // Two logs with the same frames at the same places; of one a part of a tail comes into the other.
        let log = ground.open();
        let other = ground.empty();
        let options = LogOptions {
            create: Some(Create {
                log: LogId(8),
                node: NodeId(9),
                base: Lsn::ZERO,
            }),
            ..other.options()
        };
        let (foreign, _) = Log::open(&other.dir, options).unwrap();
        let mut last = None;
        for _ in 0..3 {
            foreign.append(&[b"foreign"]).unwrap();
            last = Some(log.append(&[b"our own"]).unwrap());
        }
        let last = last.unwrap();
        let (from, foreign_at) = other.find(b"foreign");
        let (to, own_at) = ground.find(b"our own");
        assert_eq!(foreign_at, own_at, "the same place");
        let foreign = other.files().remove(&from).unwrap();
        let killed = ground.killed();
        let mut bytes = killed.files().remove(&to).unwrap();
        let second = own_at - frame::HEADER_LEN + 40;
        bytes[second..second + 80].copy_from_slice(&foreign[second..second + 80]);
        killed.put(&to, &bytes);
        let (log, recovered) = killed.try_open().unwrap();
        assert_eq!(payloads(&log, Lsn::ZERO).unwrap(), [b"our own"]);
        assert!(recovered.end < last.lsn && recovered.cut_bytes > 0);
    });
}

#[test]
fn w5_positions_are_unique_and_go_on_after_everything_was_released() {
    both(|ground| {
        let mut seen = Vec::new();
        for _ in 0..3 {
            let log = ground.open();
            for _ in 0..200 {
                let appended = log.append(&[&[5; 300]]).unwrap();
                seen.push((log.epoch(), appended.lsn));
            }
            log.sync_up_to(log.reserved()).unwrap();
            log.release(log.synced());
            settle(&log);
            assert!(log.oldest() > Lsn::ZERO);
            log.close().unwrap();
        }
        let lsns: Vec<_> = seen.iter().map(|(_, lsn)| *lsn).collect();
        assert!(lsns.is_sorted_by(|a, b| a < b), "a position came twice");
    });
}

#[test]
fn w6_after_a_failed_sync_nothing_is_acknowledged_until_reopened() {
    both(|ground| {
        let log = ground.open();
        let kept = log.append(&[b"kept"]).unwrap();
        log.sync_up_to(kept.end).unwrap();
        let lost = log.append(&[b"perhaps"]).unwrap();
        ground
            .watched
            .fail(&[CallKind::SyncMap, CallKind::SyncFile], EIO);
        assert!(matches!(
            log.sync_up_to(lost.end),
            Err(LogError::Poisoned(_))
        ));
        // The next sync would succeed, as the kernel's does. It must not be asked.
        ground.watched.heal();
        assert!(matches!(
            log.sync_up_to(lost.end),
            Err(LogError::Poisoned(_))
        ));
        assert!(matches!(log.append(&[b"more"]), Err(LogError::Poisoned(_))));
        assert!(log.synced() < lost.end);
        assert!(log.poison().is_some());
        assert_eq!(payloads(&log, Lsn::ZERO).unwrap()[0], b"kept");
        assert!(log.close().is_err(), "a close that hides the failure");
        drop(log);
        let log = ground.open();
        assert_eq!(payloads(&log, Lsn::ZERO).unwrap()[0], b"kept");
        let appended = log.append(&[b"more"]).unwrap();
        log.sync_up_to(appended.end).unwrap();
    });
}

#[test]
fn w6_a_failed_write_of_reserved_bytes_acknowledges_nothing() {
    both(|ground| {
        for errno in [EIO, ENOSPC] {
            let log = ground.open();
            // Frames go by calls where few come per sync: only a log with threads chooses that way by itself.
            ground.watched.fail(
                &[CallKind::Write, CallKind::SyncMap, CallKind::SyncFile],
                errno,
            );
            let end = match log.append(&[b"lost"]) {
                Ok(appended) => appended.end,
                Err(LogError::Poisoned(_)) => log.reserved(),
                Err(error) => panic!("{error}"),
            };
            assert!(matches!(log.sync_up_to(end), Err(LogError::Poisoned(_))));
            ground.watched.heal();
            assert!(log.close().is_err());
        }
    });
}

#[test]
fn w7_bytes_that_nobody_syncs_are_bounded_and_an_oversized_payload_is_refused() {
    both(|ground| {
        let bound = 8 << 10;
        let options = LogOptions {
            sync_policy: SyncPolicy::Manual,
            unsynced_bytes_max: bound,
            ..ground.options()
        };
        let (log, _) = Log::open(&ground.dir, options).unwrap();
        let mut refused = 0;
        for _ in 0..1000 {
            match log.try_reserve(500) {
                Ok(reservation) => {
                    reservation.publish(&[&[1; 500]]).unwrap();
                }
                Err(LogError::Busy) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(log.reserved().since(log.synced()) <= bound);
        }
        assert!(refused > 900, "{refused}");
        let end = log.reserved();
        assert!(matches!(
            log.append(&[&[0; 1 << 20][..]; 65]),
            Err(LogError::TooLarge { .. })
        ));
        assert_eq!(log.reserved(), end);
    });
}

#[test]
fn w8_a_full_disk_fails_an_append_without_a_position_and_heals_by_itself() {
    both(|ground| {
        let log = ground.open();
        settle(&log);
        ground.watched.fail(&[CallKind::Create], ENOSPC);
        let mut appended = 0;
        let error = loop {
            let before = log.reserved();
            match log.append(&[&[8; 1000]]) {
                Ok(_) => appended += 1,
                Err(error) => {
                    assert_eq!(log.reserved(), before, "a position was given");
                    break error;
                }
            }
            assert!(appended < 1000, "it never ran out");
        };
        assert!(matches!(error, LogError::NoSpace { .. }), "{error}");
        assert_eq!(payloads(&log, Lsn::ZERO).unwrap().len(), appended);
        log.sync_up_to(log.reserved()).unwrap();
        ground.watched.heal();
        settle(&log);
        log.append(&[&[8; 1000]]).unwrap();
        log.close().unwrap();
    });
}

#[test]
fn w9_a_directory_is_opened_by_one_at_a_time() {
    both(|ground| {
        let log = ground.open();
        assert!(matches!(ground.try_open(), Err(OpenError::Locked { .. })));
        log.close().unwrap();
        drop(ground.open());
    });
}

#[test]
fn w10_a_close_flushes_marks_clean_and_ends_appends_and_may_be_repeated() {
    both(|ground| {
        let log = ground.open();
        log.append(&[b"flushed by close"]).unwrap();
        log.close().unwrap();
        log.close().unwrap();
        assert!(matches!(log.append(&[b"late"]), Err(LogError::Closed)));
        assert!(matches!(log.try_reserve(4), Err(LogError::Closed)));
        drop(log);
        let after = ground.powerless().unwrap_or_else(|| ground.killed());
        let (log, recovered) = after.try_open().unwrap();
        assert!(recovered.clean);
        // Clean is taken back: a crash from here on is not clean.
        let (log_again, recovered) = after.killed().try_open().unwrap();
        assert!(!recovered.clean);
        assert_eq!(
            payloads(&log, Lsn::ZERO).unwrap(),
            payloads(&log_again, Lsn::ZERO).unwrap()
        );
    });
}

/// The clock of this log stands still: whatever waits for a timer waits for ever.
#[test]
fn a_lone_append_waits_for_no_timer() {
    both(|ground| {
        for policy in [
            SyncPolicy::Always,
            SyncPolicy::Interval(Duration::from_secs(3600)),
            SyncPolicy::Manual,
        ] {
            let options = LogOptions {
                workers: Workers::Threads,
                sync_policy: policy,
                clock: Arc::new(ManualClock::default()),
                ..ground.options()
            };
            let (log, _) = Log::open(&ground.dir, options).unwrap();
            for _ in 0..50 {
                let appended = log.append(&[b"alone"]).unwrap();
                log.sync_up_to_timeout(appended.end, PATIENCE).unwrap();
            }
            log.close().unwrap();
        }
    });
}

#[test]
fn e2_no_length_from_disk_sizes_an_allocation() {
    both(|ground| {
        let log = ground.open();
        let kept = log.append(&[b"kept"]).unwrap();
        log.sync_up_to(kept.end).unwrap();
        log.append(&[b"lies"]).unwrap();
        let killed = ground.killed();
        let (name, at) = killed.find(b"lies");
        for length in [
            u32::MAX,
            1 << 31 | 0x7fff_fff0,
            1 << 31 | 1 << 28,
            0x7fff_ffff,
        ] {
            let lying = killed.killed();
            let mut bytes = lying.files().remove(&name).unwrap();
            let frame = at - frame::HEADER_LEN;
            bytes[frame..frame + 4].copy_from_slice(&length.to_le_bytes());
            lying.put(&name, &bytes);
            LARGEST.store(0, Ordering::Relaxed);
            let (log, _) = lying.try_open().unwrap();
            assert_eq!(payloads(&log, Lsn::ZERO).unwrap(), [b"kept"]);
        }
        // The other tests of this process allocate too, but no such piece.
        assert!(LARGEST.load(Ordering::Relaxed) < 4 << 20);
        // Every file cut to any length, every file of noise: an error or a log, never a panic.
        for (name, bytes) in killed.files() {
            for cut in [0, 1, 511, 512, 4095, 4096, 5000] {
                let short = killed.killed();
                short.put(&name, &bytes[..cut.min(bytes.len())]);
                let _ = short.try_open().map(|(log, _)| payloads(&log, Lsn::ZERO));
                let noise = killed.killed();
                let noisy: Vec<u8> = (0..bytes.len())
                    .map(|n| (n.wrapping_mul(2_654_435_761) >> (cut % 23)) as u8)
                    .collect();
                noise.put(&name, &noisy);
                let _ = noise.try_open().map(|(log, _)| payloads(&log, Lsn::ZERO));
            }
        }
    });
}

#[test]
fn e3_an_error_names_its_file_and_says_what_to_do() {
    both(|ground| {
        let says = |error: &dyn std::error::Error, words: &[&str]| {
            let text = error.to_string();
            for word in words {
                assert!(text.contains(word), "{text:?} lacks {word:?}");
            }
        };
        let dir = ground.dir.to_str().unwrap().to_owned();
        let nothing = LogOptions {
            create: None,
            ..ground.options()
        };
        let error = Log::open(&ground.dir, nothing).map(|_| ()).unwrap_err();
        says(&error, &[&dir, "create"]);
        let log = ground.open();
        let error = ground.try_open().map(|_| ()).unwrap_err();
        says(&error, &[&dir, "in use", "close it"]);
        let appended = log.append(&[b"to be damaged"]).unwrap();
        ground.watched.fail(&[CallKind::SyncMap], EIO);
        let error = log.sync_up_to(appended.end).unwrap_err();
        says(&error, &[&dir, ".seg", "poisoned", "reopen", "os error 5"]);
        ground.watched.heal();
        let error = log.append(&[&[0; 1 << 20][..]; 65]).unwrap_err();
        says(&error, &["limit"]);
        let _ = log.close();
        drop(log);
        let log = ground.open();
        log.close().unwrap();
        drop(log);
        let (name, at) = ground.find(b"to be damaged");
        ground.flip(&name, at, 1);
        let error = match ground.try_open() {
            Err(error) => error.to_string(),
            Ok((log, _)) => payloads(&log, Lsn::ZERO).unwrap_err().to_string(),
        };
        assert!(
            error.contains(&name) && error.contains(&format!("{}", appended.lsn)),
            "{error}"
        );
    });
}

/// A log of before the first release is not taken for a damaged one.
#[test]
fn e3_a_log_of_an_older_format_is_refused_by_name_and_left_alone() {
    both(|ground| {
        drop(ground.open());
        let mut meta = ground.files().remove("LOG").unwrap();
        meta[8..12].copy_from_slice(&1_u32.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&meta[..12]);
        crc.update(&meta[16..]);
        meta[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
        ground.put("LOG", &meta);
        let before = ground.files();
        let error = ground.try_open().map(|_| ()).unwrap_err();
        assert!(
            matches!(error, OpenError::OlderFormat { found: 1, .. }),
            "{error}"
        );
        assert!(ground.files() == before, "something changed");
    });
}
