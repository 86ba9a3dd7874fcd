//! What a lookup and a write cost, on one thread: keys in the memtable, in tables, and nowhere.
//!
//! `cargo run --release -p esker-lsm --example lookup_cost [keys]`
#![allow(clippy::print_stdout, reason = "a program that prints")]

use esker_lsm::{Store, StoreOptions, WriteBatch};
use esker_wal::{Create, LogId, Lsn, NodeId};
use std::hint::black_box;

/// CPU time of this thread in nanoseconds: what is measured holds on a busy machine too, nearly.
fn cpu_nanos() -> u128 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys: u64 = std::env::args().nth(1).map_or(Ok(200_000), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let mut options = StoreOptions {
        memtable_bytes: 1 << 30,
        ..StoreOptions::default()
    };
    options.log.create = Some(Create {
        log: LogId::random(),
        node: NodeId::random(),
        base: Lsn::ZERO,
    });
    let (store, _) = Store::open(dir.path(), options)?;
    let value = vec![b'v'; 100];
    let shuffled = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
    let mut batch = WriteBatch::new();
    let run = |name: &str, f: &mut dyn FnMut(u64)| {
        let begin = cpu_nanos();
        for i in 0..keys {
            f(i);
        }
        let each = (cpu_nanos() - begin) / u128::from(keys);
        println!("{name:28} {each:6} ns");
    };
    let key = |i: u64| format!("key:{:012}", shuffled(i));
    run("formatting the key", &mut |i| {
        black_box(key(i));
    });
    run("write, new keys", &mut |i| {
        batch.clear();
        batch.put(key(i).as_bytes(), &value);
        store.write(&batch).expect("room");
    });
    run("get, memtable", &mut |i| {
        black_box(
            store
                .get(key(i.wrapping_mul(7)).as_bytes())
                .expect("readable"),
        );
    });
    run("get, absent, memtable", &mut |i| {
        black_box(
            store
                .get(format!("yek:{i:012}").as_bytes())
                .expect("readable"),
        );
    });
    store.flush()?;
    run("get, one table, first time", &mut |i| {
        black_box(
            store
                .get(key(i.wrapping_mul(7)).as_bytes())
                .expect("readable"),
        );
    });
    run("get, one table, cached", &mut |i| {
        black_box(
            store
                .get(key(i.wrapping_mul(7)).as_bytes())
                .expect("readable"),
        );
    });
    run("get, absent, one table", &mut |i| {
        black_box(
            store
                .get(format!("key:{:012}x", shuffled(i)).as_bytes())
                .expect("readable"),
        );
    });
    let snapshot = store.snapshot();
    let begin = cpu_nanos();
    let n = store
        .scan(
            &snapshot,
            std::ops::Bound::Unbounded,
            std::ops::Bound::Unbounded,
        )?
        .count();
    println!(
        "scan, per entry              {:6} ns",
        (cpu_nanos() - begin) / n as u128
    );
    println!("{:?}", store.stats());
    store.close()?;
    Ok(())
}
