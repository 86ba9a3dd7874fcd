//! Files of a snapshot on their way in: what is looked through ends when it is told to, and what can't be read is fetched again.

use super::killed::{receiver, sender};
use super::world::{World, arrive, meta, transfer};
use esker_raft::runtime::StateMachine;
use esker_wal::media::sim::{CallKind, Fault};
use std::cell::Cell;

/// The node ends. Nothing that is there is lost by that.
#[test]
fn sn9_looking_through_files_ends_when_it_is_told_to() {
    let (mut from, mut to) = (World::new(1), World::new(2));
    (from.quiet, to.quiet) = (true, true);
    from.try_open().unwrap();
    to.try_open().unwrap();
    from.propose(400);
    from.catch_up();
    transfer(&mut from, &mut to, false);
    from.propose(10);
    from.catch_up();
    let mut source = from.snapshot().unwrap();
    let files = source.files();
    let staging = to.machine().staging();
    let asked = Cell::new(0);
    let only = |times: u32| {
        asked.set(0);
        let asked = &asked;
        move || {
            asked.set(asked.get() + 1);
            asked.get() <= times
        }
    };
    let mut ended = 0;
    let mut arriving = loop {
        match staging.begin(&files, &only(ended)) {
            Ok(arriving) => break arriving,
            Err(error) => assert!(error.to_string().contains("stopped"), "{error}"),
        }
        ended += 1;
    };
    assert!(ended > 0, "it asks nobody whether to go on");
    for (at, file) in files.iter().enumerate() {
        let held = arriving.held(at);
        let mut bytes = vec![0; (file.len - held) as usize];
        source.read(at, held, &mut bytes).unwrap();
        if !bytes.is_empty() {
            arriving.write(at, &bytes, &|| true).unwrap();
        }
    }
    let held: Vec<u64> = (0..files.len()).map(|at| arriving.held(at)).collect();
    ended = 0;
    while let Err(error) = arriving.finish(&only(ended)) {
        assert!(error.to_string().contains("stopped"), "{error}");
        let now: Vec<u64> = (0..files.len()).map(|at| arriving.held(at)).collect();
        assert_eq!(now, held, "what is right was dropped");
        ended += 1;
    }
    assert!(ended > 0, "it asks nobody whether to go on");
    to.machine().install(arriving, &meta(410)).unwrap();
}

/// A sector of it is gone: written again, it goes to another.
#[test]
fn sn2_what_arrived_and_cannot_be_read_is_fetched_again() {
    let (_, mut source) = sender(400);
    let mut to = receiver();
    let files = source.files();
    let table = files.iter().position(|f| f.name.ends_with(".tbl"));
    let table = table.expect("a table");
    let begun = to.machine().staging().begin(&files, &|| true);
    let mut arriving = begun.unwrap();
    let mut bytes = vec![0; files[table].len as usize];
    source.read(table, 0, &mut bytes).unwrap();
    let read = Fault::nth(1).of(CallKind::Read).on(&files[table].name);
    to.media.fail(read.times(u64::MAX));
    assert!(arriving.write(table, &bytes, &|| true).is_err());
    drop(arriving);
    to.media.heal();
    let begun = to.machine().staging().begin(&files, &|| true);
    assert_eq!(begun.unwrap().held(table), 0);
    let arriving = arrive(&mut to, &mut *source);
    to.machine().install(arriving, &meta(400)).unwrap();
}
