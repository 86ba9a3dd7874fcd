//! The state machine on `esker-lsm` (SM1-SM4, L3, C4).
//!
//! `ESKER_SEEDS=500 cargo test -p esker-raft --features lsm --test lsm_machine`; `ESKER_SEED=17` replays one.
#![cfg(feature = "lsm")]
#![allow(clippy::print_stderr, reason = "tests tell what they did")]
#![allow(unreachable_pub, reason = "modules of one test")]

mod cluster;
mod killed;
#[path = "../support/nodes.rs"]
mod nodes;
#[path = "../support/seeds.rs"]
mod seeds;
mod staging;
mod world;

use bytes::Bytes;
use esker_lsm::{Condition, WriteBatch};
use esker_raft::core::{Index, Term};
use esker_raft::machine::{
    Application, BatchAnswer, Batches, LsmMachine, StateReader, encode_batch,
};
use esker_raft::runtime::{Command, StateMachine};
use esker_raft::transport::SnapshotFile;
use esker_wal::Workers;
use esker_wal::media::sim::{CallKind, SimMedia};
use seeds::all;
use std::path::Path;
use world::{App, DIR, ID, Map, Todo, World, arrive, content, meta, options, transfer};

#[test]
fn after_a_crash_the_state_is_as_of_a_commit_and_commands_take_effect_once() {
    let paths = [
        "applied again",
        "cut while opening",
        "killed at a call",
        "power cut at a call",
        "snapshot",
    ];
    all(60, world::run, &paths);
}

#[test]
fn a_snapshot_arrives_whole_over_any_link_and_is_installed_at_once_or_not_at_all() {
    let paths = [
        "a file was resumed",
        "a file was there already",
        "a spoiled file was noticed",
        "a sync failed",
        "killed on the way",
        "power cut on the way",
        "power cut while installing",
        "the link was cut",
    ];
    all(40, world::run_transfers, &paths);
}

/// A crash after each step of installing a snapshot.
#[test]
fn a_power_cut_at_any_call_of_an_installation_leaves_the_old_state_or_the_new() {
    let all: Vec<bool> = (1..).map_while(world::cut_installation).collect();
    eprintln!("{} calls", all.len());
    assert!(all.contains(&true) && all.contains(&false), "{all:?}");
}

#[cfg(feature = "sabotage")]
#[test]
fn broken_builds_are_each_caught_within_200_seeds() {
    seeds::catch(esker_raft::sabotage::MACHINE, 200, |seed| {
        world::run(seed);
        world::run_transfers(seed);
    });
}

#[test]
fn files_that_the_receiver_has_are_not_sent_again() {
    let (mut from, mut to) = (World::new(1), World::new(2));
    (from.quiet, to.quiet) = (true, true);
    from.try_open().unwrap();
    to.try_open().unwrap();
    from.propose(400);
    from.catch_up();
    let first = transfer(&mut from, &mut to, false);
    assert_eq!(first.bytes, first.all);
    from.propose(10);
    from.catch_up();
    let second = transfer(&mut from, &mut to, false);
    assert!(to.seen.contains_key("a file was there already"));
    assert!(
        second.bytes < second.all,
        "{} of {} bytes",
        second.bytes,
        second.all
    );
}

#[test]
fn a_snapshot_stays_as_it_was_and_is_removed_when_nobody_needs_it() {
    let mut world = World::new(1);
    world.try_open().unwrap();
    world.propose(200);
    world.catch_up();
    let mut one = world.snapshot().unwrap();
    let files = one.files();
    world.propose(200);
    world.catch_up();
    let two = world.snapshot().unwrap();
    world.machine().store().compact_all().unwrap();
    for (at, file) in files.iter().enumerate() {
        let mut bytes = vec![0; file.len as usize];
        one.read(at, 0, &mut bytes).unwrap();
        let hash = xxhash(&bytes);
        assert_eq!(hash, file.check, "{}", file.name);
    }
    let left = |world: &World| {
        let of = |p: &std::path::PathBuf| p.to_string_lossy().contains("snapshot-");
        world.media.image().into_keys().filter(of).count()
    };
    assert!(left(&world) > 0);
    drop((one, two));
    assert_eq!(left(&world), 0);
}

