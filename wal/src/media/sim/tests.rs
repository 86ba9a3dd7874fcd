use super::*;
use crate::media::real::RealMedia;
use std::collections::BTreeSet;

const SEEDS: u64 = 300;

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// A medium with a durable directory `d`.
fn medium() -> SimMedia {
    let media = SimMedia::new(1);
    media.create_dir_all(p("d")).unwrap();
    media
}

/// A durable file of `len` bytes of `fill` in a medium of its own.
fn with_file(len: usize, fill: u8) -> (SimMedia, Arc<dyn MediaFile>) {
    let media = medium();
    let file = media.create(p("d/a"), len as u64).unwrap();
    file.write_all_at(&vec![fill; len], 0).unwrap();
    file.sync().unwrap();
    media.sync_dir(p("d")).unwrap();
    (media, file)
}

fn store(map: &dyn MediaMap, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= map.len());
    for (i, byte) in bytes.iter().enumerate() {
        // SAFETY: in bounds (above); tests store from one thread.
        unsafe { map.base().as_ptr().wrapping_add(at + i).write(*byte) };
    }
}

fn exists(media: &SimMedia, path: &str) -> bool {
    media.image().contains_key(p(path))
}

#[test]
fn any_subset_of_unsynced_sectors_survives_a_cut_and_each_sector_is_whole() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (media, file) = with_file(3 * SECTOR, 1);
        file.write_all_at(&[2; 3 * SECTOR], 0).unwrap();
        media.power_cut(seed);
        let bytes = media.read(p("d/a")).unwrap();
        let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|s| s[0]).collect();
        for sector in bytes.chunks(SECTOR) {
            assert!(sector.iter().all(|b| *b == sector[0]), "seed {seed}: torn");
        }
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[test]
fn what_was_synced_survives_every_cut() {
    for seed in 0..SEEDS {
        let (media, file) = with_file(8192, 1);
        let map = file.map(8192).unwrap();
        store(&*map, 0, &[2; 100]);
        map.sync(0, 100).unwrap();
        drop(map);
        file.write_all_at(&[3; 10], 8190).unwrap();
        file.sync().unwrap();
        media.power_cut(seed);
        let bytes = media.read(p("d/a")).unwrap();
        assert_eq!((bytes.len(), bytes[99], bytes[100]), (8200, 2, 1));
        assert_eq!(bytes[8190..], [3; 10]);
        assert!(media.durable_image() == media.image());
    }
}

#[test]
fn a_map_sync_covers_its_pages_and_no_others() {
    let (media, file) = with_file(3 * 4096, 1);
    let map = file.map(3 * 4096).unwrap();
    store(&*map, 0, &[2; 3 * 4096]);
    map.sync(4100, 1).unwrap();
    let durable = &media.durable_image()[p("d/a")];
    assert_eq!((durable[4095], durable[4096]), (1, 2));
    assert_eq!((durable[8191], durable[8192]), (2, 1));
}

#[test]
fn maps_and_calls_share_bytes_at_a_stable_aligned_address() {
    let (_, file) = with_file(8192, 1);
    let map = file.map(8192).unwrap();
    let base = map.base();
    assert!(base.as_ptr().addr().is_multiple_of(4096));
    store(&*map, 5000, b"by map");
    file.write_all_at(b"by call", 100).unwrap();
    let mut buf = [0; 6];
    file.read_exact_at(&mut buf, 5000).unwrap();
    assert_eq!(&buf, b"by map");
    let second = file.map(4096).unwrap();
    assert_eq!(second.base(), base);
    // SAFETY: in bounds.
    assert_eq!(unsafe { base.as_ptr().wrapping_add(100).read() }, b'b');
    // Growing would move it, so it is refused.
    let e = file.write_all_at(b"x", 8192).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::Unsupported);
    assert!(map.sync(4096, 4097).is_err());
    assert!(file.map(8193).is_err());
    assert!(file.map(0).is_err());
}

#[test]
fn an_unsynced_length_ends_between_the_synced_and_the_written_one() {
    let mut lens = BTreeSet::new();
    for seed in 0..SEEDS {
        let (media, file) = with_file(1000, 1);
        file.write_all_at(&[2; 3000], 1000).unwrap();
        media.power_cut(seed);
        let bytes = media.read(p("d/a")).unwrap();
        assert!((1000..=4000).contains(&bytes.len()));
        assert!(bytes[..1000].iter().all(|b| *b == 1));
        // What did not survive of the new part reads as zeros.
        assert!(bytes[1000..].iter().all(|b| *b == 2 || *b == 0));
        lens.insert(bytes.len());
    }
    assert!(lens.contains(&1000) && lens.contains(&4000) && lens.len() > 3);
}

