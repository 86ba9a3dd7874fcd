//! The promises of log storage, one by one.

use crate::world::{DIR, WHO, content, id, meta, options, read_all};
use bytes::Bytes;
use esker_raft::core::{Abstain, Entry, EntryKind, HardState, Index, NodeId, Term, Write};
use esker_raft::log::{Identity, LogError, LogStore, OpenError, Recovered, WalLog};
use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, SimMedia};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn open_as(media: &SimMedia, who: Identity) -> Result<(WalLog, Recovered), OpenError> {
    WalLog::open(
        Path::new(DIR),
        who,
        options(media, &Arc::new(ManualClock::default())),
    )
}

fn open(media: &SimMedia) -> (WalLog, Recovered) {
    open_as(media, WHO).unwrap()
}

fn entry(term: u64, index: u64, payload: &str) -> Entry {
    Entry {
        id: id(term, index),
        kind: EntryKind::Command(Bytes::copy_from_slice(payload.as_bytes())),
    }
}

fn hard(term: u64, vote: u64) -> Write {
    Write::HardState(HardState {
        term: Term(term),
        vote: (vote > 0).then_some(NodeId(vote)),
    })
}

fn fill(store: &mut WalLog, term: u64, from: u64, n: u64) {
    for index in from..from + n {
        let entries = vec![entry(term, index, &"x".repeat(200))];
        store.write(&[Write::Append(entries)]).unwrap();
    }
    store.sync().unwrap();
}

/// C4: what it counts is the calls of the medium.
#[test]
fn a_group_of_entries_and_hard_state_costs_one_sync() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    while store.step() {}
    fill(&mut store, 1, 1, 1);
    media.start_trace();
    store
        .write(&[
            hard(2, 1),
            Write::Append(vec![entry(2, 2, "a"), entry(2, 3, "b")]),
        ])
        .unwrap();
    store
        .write(&[Write::Append(vec![entry(2, 4, "c")])])
        .unwrap();
    store.sync().unwrap();
    let syncs = media.trace().iter().filter(|c| c.kind.is_sync()).count();
    assert_eq!(syncs, 1, "{:?}", media.trace());
    store.sync().unwrap();
    let syncs = media.trace().iter().filter(|c| c.kind.is_sync()).count();
    assert_eq!(syncs, 1, "nothing new: no sync");
}

#[test]
fn a_disk_is_bound_to_its_node_and_keeps_its_number() {
    let media = SimMedia::new(1);
    let (mut store, found) = open(&media);
    assert!(found.empty);
    let disk = found.disk;
    store.write(&[hard(1, 2)]).unwrap();
    store.close().unwrap();
    for other in [
        Identity {
            node: NodeId(3),
            ..WHO
        },
        Identity { cluster: 8, ..WHO },
    ] {
        let refused = open_as(&media, other);
        assert!(
            matches!(refused, Err(OpenError::OtherNode { .. })),
            "{refused:?}"
        );
    }
    let refused = open_as(&media, Identity { group: 2, ..WHO });
    assert!(
        matches!(refused, Err(OpenError::OtherGroup { .. })),
        "{refused:?}"
    );
    let (_store, found) = open(&media);
    assert_eq!((found.disk, found.empty), (disk, false));
    // A wiped node that comes back under its id is not the same.
    let (_store, found) = open(&SimMedia::new(1));
    assert!(found.empty && found.disk != disk);
}

#[test]
fn a_superseded_suffix_stays_superseded_over_a_restart() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    fill(&mut store, 1, 1, 9);
    store
        .write(&[hard(2, 0), Write::Append(vec![entry(2, 4, "new")])])
        .unwrap();
    store.sync().unwrap();
    media.power_cut(3);
    let (mut store, found) = open(&media);
    assert_eq!(found.log.last(), id(2, 4));
    assert_eq!(read_all(&store, 1, 1).unwrap().len(), 4);
    // A shorter log of an older term does not come back when it is followed by another.
    store
        .write(&[Write::Append(vec![entry(2, 5, "five")])])
        .unwrap();
    store.close().unwrap();
    let (store, found) = open(&media);
    assert_eq!(found.log.last(), id(2, 5));
    assert_eq!(read_all(&store, 5, 1).unwrap(), [entry(2, 5, "five")]);
}

