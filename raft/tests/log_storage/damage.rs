//! Damage to what was synced: noticed, never cut, and healed by entries that come again.

use crate::seeds::Seen;
use crate::world::{Content, World, content};
use esker_raft::core::{Abstain, Entry, Index, Write};
use esker_raft::log::{LogStore, Recovered};
use esker_wal::{Log, LogOptions, OnDamage, ReadLimit, Workers};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a segment before its frames.
const FRAMES_AT: u64 = 4096;

/// Anywhere in a segment's file, or at its end, or only in its `frames`; whether it was in these.
fn harm(world: &mut World, frames: bool) -> bool {
    let segments = world.segments();
    let path = segments[world.rng.below(segments.len() as u64) as usize].clone();
    let mut image = world.media.read(&path).unwrap();
    let len = image.len() as u64;
    if !frames && world.rng.chance(4) {
        image.truncate((len - 1 - world.rng.below(len / 2)) as usize);
        world.media.put(&path, &image).unwrap();
        world.saw("a file shortened");
        return false;
    }
    // The header has few bytes beside the frames. Not the first sixteen: of a newer format the log is refused, whatever else is wrong.
    let (from, to) = match !frames && world.rng.chance(3) {
        true => (16, 128),
        false => (FRAMES_AT, len),
    };
    let bytes = match world.rng.below(4) {
        0 => 512,
        1 => 3000,
        _ => 1,
    };
    let at = from + world.rng.below(to - from);
    for at in at..(at + bytes).min(len) {
        let bits = 1 << world.rng.below(8);
        world.media.flip(&path, at, bits).unwrap();
    }
    if from < FRAMES_AT {
        world.saw("a header harmed");
    }
    from >= FRAMES_AT
}

/// What was found is a log that was there once: every entry was written, behind the one it stands behind now.
fn existed(world: &World, found: &Content) {
    for entry in found.entries.values() {
        let (prev, written) = &world.history[&entry.id];
        assert_eq!(entry, written);
        let before = found.id(entry.id.index.0 - 1);
        assert_eq!(
            before,
            Some(*prev),
            "{} stands behind another entry",
            entry.id
        );
    }
}

/// Whether nothing of `want` is missing: what was compacted may be there yet.
fn same(found: &Content, want: &Content) -> bool {
    let behind = want.base.last.index.0 + 1;
    found.hard == want.hard
        && found.last() == want.last()
        && found.id(want.base.last.index.0) == Some(want.base.last)
        && found
            .entries
            .range(behind..)
            .eq(want.entries.range(behind..))
}

/// Sends what a leader with `whole` would: from where both agree, or a snapshot.
fn refetch(world: &mut World, whole: &Content, found: &Content, part: bool) {
    let agree = (found.base.last.index.0..=found.last().index.0)
        .rev()
        .find(|i| found.id(*i).is_some() && found.id(*i) == whole.id(*i));
    let mut writes = Vec::new();
    let from = match agree {
        Some(index) => index + 1,
        None => {
            writes.push(Write::Snapshot(whole.base.clone()));
            whole.base.last.index.0 + 1
        }
    };
    let mut entries: Vec<Entry> = whole
        .entries
        .range(from..)
        .map(|(_, e)| e.clone())
        .collect();
    if part {
        entries.truncate(entries.len() / 2);
    }
    if !entries.is_empty() {
        writes.push(Write::Append(entries));
    }
    world.store().write(&writes).unwrap();
    world.store().sync().unwrap();
}

/// Nothing is damaged any more: the log below says so too. (Of a file that is lost it knows for ever that there was one.)
fn assert_whole(world: &World) {
    let (log, _) = Log::open(
        Path::new(crate::world::DIR),
        LogOptions {
            on_damage: OnDamage::Refuse,
            workers: Workers::Stepped,
            media: Arc::new(world.media.clone()),
            ..LogOptions::default()
        },
    )
    .expect("no damage is left");
    let mut reader = log
        .reader(log.oldest(), ReadLimit::Published)
        .expect("readable");
    while reader.next().expect("no frame is damaged").is_some() {}
    drop(reader);
    log.close().unwrap();
}