#[test]
fn a_created_file_is_durable_only_with_its_directory_and_its_bytes_only_with_a_sync() {
    let (mut there, mut gone, mut empty) = (0, 0, 0);
    for seed in 0..SEEDS {
        let media = medium();
        let file = media.create(p("d/a"), 4096).unwrap();
        file.sync().unwrap();
        let unsynced = media.create(p("d/b"), 4096).unwrap();
        unsynced.write_all_at(&[1; 4096], 0).unwrap();
        media.power_cut(seed);
        match exists(&media, "d/a") {
            true => there += 1,
            false => gone += 1,
        }
        if exists(&media, "d/b") && media.read(p("d/b")).unwrap().is_empty() {
            empty += 1;
        }
        if exists(&media, "d/a") {
            assert_eq!(media.read(p("d/a")).unwrap().len(), 4096);
        }
    }
    assert!(there > 0 && gone > 0 && empty > 0);
    let media = medium();
    media.create(p("d/a"), 0).unwrap();
    media.sync_dir(p("d")).unwrap();
    media.power_cut(1);
    assert!(exists(&media, "d/a"));
}

#[test]
fn a_rename_is_there_whole_or_not_at_all() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let media = medium();
        media.put(p("d/new"), b"new").unwrap();
        media.put(p("d/name"), b"old").unwrap();
        media.rename(p("d/new"), p("d/name")).unwrap();
        assert_eq!(media.read(p("d/name")).unwrap(), b"new");
        assert!(!exists(&media, "d/new"));
        media.power_cut(seed);
        let name = media.read(p("d/name")).unwrap();
        assert_eq!(name == b"old", exists(&media, "d/new"));
        seen.insert(name);
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn directory_changes_survive_each_by_itself_until_the_directory_is_synced() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let media = medium();
        media.put(p("d/old"), b"").unwrap();
        media.create(p("d/a"), 0).unwrap();
        media.remove(p("d/old")).unwrap();
        media.create(p("d/b"), 0).unwrap();
        media.power_cut(seed);
        seen.insert(["d/a", "d/old", "d/b"].map(|path| exists(&media, path)));
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
    let media = medium();
    media.put(p("d/old"), b"").unwrap();
    media.remove(p("d/old")).unwrap();
    media.create(p("e"), 0).unwrap();
    media.sync_dir(p("d")).unwrap();
    for _ in 0..20 {
        media.power_cut(1);
        assert!(!exists(&media, "d/old"));
    }
}

#[test]
fn a_surviving_rename_of_a_lost_create_still_leads_to_the_file() {
    for seed in 0..SEEDS {
        let media = medium();
        let file = media.create(p("d/t"), 0).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        file.sync().unwrap();
        media.rename(p("d/t"), p("d/f")).unwrap();
        media.power_cut(seed);
        if exists(&media, "d/f") {
            assert_eq!(media.read(p("d/f")).unwrap(), b"x");
            assert!(!exists(&media, "d/t"));
        }
    }
}

#[test]
fn after_a_cut_handles_maps_and_locks_of_before_are_dead() {
    let (media, file) = with_file(4096, 1);
    let map = file.map(4096).unwrap();
    let lock = media.lock(p("d/LOCK")).unwrap();
    media.power_cut(3);
    assert!(file.len().is_err());
    assert!(file.write_all_at(b"x", 0).is_err());
    assert!(file.map(4096).is_err());
    assert!(map.sync(0, 1).is_err());
    // The memory is still there, and is nobody's.
    store(&*map, 0, &[9; 4096]);
    assert_eq!(media.read(p("d/a")).unwrap(), [1; 4096]);
    let again = media.lock(p("d/LOCK")).unwrap();
    drop(lock);
    let e = media.lock(p("d/LOCK")).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::WouldBlock, "freed by a dead guard");
    drop(again);
    media.lock(p("d/LOCK")).unwrap();
}