#[test]
fn compaction_frees_segments_and_the_log_goes_on_behind_it() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    store.write(&[hard(3, 2)]).unwrap();
    fill(&mut store, 3, 1, 300);
    let before = media.image().len();
    for (to, left) in [(250, 50), (300, 0)] {
        store.compact(&meta(id(3, to))).unwrap();
        store.sync().unwrap();
        while store.step() {}
        assert_eq!(read_all(&store, to + 1, 5000).unwrap().len(), left);
        let gone = store.reader().entries(Index(to), Index(to), 100).unwrap();
        assert_eq!(gone, []);
        // Vote, base and membership are found though their frames are long gone.
        media.power_cut(to);
        let (again, found) = open(&media);
        store = again;
        assert_eq!(
            (found.log.base(), found.log.last()),
            (id(3, to), id(3, 300))
        );
        assert_eq!(found.hard.vote, Some(NodeId(2)));
        assert_eq!(
            *found.log.membership_at(Index(to)),
            meta(id(3, to)).membership
        );
    }
    while store.step() {}
    assert!(media.image().len() < before, "segments are let go");
    // An older one does nothing.
    store.compact(&meta(id(3, 100))).unwrap();
    fill(&mut store, 3, 301, 2);
    assert_eq!(read_all(&store, 301, 1).unwrap().len(), 2);
}

#[test]
fn a_snapshot_inside_a_conflicting_suffix_begins_the_log_anew() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    fill(&mut store, 1, 1, 9);
    let snapshot = meta(id(2, 6));
    store
        .write(&[hard(2, 0), Write::Snapshot(snapshot.clone())])
        .unwrap();
    store.sync().unwrap();
    assert_eq!(read_all(&store, 7, 100).unwrap(), []);
    media.power_cut(1);
    let (mut store, found) = open(&media);
    assert_eq!((found.log.base(), found.log.last()), (id(2, 6), id(2, 6)));
    assert_eq!(*found.log.membership().1, snapshot.membership);
    fill(&mut store, 2, 7, 1);
    store.close().unwrap();
    let (store, found) = open(&media);
    let content = content(&store, &found).unwrap();
    assert_eq!(content.last(), id(2, 7));
}

/// WL5. What a closed segment holds is read from its file, which the medium's trace shows.
#[test]
fn old_entries_are_read_from_the_log_and_memory_holds_the_newest_alone() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    fill(&mut store, 1, 1, 400);
    while store.step() {}
    let reader = store.reader();
    let reads = |from: u64, to: u64| {
        media.start_trace();
        let entries = reader.entries(Index(from), Index(to), 1 << 20).unwrap();
        assert_eq!(entries.len() as u64, to - from + 1);
        let trace = media.trace();
        trace.iter().filter(|c| c.kind == CallKind::Read).count()
    };
    assert_eq!(reads(400, 400), 0, "the newest is in memory");
    for from in (1..200).step_by(10) {
        assert!(reads(from, from + 9) > 0, "{from} is held in memory");
    }
}

#[test]
fn entries_of_any_size_are_cut_into_frames_and_come_back() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    let entries: Vec<_> = (1..=4).map(|n| entry(1, n, &"y".repeat(700_000))).collect();
    store.write(&[Write::Append(entries.clone())]).unwrap();
    store.sync().unwrap();
    media.power_cut(1);
    let (store, found) = open(&media);
    assert_eq!(found.abstain, Abstain::No);
    assert_eq!(read_all(&store, 1, 1).unwrap(), entries);
}

/// Writes large entries over a disk that has room for some of them: the medium, the store, what was to be written, and what is in.
fn half_written(clock: &Arc<ManualClock>) -> (SimMedia, WalLog, Vec<Write>, Vec<Entry>) {
    let media = SimMedia::new(1);
    let mut large = options(&media, clock);
    large.log.segment_bytes = 2 << 20;
    let (mut store, _) = WalLog::open(Path::new(DIR), WHO, large).unwrap();
    while store.step() {}
    let entries: Vec<_> = (1..=9).map(|n| entry(2, n, &"y".repeat(700_000))).collect();
    let writes = vec![hard(2, 1), Write::Append(entries)];
    media.set_capacity(Some(media.used_bytes() + 1000));
    for _ in 0..2 {
        let full = store.write(&writes);
        assert!(matches!(full, Err(LogError::Full(_))), "{full:?}");
    }
    let within = read_all(&store, 1, 1).unwrap();
    assert!((1..9).contains(&within.len()), "{}", within.len());
    (media, store, writes, within)
}