fn open(world: &mut World) -> (Recovered, Content) {
    let found = world.try_open().expect("opens in spite of damage");
    let content = content(world.store(), &found).expect("what is found is readable");
    (found, content)
}

/// Runs one seed.
pub fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    world.media.write_back_one_in(0);
    world.try_open().unwrap();
    for _ in 0..30 + world.rng.below(60) {
        match world.rng.below(12) {
            0 => world.compact(),
            1 => world.sync(),
            2 => {
                world.store().step();
            }
            3 => world.reopen(),
            _ => world.write(),
        }
    }
    world.sync();
    let whole = world.now().clone();
    // Its own marks say how far it was synced: of the last frames an idle mark, or the closing one.
    world.clock.advance(Duration::from_millis(500));
    while world.store().step() {}
    match world.rng.chance(2) {
        true => world.store().close().unwrap(),
        false => {
            world.write();
            world.media.kill();
        }
    }
    let unsynced = world.now().clone();
    world.store = None;
    // Twice in frames alone: with all marks of a segment gone too, nothing tells its lost frames from those that were never synced.
    let frames_alone = match world.rng.chance(2) {
        true => harm(&mut world, true) & harm(&mut world, true),
        false => harm(&mut world, false),
    };
    let (found, first) = open(&mut world);
    existed(&world, &first);
    let until = match found.abstain {
        Abstain::No => {
            assert!(
                same(&first, &whole) || same(&first, &unsynced),
                "something is missing and nobody says so:\n{first:?}\n{whole:?}"
            );
            world.saw("harmless");
            return world.seen;
        }
        Abstain::Always => {
            world.saw("the vote may be lost");
            // It is not forgotten, whatever is written.
            if world.rng.chance(2) {
                refetch(&mut world, &whole, &first, false);
            }
            world.media.kill();
            world.store = None;
            let (found, _) = open(&mut world);
            assert_eq!(found.abstain, Abstain::Always);
            return world.seen;
        }
        Abstain::Until(index) => index,
    };
    world.saw("entries lost");
    assert!(
        first.hard == whole.hard || first.hard == unsynced.hard,
        "{:?} instead of {:?}",
        first.hard,
        whole.hard
    );
    // Acknowledged was what was synced, unless what came after superseded it.
    let acknowledged = whole.last().index.min(unsynced.last().index);
    assert!(until >= acknowledged, "{until} and {acknowledged}");
    // A leader whose log reaches further, as this node may have acknowledged more than the model's.
    let mut whole = whole;
    whole.hard = first.hard;
    if unsynced.last().index > whole.last().index || until > whole.last().index {
        let mut entries = whole.entries.clone();
        for index in whole.last().index.0 + 1..=until.0 {
            let term = whole.hard.term.max(whole.last().term);
            let entry = Entry {
                id: esker_raft::core::LogId {
                    term: esker_raft::core::Term(term.0 + 1),
                    index: Index(index),
                },
                kind: esker_raft::core::EntryKind::Noop,
            };
            entries.insert(index, entry);
        }
        whole.entries = entries;
    }
    let mut found = first;
    if world.rng.chance(2) {
        refetch(&mut world, &whole, &found, true);
        world.media.kill();
        world.store = None;
        let (again, content) = open(&mut world);
        if content.last().index < until {
            assert_eq!(again.abstain, Abstain::Until(until), "forgotten");
            world.saw("still lost after a restart");
        }
        found = content;
    }
    refetch(&mut world, &whole, &found, false);
    let closed = world.rng.chance(2);
    if closed {
        world.store().close().unwrap();
    } else {
        let seed = world.rng.next_u64();
        world.media.power_cut(seed);
    }
    world.store = None;
    if frames_alone {
        assert_whole(&world);
    }
    let (again, last) = open(&mut world);
    assert_eq!(again.abstain, Abstain::No);
    assert_eq!(last.hard, whole.hard);
    assert_eq!(last.last(), whole.last());
    // It may hold more of the beginning than the leader does.
    for (index, entry) in last.entries.range(whole.base.last.index.0 + 1..) {
        assert_eq!(Some(entry), whole.entries.get(index));
    }
    world.saw("healed");
    world.seen
}