#[test]
fn a_kill_keeps_the_page_cache_and_a_later_cut_still_takes_it() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (media, file) = with_file(4096, 1);
        let map = file.map(4096).unwrap();
        store(&*map, 0, &[2; 512]);
        media.kill();
        store(&*map, 0, &[3; 512]);
        assert!(file.len().is_err());
        assert_eq!(media.read(p("d/a")).unwrap()[..512], [2; 512]);
        media.power_cut(seed);
        let first = media.read(p("d/a")).unwrap()[0];
        assert!(first == 1 || first == 2);
        lost += u32::from(first == 1);
    }
    assert!(lost > 0);
}

#[test]
fn after_a_failed_sync_the_pages_count_as_clean_and_are_lost_with_the_power() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let media = SimMedia::new(seed);
        media.put(p("a"), &[1; 4096]).unwrap();
        let file = media.open_rw(p("a")).unwrap();
        let map = file.map(4096).unwrap();
        store(&*map, 0, &[2; 4096]);
        media.fail(Fault::nth(1).of(CallKind::SyncMap));
        assert_eq!(map.sync(0, 8).unwrap_err().raw_os_error(), Some(EIO));
        // The lie: it succeeds now.
        map.sync(0, 4096).unwrap();
        file.sync().unwrap();
        assert_eq!(media.read(p("a")).unwrap(), [2; 4096]);
        media.kill();
        assert_eq!(media.read(p("a")).unwrap(), [2; 4096]);
        media.power_cut(seed);
        let bytes = media.read(p("a")).unwrap();
        seen.insert(bytes.iter().filter(|b| **b == 2).count() / SECTOR);
    }
    assert!(seen.contains(&0) || seen.contains(&1), "{seen:?}");
    assert!(seen.len() > 3, "{seen:?}");
}

#[test]
fn bytes_that_are_written_again_after_a_failed_sync_are_synced() {
    for seed in 0..SEEDS {
        let media = SimMedia::new(seed);
        media.put(p("a"), &[1; 8192]).unwrap();
        let file = media.open_rw(p("a")).unwrap();
        let map = file.map(8192).unwrap();
        store(&*map, 0, &[2; 8192]);
        media.fail(Fault::nth(1).of(CallKind::SyncFile));
        file.sync().unwrap_err();
        // By a call with the same bytes, and by a store of others: both dirty the whole page.
        file.write_all_at(&[2], 10).unwrap();
        store(&*map, 4096, &[3]);
        map.sync(0, 8192).unwrap();
        media.power_cut(seed);
        let bytes = media.read(p("a")).unwrap();
        assert_eq!(bytes[..4096], [2; 4096]);
        assert_eq!((bytes[4096], &bytes[4097..]), (3, &[2; 4095][..]));
    }
}

#[test]
fn the_nth_call_of_a_kind_and_path_fails_with_the_error_asked_for() {
    let (media, file) = with_file(4096, 1);
    media.fail(Fault::nth(2).of(CallKind::Read).errno(ENOSPC).times(2));
    media.fail(Fault::nth(1).of(CallKind::SyncFile).on("b"));
    let mut buf = [0];
    file.read_at(&mut buf, 0).unwrap();
    for _ in 0..2 {
        let e = file.read_at(&mut buf, 0).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::StorageFull);
    }
    file.read_at(&mut buf, 0).unwrap();
    file.sync().unwrap();
    media.create(p("d/b"), 0).unwrap().sync().unwrap_err();
    media.fail(Fault::nth(1));
    media.list(p("d")).unwrap_err();
    media.fail(Fault::nth(1).times(u64::MAX));
    media.list(p("d")).unwrap_err();
    media.heal();
    media.list(p("d")).unwrap();
}

#[test]
fn a_failed_create_rename_or_remove_did_nothing() {
    let (media, _file) = with_file(10, 1);
    let before = media.image();
    for kind in [CallKind::Create, CallKind::Rename, CallKind::Remove] {
        media.fail(Fault::nth(1).of(kind));
    }
    media.create(p("d/b"), 10).unwrap_err();
    media.rename(p("d/a"), p("d/c")).unwrap_err();
    media.remove(p("d/a")).unwrap_err();
    assert!(media.image() == before);
}

