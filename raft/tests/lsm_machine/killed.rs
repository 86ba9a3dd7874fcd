//! A process is killed, or a sync of it fails; the next one finds what it left in the page cache, builds on it, and then the power goes (LM4, SN6).

use super::world::{Map, World, arrive, content, meta};
use esker_raft::runtime::{SnapshotSource, StateMachine};
use esker_wal::media::sim::{CallKind, Fault, SimMedia};

const SEEDS: u64 = 8;

fn found(world: &mut World) -> Map {
    content(&world.machine().reader()).expect("readable")
}

/// A world over `media`, opened.
fn on(media: SimMedia) -> World {
    let mut world = World::new(7);
    world.media = media;
    world.try_open().expect("opens");
    world
}

/// One with so many commands, and its snapshot.
pub fn sender(commands: u64) -> (World, Box<dyn SnapshotSource>) {
    let mut from = World::new(1);
    from.try_open().unwrap();
    from.propose(commands);
    from.catch_up();
    let source = from.snapshot().unwrap();
    (from, source)
}

/// One with 30 commands in tables.
pub fn receiver() -> World {
    let mut to = World::new(2);
    to.try_open().unwrap();
    to.propose(30);
    to.catch_up();
    to.machine().store().flush().unwrap();
    to
}

/// `STORE` named the new store in the page cache alone; the old one went for the next snapshot, and then `STORE` named the old one.
#[test]
fn lm4_the_state_that_an_open_found_is_the_state_after_the_power() {
    let (from, mut source) = sender(60);
    let files = source.files();
    let mut installed = 0;
    for at in 1.. {
        let mut to = receiver();
        let arriving = arrive(&mut to, &mut *source);
        to.media.cut_at_call(at);
        let _ = to.machine().install(arriving, &meta(60));
        if !to.media.is_down() {
            break;
        }
        to.media.kill();
        for seed in 0..SEEDS {
            let mut next = on(to.media.fork(seed));
            let (state, durable) = (found(&mut next), next.machine().durable());
            installed += u32::from(state == from.state(60));
            // Another snapshot begins to gather where the other store was.
            let begun = next
                .machine()
                .staging()
                .begin(&files[..1], &|| true)
                .unwrap();
            next.media.power_cut(seed);
            drop(begun);
            let how = format!("killed at call {at}, seed {seed}");
            next.machine = None;
            if let Err(error) = next.try_open() {
                panic!("{how}: {error}");
            }
            assert!(found(&mut next) == state, "{how}: not the state of before");
            assert!(next.machine().durable() >= durable, "{how}");
        }
    }
    assert!(installed > 0, "the new state was never found");
}

/// `STORE` could not be synced: which of the two it names was not known, and the next snapshot gathered in the one that it named.
#[test]
fn lm4_nothing_gathers_while_it_is_not_known_which_store_is_the_state() {
    let (from, mut source) = sender(60);
    let files = source.files();
    let mut doubtful = 0;
    for nth in 1.. {
        let mut to = receiver();
        let arriving = arrive(&mut to, &mut *source);
        to.media.fail(Fault::nth(nth).of(CallKind::SyncDir));
        if to.machine().install(arriving, &meta(60)).is_ok() {
            break;
        }
        to.media.heal();
        let begun = to.machine().staging().begin(&files[..1], &|| true);
        doubtful += u32::from(begun.is_err());
        drop(begun);
        to.media.kill();
        to.machine = None;
        to.try_open().expect("opens");
        let state = found(&mut to);
        assert!(
            state == to.state(30) || state == from.state(60),
            "sync {nth}"
        );
    }
    assert!(doubtful > 0, "{doubtful}");
}

/// The sync of a table that had arrived failed, and the second succeeded without writing it: the page cache was right, the disk was not. By the same process, and by
/// the next, whose attempt found the file whole.
#[test]
fn sn6_what_a_failed_sync_left_in_the_page_cache_is_written_again() {
    let (from, mut source) = sender(400);
    let files = source.files();
    let mut failed = 0;
    for killed in [false, true] {
        for nth in 1.. {
            let mut to = receiver();
            let begun = to.machine().staging().begin(&files, &|| true);
            let mut arriving = begun.unwrap();
            to.media
                .fail(Fault::nth(nth).of(CallKind::SyncFile).on("tables"));
            if killed {
                // Nor can it be removed.
                let remove = Fault::nth(1).of(CallKind::Remove).on("tables");
                to.media.fail(remove.times(u64::MAX));
            }
            let mut through = true;
            for (at, file) in files.iter().enumerate() {
                let mut bytes = vec![0; file.len as usize];
                source.read(at, 0, &mut bytes).unwrap();
                if arriving.held(at) < file.len && arriving.write(at, &bytes, &|| true).is_err() {
                    through = false;
                    break;
                }
            }
            if through {
                break;
            }
            failed += 1;
            to.media.heal();
            drop(arriving);
            if killed {
                to.media.kill();
                to.machine = None;
                to.try_open().expect("opens");
            }
            let arriving = arrive(&mut to, &mut *source);
            to.machine().install(arriving, &meta(400)).unwrap();
            for seed in 0..2 {
                let media = to.media.fork(seed);
                media.power_cut(seed);
                let state = found(&mut on(media));
                assert!(
                    state == from.state(400),
                    "killed {killed}, sync {nth}, seed {seed}"
                );
            }
        }
    }
    assert!(failed > 8, "{failed}");
}