/// LS6.
#[test]
fn w8_a_large_write_that_finds_no_room_goes_on_where_it_stood() {
    let clock = Arc::new(ManualClock::default());
    let (media, mut store, writes, _) = half_written(&clock);
    media.set_capacity(None);
    // Its worker looks for room again after a pause.
    clock.advance(Duration::from_secs(1));
    while store.step() {}
    store.write(&writes).unwrap();
    let last = entry(2, 10, "behind it");
    store.write(&[Write::Append(vec![last.clone()])]).unwrap();
    store.sync().unwrap();
    let Write::Append(mut entries) = writes[1].clone() else {
        unreachable!()
    };
    entries.push(last);
    assert_eq!(read_all(&store, 1, 1).unwrap(), entries);
    media.power_cut(1);
    drop(store);
    let (store, found) = open(&media);
    assert_eq!((found.abstain, found.hard.term), (Abstain::No, Term(2)));
    assert_eq!(read_all(&store, 1, 1).unwrap(), entries);
}

/// LS6: the log is whole with what is in, and refuses what does not go on with it.
#[test]
fn w8_of_a_large_write_that_found_no_room_a_crash_leaves_the_beginning() {
    for goes in ["closed", "killed", "another write"] {
        let (media, mut store, _, within) = half_written(&Arc::default());
        media.set_capacity(None);
        match goes {
            "closed" => store.close().unwrap(),
            "killed" => media.kill(),
            _ => {
                let other = store.write(&[hard(3, 0)]);
                assert!(matches!(other, Err(LogError::Failed(_))), "{other:?}");
            }
        }
        drop(store);
        let (store, found) = open(&media);
        assert_eq!((found.abstain, found.hard.term), (Abstain::No, Term(2)));
        assert_eq!(read_all(&store, 1, 1).unwrap(), within, "{goes}");
    }
}

#[test]
fn what_can_follow_nothing_is_refused_and_nothing_after_it_is_taken() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    fill(&mut store, 1, 1, 2);
    let gap = store.write(&[Write::Append(vec![entry(1, 4, "gap")])]);
    assert!(matches!(gap, Err(LogError::Failed(_))), "{gap:?}");
    assert!(store.sync().is_err());
    drop(store);
    assert_eq!(open(&media).1.log.last(), id(1, 2));
}

#[test]
fn closing_twice_is_fine_and_a_closed_log_takes_nothing() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    store.write(&[hard(1, 1)]).unwrap();
    store.close().unwrap();
    store.close().unwrap();
    let refused = store.write(&[hard(2, 1)]);
    assert!(matches!(refused, Err(LogError::Closed)), "{refused:?}");
    assert_eq!(open(&media).1.hard.term, Term(1));
}

/// Files that hold frames, by age.
fn with_frames(media: &SimMedia) -> Vec<PathBuf> {
    let frames = |bytes: &Vec<u8>| bytes.len() > 4104 && bytes[4096..4104] != [0; 8];
    (media.image().into_iter())
        .filter(|(path, bytes)| path.extension().is_some_and(|e| e == "seg") && frames(bytes))
        .map(|(path, _)| path)
        .collect()
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Shortened,
    Removed,
    Zeros,
    Header,
}

impl Loss {
    fn of(self, media: &SimMedia, path: &Path) {
        let bytes = media.read(path).unwrap();
        match self {
            Loss::Shortened => media.put(path, &bytes[..bytes.len() - 1]),
            Loss::Removed => media.remove(path),
            Loss::Zeros => media.put(path, &vec![0; bytes.len()]),
            Loss::Header => media.flip(path, 20, 1),
        }
        .unwrap();
    }
}

/// What was acknowledged is gone, and the vote may be: nothing but the file's absence says so, and only once.
fn amnesia_is_noticed(media: &SimMedia, what: &str) {
    for opening in 1..=3 {
        let (store, found) = open(media);
        assert_eq!(found.abstain, Abstain::Always, "{what}, opening {opening}");
        assert!(!found.empty, "{what}, opening {opening}");
        media.kill();
        drop(store);
    }
}