#[test]
fn a_failed_write_leaves_a_part_of_it() {
    let mut parts = BTreeSet::new();
    for seed in 0..SEEDS {
        let media = SimMedia::new(seed);
        media.put(p("a"), &[0; 8]).unwrap();
        media.fail(Fault::nth(1).of(CallKind::Write));
        let file = media.open_rw(p("a")).unwrap();
        file.write_all_at(&[1; 8], 0).unwrap_err();
        parts.insert(
            media
                .read(p("a"))
                .unwrap()
                .iter()
                .filter(|b| **b == 1)
                .count(),
        );
    }
    assert_eq!(parts, (0..=8).collect());
}

#[test]
fn a_cut_at_a_call_fails_it_and_all_after_it_and_freezes_the_bytes() {
    let run = |media: &SimMedia| -> io::Result<()> {
        let file = media.create(p("d/a"), 4096)?;
        let map = file.map(4096)?;
        store(&*map, 0, &[1; 4096]);
        let synced = map.sync(0, 4096);
        store(&*map, 0, &[2; 4096]);
        synced?;
        media.sync_dir(p("d"))?;
        media.rename(p("d/a"), p("d/b"))
    };
    let media = medium();
    let before = media.calls();
    run(&media).unwrap();
    let calls = media.calls() - before;
    assert_eq!(calls, 5);
    for n in 1..=calls {
        for seed in 0..30 {
            let media = medium();
            media.cut_at_call(n);
            run(&media).unwrap_err();
            assert!(media.is_down());
            assert!(media.list(p("d")).is_err());
            media.power_cut(seed);
            media.list(p("d")).unwrap();
            if n == 3 && exists(&media, "d/a") {
                let bytes = media.read(p("d/a")).unwrap();
                assert!(bytes.iter().all(|b| *b != 2), "a store after the cut");
            }
            if n == 5 {
                assert!(exists(&media, "d/a") != exists(&media, "d/b"));
            }
        }
    }
}

/// What a power cut may take back, the next process finds first: where the call that was cut was one of the process, not of the power.
#[test]
fn a_kill_at_a_call_keeps_all_that_was_written_for_a_later_power_cut_to_take() {
    let mut taken_back = 0;
    for seed in 0..SEEDS {
        let media = medium();
        let file = media.create(p("d/t"), 0).unwrap();
        file.write_all_at(b"synced", 0).unwrap();
        file.sync().unwrap();
        media.sync_dir(p("d")).unwrap();
        media.cut_at_call(2);
        media.rename(p("d/t"), p("d/f")).unwrap();
        media.sync_dir(p("d")).unwrap_err();
        assert!(media.is_down());
        media.kill();
        assert!(!media.is_down());
        file.sync().unwrap_err();
        assert_eq!(media.read(p("d/f")).unwrap(), b"synced");
        media.power_cut(seed);
        taken_back += u32::from(exists(&media, "d/t"));
        assert!(exists(&media, "d/t") != exists(&media, "d/f"));
    }
    assert!(taken_back > 0);
}

#[test]
fn write_back_makes_bytes_durable_without_a_sync() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let media = SimMedia::new(seed);
        media.put(p("a"), &[0; 512]).unwrap();
        media.write_back_one_in(2);
        let file = media.open_rw(p("a")).unwrap();
        for fill in 1..4 {
            file.write_all_at(&[fill; 512], 0).unwrap();
        }
        seen.insert(media.durable_image()[p("a")][0]);
    }
    assert_eq!(seen, (0..4).filter(|b| *b != 3).collect());
}

#[test]
fn a_full_medium_takes_no_more_until_there_is_room() {
    let media = medium();
    media.set_capacity(Some(3 * 4096));
    let a = media.create(p("d/a"), 2 * 4096).unwrap();
    assert_eq!(media.free_bytes(p("d")).unwrap(), 4096);
    let e = media.create(p("d/b"), 4097).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::StorageFull);
    assert!(!exists(&media, "d/b"));
    let b = media.create(p("d/b"), 0).unwrap();
    b.write_all_at(&[1; 4096], 0).unwrap();
    let e = b.write_all_at(&[1; 2], 4095).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::StorageFull);
    a.punch(0, 4096).unwrap();
    assert_eq!(media.used_bytes(), 2 * 4096);
    b.write_all_at(&[1; 2], 4095).unwrap();
    a.write_all_at(b"x", 0).unwrap_err();
    media.remove(p("d/b")).unwrap();
    a.write_all_at(b"x", 0).unwrap();
}

