//! W10, E1: a closed log leaves no thread, descriptor, mapping or temporary file behind.
//!
//! Alone in its process, so that no other test's threads are counted.

use esker_wal::*;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn names_of_threads() -> Vec<String> {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("esker-"))
        .collect()
}

fn descriptors(dir: &Path) -> usize {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|target| target.starts_with(dir))
        .count()
}

fn mappings(dir: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| line.contains(dir.to_str().unwrap()))
        .count()
}

#[test]
fn a_closed_log_leaves_no_thread_descriptor_mapping_or_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    for round in 0..3 {
        let options = LogOptions {
            create: Some(Create {
                log: LogId(1),
                node: NodeId(2),
                base: Lsn::ZERO,
            }),
            segment_bytes: 16 << 10,
            ..LogOptions::default()
        };
        let (log, _) = Log::open(&path, options).unwrap();
        for _ in 0..300 {
            let appended = log.append(&[&[1; 200]]).unwrap();
            log.sync_up_to(appended.end).unwrap();
        }
        log.release(log.synced());
        let mut reader = log.reader(log.oldest(), ReadLimit::Published).unwrap();
        reader.next().unwrap().unwrap();
        drop(reader);
        // A thread names itself, when it gets a core.
        let patience = Instant::now() + Duration::from_secs(60);
        while names_of_threads().len() < 3 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(names_of_threads().len(), 3, "{:?}", names_of_threads());
        assert!(descriptors(&path) > 0 && mappings(&path) > 0);
        match round {
            // Dropped, closed, or closed with the handle still there.
            0 => drop(log),
            1 => log.close().unwrap(),
            _ => {
                log.close().unwrap();
                assert_eq!((descriptors(&path), mappings(&path)), (0, 0));
                drop(log);
            }
        }
        assert_eq!(names_of_threads(), Vec::<String>::new());
        assert_eq!((descriptors(&path), mappings(&path)), (0, 0));
        for entry in fs::read_dir(&path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.ends_with(".tmp"), "{name}");
        }
    }
}