/// WL4, C2: of the newest segment's file the log's history knows its first frame alone.
#[test]
fn wl4_the_newest_segment_s_file_is_lost() {
    for epochs in [1, 2] {
        for loss in [Loss::Shortened, Loss::Removed, Loss::Zeros] {
            let media = SimMedia::new(1);
            let clock = Arc::new(ManualClock::default());
            let opened = || WalLog::open(Path::new(DIR), WHO, options(&media, &clock)).unwrap();
            let (mut store, _) = opened();
            store.write(&[hard(4, 0)]).unwrap();
            fill(&mut store, 4, 1, 3);
            if epochs == 2 {
                media.kill();
                drop(store);
                store = opened().0;
            }
            store.write(&[hard(5, 1)]).unwrap();
            store.sync().unwrap();
            clock.advance(Duration::from_millis(500));
            while store.step() {}
            media.kill();
            drop(store);
            let files = with_frames(&media);
            assert_eq!(files.len(), epochs);
            loss.of(&media, files.last().unwrap());
            amnesia_is_noticed(&media, &format!("{epochs} epochs, {loss:?}"));
        }
    }
}

/// WL4: what an open has made good, the next does not find. The first ends anywhere, by a kill or with the power.
#[test]
fn wl4_a_segment_s_file_is_lost_and_the_first_open_behind_it_ends_early() {
    for epochs in [1, 2] {
        let media = SimMedia::new(1);
        let (mut store, _) = open(&media);
        store.write(&[hard(4, 0)]).unwrap();
        fill(&mut store, 4, 1, 3);
        if epochs == 2 {
            media.kill();
            drop(store);
            store = open(&media).0;
        }
        store.write(&[hard(5, 1)]).unwrap();
        store.sync().unwrap();
        media.kill();
        drop(store);
        let files = with_frames(&media);
        Loss::Removed.of(&media, files.last().unwrap());
        media.sync_dir(Path::new(DIR)).unwrap();
        let mut ended = 0;
        for call in 1.. {
            let clock = Arc::new(ManualClock::default());
            let media = media.fork(call);
            media.cut_at_call(call);
            let opened = WalLog::open(Path::new(DIR), WHO, options(&media, &clock));
            if !media.is_down() {
                break;
            }
            ended += 1;
            let power = media.fork(call);
            power.power_cut(call);
            media.kill();
            drop(opened);
            for (media, how) in [(media, "a kill"), (power, "the power")] {
                amnesia_is_noticed(&media, &format!("{epochs} epochs, {how} at call {call}"));
            }
        }
        assert!(ended > 10, "{ended}");
    }
}

/// WL4: no range says what a file held that can't be taken for a segment.
#[test]
fn wl4_a_segment_s_file_is_none_any_more_and_nothing_stands_behind_it() {
    for loss in [Loss::Shortened, Loss::Zeros] {
        let media = SimMedia::new(1);
        let (mut store, _) = open(&media);
        store.write(&[hard(4, 1)]).unwrap();
        fill(&mut store, 4, 1, 100);
        media.kill();
        drop(store);
        let files = with_frames(&media);
        assert!(files.len() > 1);
        loss.of(&media, files.last().unwrap());
        amnesia_is_noticed(&media, &format!("{loss:?}"));
    }
}

/// WL4: a header is made up for from the frames, and then nothing is lost.
#[test]
fn wl4_a_header_s_damage_alone_loses_nothing() {
    let media = SimMedia::new(1);
    let (mut store, _) = open(&media);
    store.write(&[hard(4, 1)]).unwrap();
    fill(&mut store, 4, 1, 100);
    let entries = read_all(&store, 1, 1).unwrap();
    media.kill();
    drop(store);
    for path in with_frames(&media) {
        Loss::Header.of(&media, &path);
        let (store, found) = open(&media);
        assert_eq!(found.abstain, Abstain::No);
        assert_eq!(found.hard.vote, Some(NodeId(1)));
        assert_eq!(read_all(&store, 1, 1).unwrap(), entries);
        media.kill();
        drop(store);
    }
}

/// WL4, WL3: what is released leaves a frame behind that says so.
#[test]
fn wl4_all_frames_are_lost_but_the_log_s_own() {
    for loss in [Loss::Shortened, Loss::Removed, Loss::Zeros] {
        let media = SimMedia::new(1);
        let (mut store, _) = open(&media);
        store.write(&[hard(4, 1)]).unwrap();
        fill(&mut store, 4, 1, 3);
        media.kill();
        drop(store);
        // Nobody asks this one for anything.
        let (store, found) = open(&media);
        assert_eq!(found.abstain, Abstain::No);
        media.kill();
        drop(store);
        let files = with_frames(&media);
        assert_eq!(files.len(), 2);
        loss.of(&media, &files[0]);
        amnesia_is_noticed(&media, &format!("{loss:?}"));
    }
}