#[test]
fn punched_bytes_read_as_zeros() {
    let (media, file) = with_file(3 * 4096, 1);
    file.punch(4096, 4096).unwrap();
    file.punch(1 << 40, 10).unwrap();
    let bytes = media.read(p("d/a")).unwrap();
    assert_eq!(
        (
            bytes.len(),
            bytes[4095],
            bytes[4096],
            bytes[8191],
            bytes[8192]
        ),
        (3 * 4096, 1, 0, 0, 1)
    );
}

#[test]
fn a_flipped_bit_is_flipped_before_and_after_a_cut() {
    let (media, _file) = with_file(4096, 1);
    media.flip(p("d/a"), 7, 0x80).unwrap();
    assert_eq!(media.read(p("d/a")).unwrap()[7], 0x81);
    media.power_cut(1);
    assert_eq!(media.read(p("d/a")).unwrap()[7], 0x81);
    assert!(media.flip(p("d/a"), 4096, 1).is_err());
}

#[test]
fn a_fork_is_another_medium() {
    let (media, file) = with_file(4096, 1);
    file.write_all_at(&[2; 512], 0).unwrap();
    let fork = media.fork(5);
    assert!(fork.image() == media.image());
    assert!(fork.durable_image() == media.durable_image());
    fork.remove(p("d/a")).unwrap();
    file.write_all_at(&[3; 512], 0).unwrap();
    assert!(exists(&media, "d/a"));
}

#[test]
fn open_files_outlive_their_names() {
    let (media, file) = with_file(4096, 1);
    let map = file.map(4096).unwrap();
    media.remove(p("d/a")).unwrap();
    media.sync_dir(p("d")).unwrap();
    drop(file);
    store(&*map, 0, &[2]);
    map.sync(0, 1).unwrap();
    media.create(p("d/a"), 0).unwrap();
}

#[test]
fn calls_are_counted_and_traced() {
    let (media, file) = with_file(4096, 1);
    let before = media.calls();
    media.start_trace();
    file.map(4096).unwrap().sync(8, 16).unwrap();
    media.open(p("d/none")).unwrap_err();
    assert_eq!(media.calls(), before + 3);
    let trace = media.trace();
    assert_eq!(
        trace[1],
        Call {
            kind: CallKind::SyncMap,
            path: p("d/a").to_owned(),
            offset: 8,
            len: 16
        }
    );
    assert_eq!(trace[2].kind, CallKind::Open);
    assert!(trace[1].kind.is_sync() && !trace[2].kind.is_sync());
}

#[test]
fn wrong_uses_are_errors() {
    let (media, _file) = with_file(10, 1);
    use io::ErrorKind::*;
    let kind = |r: io::Result<Arc<dyn MediaFile>>| r.unwrap_err().kind();
    assert_eq!(kind(media.create(p("d/a"), 1)), AlreadyExists);
    assert_eq!(kind(media.create(p("none/a"), 1)), NotFound);
    assert_eq!(kind(media.open(p("d/none"))), NotFound);
    assert_eq!(kind(media.open(p("d"))), IsADirectory);
    assert_eq!(kind(media.open(p("../d"))), InvalidInput);
    let reader = media.open(p("./d/a")).unwrap();
    assert_eq!(
        reader.write_all_at(b"x", 0).unwrap_err().kind(),
        PermissionDenied
    );
    assert_eq!(
        media.create_dir_all(p("d/a/b")).unwrap_err().kind(),
        NotADirectory
    );
    assert_eq!(media.list(p("d/a")).unwrap_err().kind(), NotADirectory);
    assert_eq!(media.remove(p("d")).unwrap_err().kind(), IsADirectory);
    assert!(media.exists(p("/d/a")).unwrap());
    let mut buf = [0; 20];
    assert_eq!(reader.read_at(&mut buf, 5).unwrap(), 5);
    assert_eq!(reader.read_at(&mut buf, u64::MAX).unwrap(), 0);
}