fn xxhash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// E2: names come from a peer.
#[test]
fn a_snapshot_with_files_of_other_names_is_refused() {
    let mut world = World::new(1);
    world.try_open().unwrap();
    let staging = world.machine().staging();
    let file = |name: &str| SnapshotFile {
        name: name.to_owned(),
        len: 10,
        check: 1,
    };
    let before = world.media.image();
    for name in [
        "../STORE",
        "LOCK",
        "",
        "0123.tbl",
        "MANIFEST-",
        "a/0000000000000001.tbl",
    ] {
        assert!(staging.begin(&[file(name)], &|| true).is_err(), "{name:?}");
    }
    let twice = [file("CURRENT"), file("CURRENT")];
    assert!(staging.begin(&twice, &|| true).is_err());
    assert!(world.media.image() == before);
    // More than a file has is refused, too.
    let mut arriving = staging.begin(&[file("CURRENT")], &|| true).unwrap();
    assert!(arriving.write(0, &[0; 11], &|| true).is_err());
    assert!(arriving.write(1, &[0; 1], &|| true).is_err());
    assert!(arriving.finish(&|| true).is_err());
    let refused = world.machine().install(arriving, &meta(1));
    assert!(refused.is_err(), "not whole");
    assert_eq!(world.judge(), 0);
}

/// SN1: the other side gives up where it hears nothing for long; the next attempt goes on where this one was, or none ever ends.
#[test]
fn what_an_attempt_has_hashed_the_next_does_not_hash_again() {
    let (mut from, mut to) = (World::new(1), World::new(2));
    (from.quiet, to.quiet) = (true, true);
    from.try_open().unwrap();
    to.try_open().unwrap();
    from.propose(400);
    from.catch_up();
    transfer(&mut from, &mut to, false);
    from.propose(10);
    from.catch_up();
    let files = from.snapshot().unwrap().files();
    let staging = to.machine().staging();
    let begin = || {
        to.media.start_trace();
        let arriving = staging.begin(&files, &|| true).unwrap();
        let held: u64 = (0..files.len()).map(|file| arriving.held(file)).sum();
        let mut reads = to.media.trace();
        reads
            .retain(|c| c.kind == CallKind::Read && c.path.extension().is_some_and(|e| e == "tbl"));
        (arriving, held, reads)
    };
    let (first, held, hashed) = begin();
    let bytes: u64 = hashed.iter().map(|c| c.len).sum();
    assert!(held > 0 && bytes >= held, "{bytes} of {held} bytes");
    drop(first);
    let (mut second, again, reads) = begin();
    assert_eq!((again, reads), (held, Vec::new()));
    // SN2: one that is not what it was any more is hashed again, and not taken.
    to.media.flip(&hashed[0].path, 100, 1).unwrap();
    assert!(second.finish(&|| true).is_err());
    drop(second);
    let (_, left, reads) = begin();
    assert!(left < held && !reads.is_empty(), "{left} of {held} bytes");
}

/// SN1: names of tables are a store's own. What is hashed of one that was replaced says nothing of the next.
#[test]
fn a_hash_of_the_store_before_is_not_taken_for_one_of_the_store_that_replaced_it() {
    let (mut from, mut to) = (World::new(1), World::new(2));
    for (world, n) in [(&mut from, 100), (&mut to, 50)] {
        world.try_open().unwrap();
        world.propose(n);
        world.catch_up();
    }
    let mut source = from.snapshot().unwrap();
    let old = to.snapshot().unwrap();
    let arrived = arrive(&mut to, &mut *source);
    to.machine().install(arrived, &meta(100)).unwrap();
    let old = old.files();
    let mut new = to.snapshot().unwrap();
    let files = new.files();
    let both = |f: &&SnapshotFile| f.name.ends_with(".tbl") && old.iter().any(|o| o.name == f.name);
    assert!(files.iter().any(|f| both(&f)), "{old:?} {files:?}");
    for (at, file) in files.iter().enumerate() {
        let mut bytes = vec![0; file.len as usize];
        new.read(at, 0, &mut bytes).unwrap();
        assert_eq!(xxhash(&bytes), file.check, "{}", file.name);
    }
}