#[test]
fn a_run_replays_exactly_from_its_seeds() {
    let run = || {
        let media = SimMedia::new(42);
        media.write_back_one_in(3);
        media.create_dir_all(p("d")).unwrap();
        let file = media.create(p("d/a"), 8192).unwrap();
        media.sync_dir(p("d")).unwrap();
        media.fail(Fault::nth(2).of(CallKind::SyncFile));
        for i in 0..20u8 {
            file.write_all_at(&[i; 700], u64::from(i) * 300).unwrap();
            let _ = file.sync();
        }
        media.power_cut(9);
        media.image()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_clone_dies_with_its_process_and_the_tests_handle_lives_on() {
    let media = medium();
    for cut in [true, false] {
        let process = media.clone();
        let thread = process.clone();
        process.create(p("d/a"), 0).unwrap();
        thread.remove(p("d/a")).unwrap();
        match cut {
            true => media.power_cut(1),
            false => thread.kill(),
        }
        assert!(process.create(p("d/a"), 0).is_err());
        assert!(thread.list(p("d")).is_err());
        media.list(p("d")).unwrap();
    }
    // One that is made while the power is out is of the life to come.
    media.cut_at_call(1);
    media.list(p("d")).unwrap_err();
    let next = media.clone();
    next.list(p("d")).unwrap_err();
    media.power_cut(1);
    next.list(p("d")).unwrap();
}

/// A write-back that took a rename before the creation it stands on brought the old name back.
#[test]
fn a_synced_directory_is_as_it_was_written_whatever_was_written_back_before() {
    for seed in 0..SEEDS {
        let media = SimMedia::new(seed);
        media.create_dir_all(p("d")).unwrap();
        media.write_back_one_in(2);
        for _ in 0..3 {
            media.create(p("d/t"), 0).unwrap();
            media.rename(p("d/t"), p("d/f")).unwrap();
            media.remove(p("d/f")).unwrap();
        }
        media.create(p("d/t"), 0).unwrap();
        media.rename(p("d/t"), p("d/f")).unwrap();
        media.sync_dir(p("d")).unwrap();
        media.power_cut(seed);
        let names: Vec<_> = media.image().into_keys().collect();
        assert_eq!(names, [p("d/f")], "seed {seed}");
    }
}

#[test]
fn a_hard_link_is_a_second_name_that_outlives_the_first_once_its_directory_is_synced() {
    for seed in 0..SEEDS {
        let (media, file) = with_file(600, 1);
        file.sync().unwrap();
        media.sync_dir(p("d")).unwrap();
        let used = media.used_bytes();
        media.hard_link(p("d/a"), p("d/b")).unwrap();
        assert_eq!(media.used_bytes(), used, "it takes no room");
        let twice = media.hard_link(p("d/a"), p("d/b")).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
        file.write_all_at(&[2], 0).unwrap();
        assert_eq!(media.read(p("d/b")).unwrap()[0], 2, "one file");
        media.sync_dir(p("d")).unwrap();
        media.remove(p("d/a")).unwrap();
        file.sync().unwrap();
        media.power_cut(seed);
        assert_eq!(media.read(p("d/b")).unwrap()[0], 2);
    }
    let (media, _file) = with_file(10, 1);
    media.sync_dir(p("d")).unwrap();
    media.hard_link(p("d/a"), p("d/b")).unwrap();
    assert!(!media.durable_image().contains_key(p("d/b")), "not synced");
    media.fail(Fault::nth(1).of(CallKind::Link));
    media.hard_link(p("d/a"), p("d/c")).unwrap_err();
    assert!(!exists(&media, "d/c"));
}

#[test]
fn a_file_is_where_its_name_leads_to_it_and_not_to_another() {
    fn goes(media: &dyn Media, dir: &Path) {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let file = media.create(&a, 10).unwrap();
        assert!(file.is_at(&a).unwrap());
        media.rename(&a, &b).unwrap();
        assert!(!file.is_at(&a).unwrap(), "renamed");
        assert!(!file.is_at(&a.join("c")).unwrap(), "no directory");
        assert!(file.is_at(&b).unwrap());
        assert!(media.open(&b).unwrap().is_at(&b).unwrap());
        let other = media.create(&a, 10).unwrap();
        assert!(!file.is_at(&a).unwrap(), "another took its place");
        assert!(!file.is_at(dir).unwrap(), "a directory");
        media.rename(&a, &b).unwrap();
        assert!(!file.is_at(&b).unwrap() && other.is_at(&b).unwrap());
        media.remove(&b).unwrap();
        assert!(!other.is_at(&b).unwrap());
    }
    let media = SimMedia::new(1);
    media.create_dir_all(p("d")).unwrap();
    goes(&media, p("d"));
    let dir = tempfile::tempdir().unwrap();
    goes(&RealMedia::default(), dir.path());
}