/// SN5: another leader may offer one before the first is installed; what has arrived must not go from under the installation.
#[test]
fn a_snapshot_that_waits_to_be_installed_is_not_cleared_for_the_next() {
    let (mut from, mut to) = (World::new(1), World::new(2));
    from.try_open().unwrap();
    to.try_open().unwrap();
    from.propose(100);
    from.catch_up();
    let mut source = from.snapshot().unwrap();
    let arrived = arrive(&mut to, &mut *source);
    let staging = to.machine().staging();
    let error = staging.begin(&source.files(), &|| true).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
    to.machine().install(arrived, &meta(100)).unwrap();
    assert_eq!(content(&to.machine().reader()).unwrap(), from.state(100));
    assert!(staging.begin(&source.files(), &|| true).is_ok());
    // One that nobody installs gives its place up.
    assert!(staging.begin(&source.files(), &|| true).is_ok());
}

#[test]
fn readers_follow_when_a_snapshot_is_installed_and_old_views_end_with_an_error() {
    let (mut from, mut to) = (World::new(1), World::new(2));
    from.try_open().unwrap();
    to.try_open().unwrap();
    from.propose(100);
    from.catch_up();
    let reader = to.machine().reader();
    let old = reader.snapshot();
    assert_eq!(reader.applied(), Index(0));
    let places = |reader: &StateReader| {
        let snapshot = reader.snapshot();
        let all: Vec<_> = snapshot
            .scan(b"", None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let place = |(key, _): &(Bytes, Bytes)| snapshot.written(key).unwrap().unwrap();
        all.iter().map(place).collect::<Vec<_>>()
    };
    let sent = places(&from.machine().reader());
    transfer(&mut from, &mut to, false);
    assert_eq!(reader.applied(), Index(100));
    assert_eq!(content(&reader).unwrap(), to.state(100));
    // LM1: so do the entries that wrote what is there.
    let written = places(&reader);
    assert_eq!(written, sent);
    assert!(!written.is_empty() && written.iter().all(|index| (1..=100).contains(&index.0)));
    assert!(old.get(b"k01").is_err());
}

#[test]
fn a_command_sees_what_the_ones_before_it_did_and_readers_do_not_before_the_commit() {
    let media = SimMedia::new(1);
    let mut machine = open(&media, Batches);
    let reader = machine.reader();
    let mut batch = WriteBatch::new();
    batch.put(b"token", b"7");
    batch.put(b"a", b"1");
    assert_eq!(apply(&mut machine, 1, &[], &batch), BatchAnswer::Written);
    assert_eq!(reader.get(b"a").unwrap(), None);
    // A fencing token: only the current one's holder writes.
    let token = |expected| Condition {
        key: b"token",
        expected,
    };
    batch.clear();
    batch.delete_range(b"a", std::ops::Bound::Unbounded);
    batch.put(b"token", b"8");
    let refused = BatchAnswer::Refused {
        condition: 0,
        found: Some(Bytes::from_static(b"7")),
    };
    assert_eq!(
        apply(&mut machine, 2, &[token(Some(b"6"))], &batch),
        refused
    );
    let written = apply(&mut machine, 3, &[token(Some(b"7"))], &batch);
    assert_eq!(written, BatchAnswer::Written);
    let refused = BatchAnswer::Refused {
        condition: 0,
        found: Some(Bytes::from_static(b"8")),
    };
    assert_eq!(apply(&mut machine, 4, &[token(None)], &batch), refused);
    machine.commit(Index(4), Vec::new()).unwrap();
    assert_eq!(reader.get(b"a").unwrap(), None);
    assert_eq!(reader.get(b"token").unwrap().unwrap(), "8");
    assert_eq!(reader.applied(), Index(4));
    // SM4: what is no command is answered, and the machine goes on.
    for payload in [
        &b""[..],
        b"\x02",
        b"\x01\xff\xff\xff\xff",
        b"\x01\0\0\0\0\x07",
    ] {
        let answer = run(&mut machine, 5, Bytes::from_static(payload));
        assert!(matches!(answer, BatchAnswer::NoCommand(_)), "{answer:?}");
    }
    machine.commit(Index(5), Vec::new()).unwrap();
    assert_eq!(reader.get(b"token").unwrap().unwrap(), "8");
}

/// Short commands that write large values: what a commit will write counts, not what the commands were.
#[test]
fn the_machine_says_how_much_its_next_commit_writes() {
    struct Doubling;
    impl Application for Doubling {
        fn apply(
            &mut self,
            command: Command,
            state: &mut esker_raft::machine::Effects<'_>,
        ) -> Result<Bytes, esker_raft::runtime::MachineError> {
            let value = state.get(&command.payload)?.unwrap_or_default();
            let value = [&value[..], &[0; 1000], &value[..]].concat();
            state.put_owned(&command.payload, value.into());
            Ok(Bytes::new())
        }
    }
    let mut machine = open(&SimMedia::new(1), Doubling);
    assert_eq!(machine.pending_bytes(), 0);
    let (mut value, mut sum) = (0, 0);
    for index in 1..=12 {
        (value, sum) = (2 * value + 1000, sum + 2 * value + 1000);
        let command = Command {
            index: Index(index),
            term: Term(1),
            time: 0,
            payload: Bytes::from_static(b"k"),
        };
        machine.apply(command).unwrap();
        let beside = machine.pending_bytes() - sum;
        assert!((1..20 * index as usize).contains(&beside), "{beside} bytes");
    }
    machine.commit(Index(12), Vec::new()).unwrap();
    assert_eq!(machine.pending_bytes(), 0);
}

/// The same on files of the operating system.
#[test]
fn a_node_s_log_and_state_live_in_real_files() {
    use esker_raft::core::{Entry, EntryKind, NodeId, Write};
    use esker_raft::log::{Identity, LogStore, WalLog, WalLogOptions};
    let dir = tempfile::tempdir().unwrap();
    let who = Identity {
        cluster: 1,
        group: 1,
        node: NodeId(1),
    };
    let entries: Vec<_> = (1..=20)
        .map(|n| Entry {
            id: meta(n).last,
            kind: EntryKind::Command(Todo::Count(format!("n{}", n % 3)).encode()),
        })
        .collect();
    let mut wal = WalLogOptions::default();
    wal.log.segment_bytes = 1 << 20;
    let (mut log, found) = WalLog::open(&dir.path().join("log"), who, wal.clone()).unwrap();
    assert!(found.empty);
    log.write(&[Write::Append(entries.clone())]).unwrap();
    log.sync().unwrap();
    log.close().unwrap();
    let (log, found) = WalLog::open(&dir.path().join("log"), who, wal).unwrap();
    assert_eq!(found.log.last(), meta(20).last);
    let found = log.reader().entries(Index(1), Index(20), 1 << 20).unwrap();
    assert_eq!(found, entries);

    let state = |name: &str| {
        let options = esker_lsm::StoreOptions::default();
        LsmMachine::open(&dir.path().join(name), ID, options, App).unwrap()
    };
    let mut one = state("one");
    let mut model = Map::new();
    for entry in &found {
        let index = entry.id.index;
        let EntryKind::Command(payload) = entry.kind.clone() else {
            unreachable!("as written");
        };
        let command = Command {
            index,
            term: Term(1),
            time: 0,
            payload,
        };
        one.apply(command).unwrap();
        one.commit(index, Vec::new()).unwrap();
        Todo::Count(format!("n{}", index.0 % 3)).apply(&mut model);
    }
    let mut two = state("two");
    let mut source = one.snapshot().unwrap();
    source.prepare(b"a").unwrap();
    source.look_through(&|| true).unwrap();
    let files = source.files();
    let mut arriving = two.staging().begin(&files, &|| true).unwrap();
    for (at, file) in files.iter().enumerate() {
        let mut bytes = vec![0; file.len as usize];
        source.read(at, 0, &mut bytes).unwrap();
        arriving.write(at, &bytes, &|| true).unwrap();
    }
    arriving.finish(&|| true).unwrap();
    two.install(arriving, &meta(20)).unwrap();
    assert_eq!(content(&two.reader()).unwrap(), model);
    two.close().unwrap();
    drop(two);
    let two = state("two");
    assert_eq!(
        (two.durable(), content(&two.reader()).unwrap()),
        (Index(20), model)
    );
}

fn open<A: Application>(media: &SimMedia, app: A) -> LsmMachine<A> {
    LsmMachine::open(Path::new(DIR), ID, options(media, Workers::Stepped), app).unwrap()
}

fn run<A: Application>(machine: &mut LsmMachine<A>, index: u64, payload: Bytes) -> BatchAnswer {
    let command = Command {
        index: Index(index),
        term: Term(1),
        time: 0,
        payload,
    };
    BatchAnswer::decode(machine.apply(command).unwrap()).unwrap()
}

fn apply<A: Application>(
    machine: &mut LsmMachine<A>,
    index: u64,
    conditions: &[Condition<'_>],
    batch: &WriteBatch,
) -> BatchAnswer {
    run(machine, index, encode_batch(conditions, batch))
}
